"""How cost grows: with agents, network width, seeds and environments.

    python benchmarks/scale.py              all of it, some minutes
    python benchmarks/scale.py --short      two sizes of each
    python benchmarks/scale.py --axes seeds agents

    agents   one update on random data: observations of 80, a state of 120, 9 actions, 32
             sequences of 32 slots; per agent
    width    the same with 5 agents; per GFLOP, which grow with the square
    seeds    training on smax/3m, a small replay, a step of every seed; per seed
    envs     a rollout of 32 slots on smax/3m with its policy; per environment step

``unit_us`` is microseconds per unit, and ``against_first`` its ratio to the axis' smallest size:
1 is linear growth, below 1 is better.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from common import Limits, Training, configure, median, report, seconds, update_gflop

from qtot.config import TrainConfig
from qtot.envs.spec import EnvSpec
from qtot.training.ingraph import make_learner
from qtot.types import Batch, SequenceStart, Slots


def invented(agents: int) -> EnvSpec:
    """A task of any size."""
    return EnvSpec(
        name="invented",
        agents=tuple(f"agent_{i}" for i in range(agents)),
        n_actions=(9,) * agents,
        obs_sizes=(80,) * agents,
        state_size=120,
        episode_limit=100,
    )


def random_batch(spec: EnvSpec, config: TrainConfig) -> Batch:
    """Sequences without an episode's end, every action legal."""
    slots, batch, n = config.replay.length + 1, config.replay.batch, spec.n_agents
    obs_key, state_key, key = jax.random.split(jax.random.key(0), 3)
    shape = (slots, batch)
    no, action = jnp.zeros(shape, bool), jax.random.randint(key, (*shape, n), 0, 9).astype(jnp.int8)
    return Batch(
        Slots(
            obs=jax.random.normal(obs_key, (*shape, n, spec.obs_size)),
            state=jax.random.normal(state_key, (*shape, spec.state_size)),
            avail_actions=jnp.ones((*shape, n, spec.max_actions), bool),
            alive=jnp.ones((*shape, n), bool),
            action=action,
            reward=jax.random.normal(key, shape),
            terminated=no,
            first=no,
            valid=no.at[:-1].set(True),
        ),
        SequenceStart(jnp.zeros((batch, n, config.agent.hidden)), action[0]),
    )


def update_s(spec: EnvSpec, config: TrainConfig) -> float:
    """Seconds of one update on data at hand."""
    learner = make_learner(spec, config)
    train, batch = jax.jit(learner.init)(jax.random.key(0)), random_batch(spec, config)
    update = jax.jit(learner.update)
    return median(seconds(lambda: update(train, batch), 5))


def of_agents(n: int) -> tuple[float, float, str]:
    """Seconds, units, and what a unit is."""
    return update_s(invented(n), configure("smax/3m", data="replay")), n, "agent"


def of_width(width: int) -> tuple[float, float, str]:
    """GFLOP as ``common`` counts them."""
    spec = invented(5)
    config = configure("smax/3m", data="replay", agent={"encoder": (width,), "hidden": width})
    return update_s(spec, config), update_gflop(spec, config), "GFLOP"


def of_seeds(n: int) -> tuple[float, float, str]:
    """Steps of every seed, its learning included."""
    config = configure("smax/3m", seeds=n, steps=2**20)
    training = Training(config)
    training.compile()
    training.fill()
    steps = max(1_000, 8_000 // n)
    pieces = [training.run(steps) for _ in range(3)]
    return median(p.seconds / p.steps for p in pieces) * n, n, "step of a seed"


def of_envs(n: int) -> tuple[float, float, str]:
    """A rollout of all environments; episode ends count as steps."""
    training = Training(configure("smax/3m", collect={"envs": n}, online={"minibatches": 1}))
    return median(seconds(training.part("collect"), 3)), 32 * n, "environment step"


AXES: dict[str, tuple[Callable[[int], tuple[float, float, str]], Sequence[int], Sequence[int]]] = {
    "agents": (of_agents, (3, 9, 27, 100), (3, 27)),
    "width": (of_width, (64, 128, 256, 512), (64, 256)),
    "seeds": (of_seeds, (1, 8, 64), (1, 8)),
    "envs": (of_envs, (1, 16, 256, 4096), (16, 1024)),
}


def measure(axis: str, short: bool) -> list[dict[str, Any]]:
    """One axis."""
    cost, sizes, few = AXES[axis]
    rows: list[dict[str, Any]] = []
    for size in few if short else sizes:
        spent, units, unit = cost(size)
        row = {"axis": axis, "size": size, "ms": 1e3 * spent, "unit": unit}
        row["unit_us"] = 1e6 * spent / units
        row["against_first"] = row["unit_us"] / (rows[0] if rows else row)["unit_us"]
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two sizes of each")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    args = parser.parse_args()
    rows = [row for axis in args.axes for row in measure(axis, args.short)]
    report("scale", rows, Limits.measure())


if __name__ == "__main__":
    main()

"""Small training programs for tests."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.core.masks import pick
from qtot.core.methods import METHODS
from qtot.core.mixers.base import MixerInputs
from qtot.envs import make_env
from qtot.training.ingraph import Program
from qtot.training.state import RunState

# Everything that a run can keep: memories, moments, a replay that is written over.
BUSY: dict[str, Any] = {
    "agent": {"memory": "gru", "hidden": 8, "encoder": (8,)},
    "collect": {"envs": 16, "update_ratio": 1 / 16},
    "replay": {"length": 4, "batch": 8, "warmup": 16, "capacity": 64},
    "scaling": {"normalise_obs": True, "normalise_state": True, "standardise_rewards": True},
    "optimiser": {"lr": 1e-4},
    "exploration": {"start": 0.3, "end": 0.3},
    "critic": {"embed": 8},
}


def small_config(env: str, algo: str = "qmix", **changes: Any) -> TrainConfig:
    """Memoryless agents, random play, gamma .9: what a probe's known values are about."""
    base = TrainConfig(env=env, algo=algo, log_every=500)
    quick: dict[str, Any] = {
        "steps": 6_000,
        "agent": {"encoder": (32,), "hidden": 32, "memory": "none", "prev_action": False},
        "mixer": {"embed": 8, "hypernet_embed": 16},
        "target": {"gamma": 0.9, "interval": 20},
        "optimiser": {"lr": 3e-3, "lr_end": 0.0},
        "exploration": {"start": 1.0, "end": 1.0},
        "replay": {"length": 4, "capacity": 512, "warmup": 16},
        "collect": {"envs": 8, "update_ratio": 1 / 8},
        "evaluation": {"every": 0, "episodes": 32, "final_episodes": 32},
    }
    if METHODS[algo].on_policy:
        quick |= {"data": "online", "online": {"epochs": 1, "minibatches": 1}}
    return nested_replace(nested_replace(base, quick), changes)


def trained(config: TrainConfig) -> tuple[Program, RunState]:
    """The program after all its steps."""
    program = Program.make(make_env(config.env), config)
    state = jax.jit(program.init)(program.config.seed)
    state = jax.jit(program.chunk, donate_argnums=0)(state, jnp.int32(config.steps))
    return program, state


def q_tot_by_state(program: Program, state: RunState, seed: int = 0) -> dict[int, np.ndarray]:
    """Q_tot of random legal joint actions, grouped by the largest entry of the state."""
    train = jax.tree.map(lambda x: x[seed], state.seeds.train)
    # Long enough to see an episode's every position, whatever the rollouts' length.
    collector = program.collector
    limit = collector.env.spec.episode_limit
    collector = collector._replace(slots=max(collector.slots, limit + 1))
    networks, agent, mixer = train.online, train.online.agent, train.online.mixer

    @jax.jit
    def play(key: Any) -> Any:
        actors = collector.init(key, networks)
        _, slots, start, _ = collector.collect(key, actors, networks, train.stats, jnp.ones(()))
        previous = jnp.full_like(slots.action, -1)
        memory = start.memory[..., : agent.memory_size]
        q, hidden, _ = agent.unroll(slots.obs, previous, slots.first, memory)
        q_tot = mixer(
            MixerInputs(
                q_taken=pick(q, slots.action),
                q_greedy=q.max(-1),
                q=q,
                action=slots.action,
                hidden=hidden,
                state=slots.state,
                avail_actions=slots.avail_actions,
                alive=slots.alive,
            )
        )
        return q_tot[..., 0], jnp.argmax(slots.state, axis=-1), slots.valid

    values: dict[int, list[float]] = {}
    for i in range(64 // collector.envs + 1):
        q_tot, where, valid = (np.asarray(x) for x in play(jax.random.key(i)))
        for v, k in zip(q_tot[valid], where[valid], strict=True):
            values.setdefault(int(k), []).append(float(v))
    return {k: np.array(v) for k, v in sorted(values.items())}

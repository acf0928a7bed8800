"""A run's agents on their way out: exported, and asked the same as those of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtot.config import products
from qtot.core.learner import PolicyParams
from qtot.core.masks import masked_argmax
from qtot.deploy import load
from qtot.errors import QtotError
from qtot.evaluation.episodes import FRESH
from qtot.evaluation.teams import TIE, Choice, Seen, Together, greedy_program, margin_of
from qtot.exporting.folder import Exported, Weights, write_folder
from qtot.runs import Run
from qtot.store.params import named


class Inputs(NamedTuple):
    """What R teams are asked at one step."""

    obs: Any
    """float32 ``[R, N, O]``"""
    prev_action: Any
    """int32 ``[R, N]``, -1 for none"""
    avail_actions: Any
    """bool ``[R, N, A]``"""
    memory: Any
    """float32 ``[R, N, K]``"""


class Parity(NamedTuple):
    """Answers of exported networks beside those of training's, to the same inputs."""

    answers: int
    """agents times steps"""
    largest: float
    """difference of a Q-value (or of a memory's), relative to the largest of that answer where it
    is above 1"""
    same: int
    """answers with the same action"""
    ties: int
    """of the others, those where the two best legal values are a tie"""

    def to_dict(self) -> dict[str, Any]:
        """For ``policy.json``."""
        return {
            "answers": self.answers,
            "largest_difference_of_q": self.largest,
            "same_action": self.same,
            "ties": self.ties,
        }


CLOSE = 1e-4
"""networks of float32 that answer further off than sums in another order are not as in training;
with usual sizes they answer within 1e-6"""


def write_agents(
    run: Run,
    out: Path,
    params: PolicyParams,
    *,
    seed: int | None = None,
    weights: Weights = "float32",
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """One seed's agents into the new folder ``out``; ``measure`` looks at them before they are
    there.

    Raises:
        QtotError: it cannot be written, or the network cannot be exported.
    """
    source = _source(run, run.seeds[0] if seed is None else seed)
    for name, array in zip(*named((params.online.agent, params.stats.obs))[:2], strict=True):
        if not np.isfinite(array).all():
            raise QtotError(f"the agents of {run.path} are not finite ({name}): did it diverge?")
    exported = Exported(run.spec, run.learner, params.online.agent, params.stats, source)
    write_folder(out, exported, weights, measure)


def export_run(
    run: Run,
    out: Path,
    *,
    seed: int | None = None,
    weights: Weights = "float32",
    env: Any = None,
    answers: int = 10_000,
) -> Parity:
    """Write one seed's agents, and ask them what they would be asked.

    Args:
        run: whose.
        out: a new folder.
        seed: of the run; None: the first.
        weights: float32, which is exact; float16 and int8 are smaller, and are asked what the
            agents are asked in greedy episodes, so that these must be playable here.
        env: the environment for that, where it is code of your own.
        answers: how many, at least.

    Raises:
        QtotError: it cannot be written, or answers otherwise than training's networks.
    """
    params, found = run.params(seed), list[Parity]()
    if weights == "float32":
        inputs = random_inputs(run, 256)
    else:
        inputs = played_inputs(run, params, -(-answers // run.spec.n_agents), env=env)

    def measure(folder: Path) -> dict[str, Any]:
        parity = asked(run, params, folder, inputs)
        if weights == "float32" and not parity.largest <= CLOSE:
            raise QtotError(
                f"the exported networks answer otherwise than those of training (values differ by "
                f"{parity.largest:.2g}); nothing was written; please report this, with "
                f"{run.path / 'config.json'}"
            )
        found.append(parity)
        return {"inputs": "random" if weights == "float32" else "played", **parity.to_dict()}

    write_agents(run, out, params, seed=seed, weights=weights, measure=measure)
    return found[0]


def _source(run: Run, seed: int) -> dict[str, Any]:
    recorded = run.recorded()
    rows = [row for row in run.metrics() if row["seed"] == seed]
    evaluated = [row for row in rows if "eval/return" in row]
    last = evaluated[-1] if evaluated and run.which == "last" else {}
    return {
        "env": run.config.env,
        "algo": run.config.algo,
        "seed": seed,
        "which": run.which,
        "env_steps": rows[-1].get("env_steps") if rows and run.which == "last" else None,
        "evaluation": {k: v for k, v in last.items() if k.startswith("eval/")},
        "versions": recorded.get("versions"),
        "git_commit": recorded.get("git_commit"),
        "init_agents": run.config.init_agents,
        "imported": recorded.get("imported"),
    }


def random_inputs(run: Run, rows: int) -> Inputs:
    """Many that may come, and many that may not."""
    spec, rng = run.spec, np.random.default_rng(0)
    n, actions = spec.n_agents, np.array(spec.n_actions)
    real = np.arange(spec.obs_size) < np.array(spec.obs_sizes)[:, None]
    legal = rng.random((rows, n, spec.max_actions)) < 0.7
    legal[..., 0] |= ~legal.any(-1)
    memory = (rows, n, _memory_size(run))
    return Inputs(
        obs=np.where(real, rng.normal(size=(rows, n, spec.obs_size)), 0.0).astype(np.float32),
        prev_action=rng.integers(-1, actions, (rows, n)).astype(np.int32),
        avail_actions=legal & (np.arange(spec.max_actions) < actions[:, None]),
        memory=np.tanh(rng.normal(size=memory)).astype(np.float32),
    )


def _memory_size(run: Run) -> int:
    return run.learner.agent.hidden if run.learner.agent.memory == "gru" else 0


class _Watched(Together):
    """A team that keeps what it is asked."""

    asked: list[tuple[np.ndarray, Inputs]]

    def act(self, seen: Seen) -> Choice:
        first = np.asarray(seen.first)
        previous, memory = np.asarray(self._previous), np.asarray(self._memories[0])
        inputs = Inputs(
            np.array(seen.obs),
            np.where(first[:, None], -1, previous),
            np.array(seen.avail_actions),
            np.where(first[:, None, None], 0.0, memory).astype(np.float32),
        )
        self.asked.append((np.array(seen.running), inputs))
        return super().act(seen)


def played_inputs(run: Run, params: PolicyParams, rows: int, *, env: Any = None) -> Inputs:
    """What the agents are asked in greedy episodes, ``rows`` steps of the team.

    Raises:
        QtotError: there is no environment for them here.
    """
    program = greedy_program([run.learner], products(run.config))
    kept: list[tuple[np.ndarray, Inputs]] = []

    def team(episodes: int) -> _Watched:
        made = _Watched(program, [params], episodes)
        made.asked = kept
        return made

    with run.stage(run.world(run.world_of(env)), 32) as stage:
        number = 0
        while sum(int(running.sum()) for running, _ in kept) < rows:
            stage(team, run.seeds[0], FRESH + number)
            number += 1
    parts = zip(*(Inputs(*(x[running] for x in inputs)) for running, inputs in kept), strict=True)
    return Inputs(*(np.concatenate(part)[:rows] for part in parts))


def asked(run: Run, params: PolicyParams, folder: Path, inputs: Inputs) -> Parity:
    """Both networks' answers to the same.

    Raises:
        QtotError: the folder holds no policy.
    """
    learner, team, agent = run.learner, load(folder), params.online.agent

    @jax.jit
    @jax.default_matmul_precision("float32")
    def answers(x: Inputs) -> tuple[Any, ...]:
        obs, first = learner.see(params.stats, x.obs), jnp.zeros((1, len(x.obs)), bool)
        q, _, memory = agent.unroll(obs[None], x.prev_action[None], first, x.memory)
        legal = x.avail_actions
        return q[0], masked_argmax(q[0], legal), margin_of(q[0], legal), memory

    q, action, margin, memory = (np.asarray(x) for x in answers(inputs))
    largest, same, ties = 0.0, 0, 0
    for i, name in enumerate(run.spec.agents):
        obs, previous, legal, before = (np.ascontiguousarray(x[:, i]) for x in inputs)
        step = team.agent(name).step(obs, previous.astype(np.int64), legal, before)
        for got, want in ((step.q, q[:, i]), (step.memory, memory[:, i])):
            size = np.maximum(np.abs(want).max(axis=-1, keepdims=True, initial=1.0), 1.0)
            difference = np.nan_to_num(np.abs(got - want) / size, nan=np.inf)
            largest = max(largest, float(difference.max(initial=0.0)))
        equal = step.action == action[:, i]
        same += int(equal.sum())
        ties += int((~equal & (margin[:, i] <= TIE)).sum())
    return Parity(action.size, largest, same, ties)

"""Episodes to look at: a run's agents, or agents of several runs as one team, together in this
process or each in one of its own.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from qtot.config import products
from qtot.core.learner import PolicyParams
from qtot.envs.base import JaxEnv
from qtot.errors import QtotError
from qtot.evaluation.apart import Apart, apart
from qtot.evaluation.episodes import (
    FRESH,
    Episodes,
    Slot,
    evaluation_key,
    metric_name,
    trace_greedy,
)
from qtot.evaluation.teams import (
    Agreement,
    Choice,
    Program,
    Recorded,
    Seen,
    Shadowed,
    Together,
    compared,
)
from qtot.evaluation.teams import greedy_program as program_of
from qtot.runs import Run
from qtot.shipping import write_agents


class Played(NamedTuple):
    """What came of it."""

    agents: dict[str, str]
    """who played for each: the folder of its run"""
    episodes: list[dict[str, float]]
    """each one's ``return``, ``length`` and the task's own scalars"""
    agreement: Agreement | None = None
    """with agents apart: how far they played as the same agents do together"""
    pids: tuple[int, ...] = ()
    """with agents apart: their processes"""


class Cast(NamedTuple):
    """Who acts for whom."""

    runs: tuple[Run, ...]
    """the first is whose environment it is"""
    params: tuple[PolicyParams, ...]
    who: tuple[int, ...]
    """which run acts for each agent"""
    program: Program

    @staticmethod
    def of(run: Run, others: Mapping[str, Run], seed: int | None) -> Cast:
        """Agents of ``run``, but for those that are named.

        Raises:
            QtotError: there are no such agents, or they do not fit.
        """
        runs, who = [run], [0] * run.spec.n_agents
        for name, other in others.items():
            for team, of in ((run.spec, "the environment"), (other.spec, str(other.path))):
                if name not in team.agents:
                    raise QtotError(f"{of} has no agent {name!r}; it has: {', '.join(team.agents)}")
            other.check_fits(run.spec)
            if run.spec.agents.index(name) != other.spec.agents.index(name):
                raise QtotError(f"agent {name!r} has another place in the team of {other.path}")
            at = next((i for i, one in enumerate(runs) if one is other), len(runs))
            runs[at:] = runs[at:] or [other]
            who[run.spec.agents.index(name)] = at
        params = tuple(one.params(seed if one is run else None) for one in runs)
        learners = [one.learner for one in runs]
        program = program_of(learners, products(run.config), who if len(runs) > 1 else None)
        return Cast(tuple(runs), params, tuple(who), program)

    def together(self, episodes: int) -> Together:
        """All in this process."""
        return Together(self.program, self.params, episodes)

    @contextlib.contextmanager
    def apart(self) -> Iterator[Apart]:
        """Each agent in a process of its own, from what is exported of its run.

        Raises:
            QtotError: it cannot be exported, or does not begin.
        """
        with tempfile.TemporaryDirectory(prefix="qtot-") as folder:
            homes = []
            for i, run in enumerate(self.runs):
                homes.append(Path(folder) / str(i))
                write_agents(run, homes[i], self.params[i])
            members = list(zip((homes[i] for i in self.who), self.runs[0].spec.agents, strict=True))
            with apart(members) as team:
                yield team


def play_run(
    run: Run,
    episodes: int,
    *,
    others: Mapping[str, Run] | None = None,
    decentralised: bool = False,
    env: Any = None,
    seed: int | None = None,
    index: int = 0,
) -> Played:
    """Greedy episodes.

    Args:
        run: whose agents play, and whose environment it is.
        episodes: how many.
        others: runs whose agents play for those of these names.
        decentralised: each agent in a process of its own.
        env: where, unless where it was trained.
        seed: of the run, whose policies play; None: the first.
        index: another number plays other episodes.

    Raises:
        QtotError: agents or environment do not fit.
    """
    cast = Cast.of(run, others or {}, seed)
    start = (run.seeds[0] if seed is None else seed, FRESH + index)
    agents = {
        name: str(cast.runs[i].path) for name, i in zip(run.spec.agents, cast.who, strict=True)
    }
    world = run.world(run.world_of(env))
    with run.stage(world, episodes) as stage:
        if not decentralised:
            return Played(agents, _rows(stage(cast.together, *start)))
        with cast.apart() as team:
            other = Recorded(team)
            if world.make is None and len(cast.runs) == 1:
                reference = _traced(cast, world.in_graph, episodes, start)
                played = stage(lambda _: other, *start)
            else:  # no graph to play in, or agents of several runs: both are asked in one play
                asked: list[Recorded] = []
                played = stage(partial(_beside, cast.together, other, asked), *start)
                (reference,) = asked
            return Played(agents, _rows(played), compared(reference, other), tuple(team.pids))


def _beside(make: Any, acts: Recorded, into: list[Recorded], episodes: int) -> Shadowed:
    into.append(Recorded(make(episodes)))
    return Shadowed(acts, into[-1])


def _traced(cast: Cast, env: JaxEnv, episodes: int, start: tuple[int, int]) -> Recorded:
    """The choices of evaluation's own program, in whose graph everything is."""
    run = cast.runs[0]

    @jax.jit
    @jax.default_matmul_precision(products(run.config))
    def trace(policy: PolicyParams, keys: Any) -> Slot:
        _, slots = trace_greedy(env, run.learner, policy, keys=keys)
        return slots._replace(obs=(), avail_actions=(), q=(), memory=(), prev_action=())

    slots = trace(cast.params[0], jax.random.split(evaluation_key(*start), episodes))
    first, running, action, margin = (
        np.asarray(x) for x in (slots.first, slots.running, slots.action, slots.margin)
    )
    steps = iter([Choice(*x) for x in zip(action, margin, strict=True)])
    recorded = Recorded(_Script(steps))
    for at in zip(first, running, strict=True):
        recorded.act(Seen(None, None, *at))
    return recorded


class _Script(NamedTuple):
    """A team that does what it did."""

    steps: Iterator[Choice]

    def act(self, seen: Seen) -> Choice:
        return next(self.steps)


def _rows(played: Episodes) -> list[dict[str, float]]:
    names = {name: np.asarray(values) for name, values in played.info.items()}
    columns = {
        "return": np.asarray(played.episode_return),
        "length": np.asarray(played.length),
        **{metric_name(name): values for name, values in names.items()},
    }
    return [
        {name: float(values[i]) for name, values in columns.items()}
        for i in range(len(columns["length"]))
    ]

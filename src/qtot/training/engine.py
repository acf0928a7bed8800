"""What runs the steps of a training run between two moments at which the host looks: here, chunks
of the in-graph program.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from qtot.core.learner import TrainState
from qtot.envs.stream import see
from qtot.training.compile import Compiled, compiling, lowering, no_collections, placed
from qtot.training.hosts import fetch
from qtot.training.ingraph import Program
from qtot.training.keeping import Resumed
from qtot.training.nans import explained
from qtot.training.resources import check_bytes, check_program
from qtot.training.state import RunState
from qtot.training.timing import TimeSplit

PIECE = 2.0
"""seconds that a call of the in-graph program is to take: how long a signal waits"""
GROWTH = 4
"""times the steps of the call before, at most"""


def lost(state: RunState) -> bool:
    """Whether something is not finite that was learned from."""
    return bool(fetch(state.seeds.train.trouble)[:, 0].any())


class Engine(Protocol):
    """``start → chunk → chunk → ...``, and greedy episodes in between."""

    program: Program
    init: Any
    """the program that makes the state, traced"""
    compile_s: float
    """seconds spent waiting for programs so far"""
    nans: bool
    """whether it can ``explain``"""

    @property
    def workers(self) -> str:
        """Who steps the environments, for the header; empty where the program does."""
        ...

    @property
    def certainty(self) -> str:
        """How far the seed decides a run, for the header."""
        ...

    def start(self, resumed: Resumed | None = None) -> RunState:
        """The state before the first step, or where a run goes on; what is needed for it is
        compiled.

        Raises:
            QtotError: the programs need more memory than there is.
        """
        ...

    def chunk(
        self, state: RunState, until: int, pause: Callable[[], bool], *, afresh: bool = True
    ) -> RunState:
        """Go on until every seed has taken ``until`` steps, or, where experience ends before that,
        as far as it went; the state is given away.

        Args:
            state: where to begin.
            until: environment steps.
            pause: asked every few seconds: whether to return before that.
            afresh: begin new sums of progress; they do not depend on where a chunk ended.

        Raises:
            QtotError: there is no experience to be had; then the state is not given away.
        """
        ...

    def evaluate(self, train: TrainState, steps: int, part: int) -> dict[str, np.ndarray]:
        """Means over ``evaluation.episodes`` greedy episodes, one per seed; ``steps`` and ``part``
        choose the episodes.
        """
        ...

    def explain(self, seed: int) -> str:
        """Which operation made the first number that is none, in the learning of a seed (counted
        from 0); only where that is looked for, and right after the chunk in which it happened.
        """
        ...

    def split(self, state: RunState, left_s: float) -> dict[str, float] | None:
        """Where the time goes, once that is known; None where it has been said."""
        ...

    def told(self) -> list[str]:
        """What a user should hear of, since the last time."""
        ...

    def counts(self) -> dict[str, int]:
        """More numbers for the metrics."""
        ...

    def counted(self, counts: dict[str, int]) -> None:
        """What they were when a run that goes on was left."""
        ...

    def close(self) -> None:
        """Give back what is not memory."""
        ...


class InGraph:
    """Environments in JAX: collecting and learning are one program."""

    workers = ""

    def __init__(self, program: Program, init: Any, *, nans: bool = False):
        self.program, self.init, self.nans = program, init, nans
        self.before: RunState | None = None
        """what the last iteration began with, where NaNs are looked for"""
        self.compile_s = 0.0
        self.compiled: dict[str, Future[Compiled]] = {}
        self.shapes: Any = None
        """of the state, and where it lies"""
        self.timing = TimeSplit(program)
        self.rate = 0.0
        """environment steps of a seed in a second"""

    @property
    def certainty(self) -> str:
        """On a CPU, entirely."""
        if jax.default_backend() == "cpu":
            return "the seed decides every bit, with these versions on as many devices"
        return "the seed decides everything but the order of a GPU's sums, and so the last digits"

    def start(self, resumed: Resumed | None = None) -> RunState:
        """Build the state and the training program."""
        began, program = time.perf_counter(), self.program
        with no_collections():
            self.shapes = placed(program, self.init.out_info)
            init = compiling(self.init.lower(), runs_once=True)
            number, flag = (jax.ShapeDtypeStruct((), t) for t in (np.int32, np.bool_))
            given = () if self.nans else (0,)
            chunk = jax.jit(program.chunk, donate_argnums=given).lower(self.shapes, number, flag)
            self.compiled["chunk"] = compiling(chunk)
            state = init.result()(np.int32(program.config.seed))
            if resumed is not None:
                state = resumed.state(state)
            jax.block_until_ready(state)
        if program.config.replay.dtype == "uint8" and jax.process_count() == 1:
            look = partial(see, program.collector.env)
            check_bytes(program.config, jax.vmap(look)(state.seeds.actors.stream))
        check_program(self.compiled["chunk"].result())
        self.compile_s = time.perf_counter() - began
        return state

    def chunk(
        self, state: RunState, until: int, pause: Callable[[], bool], *, afresh: bool = True
    ) -> RunState:
        """Some calls of the program; the one that evaluates is compiled while the first runs."""
        step = int(fetch(state.seeds.train.env_steps).min())
        while step < until:
            began = time.perf_counter()
            # On several hosts all must agree: their clocks do not.
            alone = jax.process_count() == 1
            goal = min(until, step + max(int(self.rate * PIECE), 1)) if alone else until
            if self.nans:
                self.before, goal = state, step + 1
            state = self._program("chunk")(state, np.int32(goal), afresh)
            if "evaluate" not in self.compiled:
                self.compiled["evaluate"] = lowering(self._lower_evaluation)
            before, step = step, int(fetch(state.seeds.train.env_steps).min())
            # Learning may begin in the next call, and slow it down: calls grow little by little.
            rate = (step - before) / (time.perf_counter() - began)
            self.rate = min(rate, GROWTH * (step - before) / PIECE) if PIECE else rate
            afresh = False
            if pause() or (self.nans and lost(state)):
                break
        return state

    def explain(self, seed: int) -> str:
        """From the last iteration, once more."""
        assert self.before is not None
        return explained(self.program, self.before, seed)

    def evaluate(self, train: TrainState, steps: int, part: int) -> dict[str, np.ndarray]:
        """One call of the program."""
        if "evaluate" not in self.compiled:  # no chunk was left to do
            self.compiled["evaluate"] = lowering(self._lower_evaluation)
        seed = np.int32(self.program.config.seed)
        return fetch(self._program("evaluate")(train, seed, np.int32(steps), np.int32(part)))

    def split(self, state: RunState, left_s: float) -> dict[str, float] | None:
        """From programs of the parts, which are compiled beside the run."""
        return self.timing.when_known(state, left_s) if jax.process_count() == 1 else None

    def told(self) -> list[str]:
        """Nothing happens that is not in the metrics."""
        return []

    def counts(self) -> dict[str, int]:
        """None."""
        return {}

    def counted(self, counts: dict[str, int]) -> None:
        """None."""

    def close(self) -> None:
        """Nothing to give back."""

    def _lower_evaluation(self) -> Any:
        number = jax.ShapeDtypeStruct((), np.int32)
        return jax.jit(self.program.greedy).lower(self.shapes.seeds.train, number, number, number)

    def _program(self, name: str) -> Compiled:
        """A compiled program; waiting for it counts as compilation, not as training."""
        began = time.perf_counter()
        program = self.compiled[name].result()
        self.compile_s += time.perf_counter() - began
        return program

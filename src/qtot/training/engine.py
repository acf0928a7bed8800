"""What runs the steps of a training run between two moments at which the host looks: here, chunks
of the in-graph program.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import jax
import numpy as np

from qtot.core.learner import TrainState
from qtot.training.compile import Compiled, compiling, lowering, no_collections, placed
from qtot.training.hosts import fetch
from qtot.training.ingraph import Program
from qtot.training.state import Progress, RunState
from qtot.training.timing import TimeSplit

Resume = Callable[[RunState], RunState]
"""a state as it lies on the devices, to that in which a run goes on"""


def fresh(state: RunState) -> RunState:
    """A run that begins."""
    return state


class Engine(Protocol):
    """``start → chunk → chunk → ...``, and greedy episodes in between."""

    program: Program
    init: Any
    """the program that makes the state, traced"""
    compile_s: float
    """seconds spent waiting for programs so far"""

    @property
    def workers(self) -> str:
        """Who steps the environments, for the header; empty where the program does."""
        ...

    def start(self, resume: Resume = fresh) -> RunState:
        """The state before the first step, or what ``resume`` makes of it; what is needed for it is
        compiled.
        """
        ...

    def chunk(
        self, state: RunState, until: int, stop: Callable[[], bool]
    ) -> tuple[RunState, Progress]:
        """Go on until every seed has taken ``until`` steps, or, where experience ends before that,
        as far as it went; the state is given away. ``stop`` says that the user does not want to
        wait for more than a rollout.

        Raises:
            QtotError: there is no experience to be had; then the state is not given away.
        """
        ...

    def evaluate(self, train: TrainState, steps: int, part: int) -> dict[str, np.ndarray]:
        """Means over ``evaluation.episodes`` greedy episodes, one per seed; ``steps`` and ``part``
        choose the episodes.
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

    def close(self) -> None:
        """Give back what is not memory."""
        ...


class InGraph:
    """Environments in JAX: collecting and learning are one program."""

    workers = ""

    def __init__(self, program: Program, init: Any):
        self.program, self.init = program, init
        self.compile_s = 0.0
        self.compiled: dict[str, Future[Compiled]] = {}
        self.shapes: Any = None
        """of the state, and where it lies"""
        self.timing = TimeSplit(program)

    def start(self, resume: Resume = fresh) -> RunState:
        """Build the state and the training program."""
        began, program = time.perf_counter(), self.program
        with no_collections():
            self.shapes = placed(program, self.init.out_info)
            init = compiling(self.init.lower(), runs_once=True)
            number = jax.ShapeDtypeStruct((), np.int32)
            chunk = jax.jit(program.chunk, donate_argnums=0).lower(self.shapes, number)
            self.compiled["chunk"] = compiling(chunk)
            state = resume(init.result()(np.int32(program.config.seed)))
            jax.block_until_ready(state)
        self.compiled["chunk"].result()
        self.compile_s = time.perf_counter() - began
        return state

    def chunk(
        self, state: RunState, until: int, stop: Callable[[], bool]
    ) -> tuple[RunState, Progress]:
        """One call of the program; the one that evaluates is compiled while the first runs."""
        state, progress = self._program("chunk")(state, np.int32(until))
        if "evaluate" not in self.compiled:
            self.compiled["evaluate"] = lowering(self._lower_evaluation)
        return state, jax.block_until_ready(progress)

    def evaluate(self, train: TrainState, steps: int, part: int) -> dict[str, np.ndarray]:
        """One call of the program."""
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

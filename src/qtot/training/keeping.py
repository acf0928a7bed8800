"""Checkpoints, written beside the run that goes on."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from qtot.config import CheckpointConfig
from qtot.errors import QtotError
from qtot.store.arrays import in_memory, read_arrays, write_arrays
from qtot.store.checkpoints import Checkpoints
from qtot.store.files import write_json
from qtot.training.resources import nbytes
from qtot.training.state import RunState

LARGEST_REPLAY = 2 * 2**30
"""bytes that ``--checkpoint.replay auto`` saves"""


class Resumed(NamedTuple):
    """Where a run goes on."""

    path: Path
    step: int
    record: dict[str, Any]
    """what the training loop knew: counts, clocks, the best so far"""

    def state(self, fresh: RunState) -> RunState:
        """In the places of a ``fresh`` one, whose empty replay stays where none was saved.

        Raises:
            QtotError: it is of another configuration.
        """
        kept = fresh if self.record["replay"] else _without_replay(fresh)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), kept
        )
        state = read_arrays(self.path / "arrays", shapes)
        if self.record["replay"]:
            return state
        return state._replace(seeds=state.seeds._replace(replay=fresh.seeds.replay))


class Keeper:
    """When to save, and what."""

    def __init__(self, checkpoints: Checkpoints, config: CheckpointConfig, step: int = 0):
        self.checkpoints, self.config = checkpoints, config
        self.saved_at, self.saved_step = time.monotonic(), step
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="qtot-checkpoint")
        self._writing: Future[None] | None = None
        self._best: tuple[int, Any, dict[str, Any]] | None = None
        """of the best evaluation since the last checkpoint, and not yet written"""

    def due(self, step: int) -> bool:
        """Whether it is time; never while the last one is still being written."""
        if self._writing is not None and not self._writing.done():
            return False
        minutes, steps = self.config.minutes, self.config.steps
        by_clock = minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes
        return by_clock or (steps > 0 and step // steps > self.saved_step // steps)

    def hold_best(self, step: int, state: RunState, record: dict[str, Any]) -> None:
        """A copy, without the replay, that the next checkpoint brings to disk."""
        self._best = step, in_memory(_without_replay(state)), {**record, "replay": False}

    def keep(self, step: int, state: RunState, record: dict[str, Any]) -> None:
        """Copy the state, and write it while the run goes on.

        Raises:
            QtotError: the checkpoint before this one could not be written.
        """
        self.wait()
        if not self._saves_replay(state):
            state = _without_replay(state)
        record = {**record, "replay": state.seeds.replay is not None}
        tree, self.saved_at, self.saved_step = in_memory(state), time.monotonic(), step
        best, self._best = self._best, None
        self._writing = self._pool.submit(self._write, step, tree, record, best)

    def wait(self) -> None:
        """Until what was begun is on disk.

        Raises:
            QtotError: it could not be written; those before it are as they were.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except Exception as error:  # a full disk, in whatever words Orbax has for it
            raise QtotError(
                f"a checkpoint could not be written to {self.checkpoints.folder} "
                f"({type(error).__name__}: {error}); those before it are as they were"
            ) from None

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _saves_replay(self, state: RunState) -> bool:
        if state.seeds.replay is None or self.config.replay == "never":
            return False
        return self.config.replay == "always" or nbytes(state.seeds.replay) <= LARGEST_REPLAY

    def _write(
        self, step: int, tree: RunState, record: dict[str, Any], best: tuple[Any, ...] | None
    ) -> None:
        write, keep = self.checkpoints.write, self.config.keep
        if best is not None:
            write(best[0], partial(_fill, best[1], best[2]), best=True, keep=keep)
        write(step, partial(_fill, tree, record), best=False, keep=keep)


def newest(checkpoints: Checkpoints) -> tuple[Resumed, list[str]]:
    """The last whole checkpoint, and what is wrong with those after it.

    Raises:
        QtotError: there is none.
    """
    wrong = []
    for found, problem in checkpoints.whole():
        if problem is None:
            record = json.loads((found.path / "run.json").read_bytes())
            return Resumed(found.path, found.step, record), wrong
        wrong.append(f"checkpoint {found.path.name} is left out: {problem}")
    raise QtotError("; ".join([f"there is no whole checkpoint in {checkpoints.folder}", *wrong]))


def _fill(tree: RunState, record: dict[str, Any], folder: Path) -> None:
    write_arrays(folder / "arrays", tree)
    write_json(folder / "run.json", record)


def _without_replay(state: RunState) -> RunState:
    return state._replace(seeds=state.seeds._replace(replay=None))

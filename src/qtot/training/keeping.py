"""Checkpoints, written beside the run that goes on."""

from __future__ import annotations

import json
import math
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtot.config import CheckpointConfig
from qtot.errors import QtotError
from qtot.store.arrays import read_arrays, write_arrays
from qtot.store.checkpoints import Checkpoints
from qtot.store.files import write_json
from qtot.store.params import named
from qtot.training.hosts import anyone, fetch, leads
from qtot.training.resources import host_memory, nbytes
from qtot.training.state import RunState

LARGEST_REPLAY = 2 * 2**30
"""bytes that ``--checkpoint.replay auto`` saves"""


class NotWrittenError(OSError):
    """A checkpoint could not be written; those before it are as they were."""


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
        stored = read_arrays(self.path / "arrays", jax.eval_shape(_plain, kept))
        state = jax.tree.map(placed_like, kept, stored)
        if self.record["replay"]:
            return state
        return state._replace(seeds=state.seeds._replace(replay=fresh.seeds.replay))


class Keeper:
    """When to save, and what."""

    def __init__(self, checkpoints: Checkpoints, config: CheckpointConfig, step: int = 0):
        self.checkpoints, self.config = checkpoints, config
        self.saved_at, self.saved_step = time.monotonic(), step
        self._writing: threading.Thread | None = None
        self._error: Exception | None = None
        """with which the last writing ended"""
        self._replay: bool | None = None
        """whether it is saved, where that is ours to say"""
        self._best: tuple[int, Any, dict[str, Any]] | None = None
        """of the best evaluation since the last checkpoint, and not yet written"""

    def due(self, step: int | None = None) -> bool:
        """Whether it is time, by the clock or, where it is given, the step; never while the last
        one is still being written.
        """
        if self._writing is not None and self._writing.is_alive():
            return False
        minutes, steps = self.config.minutes, self.config.steps
        by_clock = minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes
        by_step = step is not None and steps > 0 and step // steps > self.saved_step // steps
        return by_clock or by_step

    def hold_best(self, step: int, state: RunState, record: dict[str, Any]) -> None:
        """A copy, without the replay, that the next checkpoint brings to disk."""
        self._best = step, on_host(_without_replay(state)), {**record, "replay": False}

    def keep(
        self, step: int, state: RunState, record: dict[str, Any], *, write: bool = True
    ) -> None:
        """Copy the state, and write it while the run goes on. All processes must call it, none of
        which waits for a disk before that; the first one writes, or does not.

        Raises:
            QtotError: something in it is not finite.
        """
        if not self._saves_replay(state):
            state = _without_replay(state)
        record = {**record, "replay": state.seeds.replay is not None}
        tree, self.saved_at, self.saved_step = on_host(state), time.monotonic(), step
        for name, array in zip(*named(tree.seeds.train)[:2], strict=True):
            if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
                raise QtotError(
                    f"{name} is not finite at step {step:,}; the run is stopped, and the "
                    "checkpoints before are as they were"
                )
        if leads() and write:
            if self._writing is not None:
                self._writing.join()
            best, self._best = self._best, None
            # A daemon: whoever leaves at once does not wait for it.
            job = partial(self._write, step, tree, record, best)
            self._writing = threading.Thread(target=job, name="qtot-checkpoint", daemon=True)
            self._writing.start()

    def wait(self) -> None:
        """Until what was begun is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is not None:
            self._writing.join()
        self._writing, error, self._error = None, self._error, None
        if error is not None:  # a full disk, in whatever words Orbax has for it
            raise NotWrittenError(f"{type(error).__name__}: {error}") from None

    def _saves_replay(self, state: RunState) -> bool:
        if state.seeds.replay is None or self.config.replay != "auto":
            return state.seeds.replay is not None and self.config.replay == "always"
        if self._replay is None:  # decided once, on the first host's memory
            size = nbytes(state.seeds.replay)
            self._replay = anyone(leads() and size <= min(LARGEST_REPLAY, host_memory() // 2))
        return self._replay

    def _write(
        self, step: int, tree: RunState, record: dict[str, Any], best: tuple[Any, ...] | None
    ) -> None:
        write, keep = self.checkpoints.write, self.config.keep
        try:
            if best is not None:
                write(best[0], partial(_fill, best[1], best[2]), best=True, keep=keep)
                best = None
            write(step, partial(_fill, tree, record), best=False, keep=keep)
        except Exception as error:
            self._error = error
            self._best = self._best or best  # for the next one to bring


# What a checkpoint's run.json holds besides its state's arrays.
NUMBER = (int, float)
RECORD: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "episodes": (list,),
    "rows": (list,),
    "best": (list,),
    "best_mean": (list,),
    "looked": (int,),
    "spent": NUMBER,
    "afresh": (bool,),
    "warned": (bool,),
    "counts": (dict,),
    "wall_s": NUMBER,
    "metrics_bytes": (int,),
    "replay": (bool,),
}


def _record(path: Path, step: int, seeds: int) -> dict[str, Any]:
    """What is in a ``run.json``.

    Raises:
        ValueError: something else.
    """
    record = json.loads(path.read_bytes())
    if not isinstance(record, dict) or record.keys() != RECORD.keys():
        raise ValueError("other facts")
    for name, kinds in RECORD.items():
        if type(record[name]) not in kinds:
            raise ValueError(name)

    def plain(value: Any) -> bool:
        return type(value) in NUMBER and (abs(value) < 2**63 or value in (math.inf, -math.inf))

    def row(value: Any, *needed: str) -> bool:
        if not isinstance(value, dict) or not all(v is None or plain(v) for v in value.values()):
            return False
        whole = all(type(value.get(key)) is int for key in ("seed", "env_steps", "updates"))
        return whole and all(key in value for key in needed)

    numbers = [*record["episodes"], *record["best_mean"], *record["counts"].values()]
    fine = (
        all(map(plain, [*numbers, record["step"], record["metrics_bytes"], record["looked"]]))
        and all(math.isfinite(record[name]) and plain(record[name]) for name in ("spent", "wall_s"))
        and all(map(row, record["rows"]))
        and all(row(one, "eval/return") for one in record["best"])
        and len(record["episodes"]) == seeds
        and len(record["best_mean"]) == 2
        and len(record["rows"]) in (0, seeds)
        and record["step"] == step
        and min(record["metrics_bytes"], record["looked"]) >= 0
    )
    if not fine:
        raise ValueError("other numbers")
    return record


def newest(checkpoints: Checkpoints, seeds: int) -> tuple[Resumed | None, list[str]]:
    """The last whole checkpoint of a run of so many seeds, and what is wrong with those after it;
    None where there is none at all.

    Raises:
        QtotError: there are some, and none is whole.
    """
    wrong = []
    for found, broken in checkpoints.whole():
        problem = broken
        if problem is None:
            try:
                record = _record(found.path / "run.json", found.step, seeds)
                return Resumed(found.path, found.step, record), wrong
            except (OSError, ValueError, OverflowError, RecursionError) as error:
                problem = f"its run.json is damaged ({error})"
        wrong.append(f"checkpoint {found.path.name} is left out: {problem}")
    if wrong:
        raise QtotError(
            "; ".join([f"there is no whole checkpoint in {checkpoints.folder}", *wrong])
        )
    return None, []


def _fill(tree: RunState, record: dict[str, Any], folder: Path) -> None:
    write_arrays(folder / "arrays", tree)
    write_json(folder / "run.json", record)


def _without_replay(state: RunState) -> RunState:
    return state._replace(seeds=state.seeds._replace(replay=None))


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
    """Keys as numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def on_host(tree: Any) -> Any:
    """On the host, which stays while the program's own arrays are given away."""
    return jax.tree.map(np.array, fetch(_plain(tree)))


def placed_like(like: Any, stored: np.ndarray) -> Any:
    """Where ``like`` lies, of its kind."""
    plain = jax.random.key_data(like) if _is_key(like) else like
    where = plain.sharding
    if not _is_key(like):
        like.delete()  # its memory is needed for the next
        return jax.make_array_from_callback(stored.shape, where, lambda index: stored[index])
    made = jax.make_array_from_callback(stored.shape, where, lambda index: stored[index])
    return jax.random.wrap_key_data(made, impl=jax.random.key_impl(like))

"""Trees of arrays on disk, by Orbax: NumPy in and out, each array under its dotted path."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtot.errors import QtotError
from qtot.store.params import named


def write_arrays(path: Path, tree: Any) -> None:
    """All of ``tree`` in a new folder ``path``, on disk when this returns."""
    names, leaves, _ = named(tree)
    # Orbax refuses arrays without elements, which hold nothing to keep.
    kept = {name: leaf for name, leaf in zip(names, leaves, strict=True) if leaf.size}
    with _checkpointer() as checkpointer, _silent():
        checkpointer.save(path.resolve(), kept)


def read_arrays(path: Path, template: Any) -> Any:
    """The arrays in ``path``.

    Args:
        path: a folder written by ``write_arrays``.
        template: their shapes and types.

    Raises:
        QtotError: the folder cannot be read, or holds other arrays than the template.
    """
    names, leaves, structure = named(template)
    wanted = {name: leaf for name, leaf in zip(names, leaves, strict=True) if leaf.size}
    with _checkpointer() as checkpointer, _silent():
        try:
            there: Any = checkpointer.metadata(path.resolve()).item_metadata.tree
            _compare(path, there, wanted)
            plain = {name: np.empty(x.shape, x.dtype) for name, x in wanted.items()}
            stored = checkpointer.restore(path.resolve(), plain)
        except QtotError:
            raise
        except Exception as error:  # whatever a damaged file happens to say
            raise QtotError(f"{path} cannot be read ({type(error).__name__}: {error})") from None

    def made(name: str, leaf: Any) -> Any:
        return np.asarray(stored[name]) if leaf.size else np.zeros(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_unflatten(structure, list(map(made, names, leaves)))


def _compare(path: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse other arrays: Orbax would cut or pad them in silence."""
    if missing := sorted(wanted.keys() - there.keys()):
        raise QtotError(
            f"{path} lacks the array {missing[0]!r}; was it written by another version?"
        )
    if extra := sorted(there.keys() - wanted.keys()):
        raise QtotError(f"{path} holds an array {extra[0]!r} that this run has not")
    for name, leaf in wanted.items():
        shape, dtype = tuple(there[name].shape), there[name].dtype
        if shape != leaf.shape or str(dtype) != str(leaf.dtype):
            raise QtotError(
                f"{path}: array {name!r} should be {leaf.dtype}{list(leaf.shape)}, "
                f"got {dtype}{list(shape)}"
            )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Orbax logs errors with their tracebacks, and then raises them."""
    log = logging.getLogger("absl")
    was = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = was


def _checkpointer() -> Any:
    """Blocking; whoever wants to go on meanwhile calls from another thread. For one process: where
    several train together, one writes, and each reads all.
    """
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
        )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)

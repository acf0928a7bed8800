"""Trees of arrays on disk, by Orbax: typed keys, shards and all, each under its dotted path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtot.errors import QtotError
from qtot.store.params import named


def write_arrays(path: Path, tree: Any) -> None:
    """All of ``tree`` in a new folder ``path``, on disk when this returns."""
    names, leaves, _ = named(jax.tree.map(_plain, tree))
    # Orbax refuses arrays without elements, which hold nothing to keep.
    kept = {name: leaf for name, leaf in zip(names, leaves, strict=True) if leaf.size}
    with _checkpointer() as checkpointer:
        checkpointer.save(path.resolve(), kept)


def read_arrays(path: Path, template: Any) -> Any:
    """The arrays in ``path`` in the shape of ``template``, and where its shardings say.

    Args:
        path: a folder written by ``write_arrays``.
        template: ``ShapeDtypeStruct`` leaves with shardings.

    Raises:
        QtotError: the folder cannot be read, or holds other arrays than the template.
    """
    names, leaves, structure = named(template)
    plain = dict(zip(names, map(_plain_shape, leaves), strict=True))
    wanted = {name: leaf for name, leaf in plain.items() if leaf.size}
    with _checkpointer() as checkpointer:
        try:
            there: Any = checkpointer.metadata(path.resolve()).item_metadata.tree
            _compare(path, there, wanted)
            stored = checkpointer.restore(path.resolve(), wanted)
        except QtotError:
            raise
        except Exception as error:  # whatever a damaged file happens to say
            raise QtotError(f"{path} cannot be read ({type(error).__name__}: {error})") from None

    def made(name: str, leaf: Any) -> Any:
        if not leaf.size:
            return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        return _key(stored[name], leaf) if _is_key(leaf) else stored[name]

    return jax.tree_util.tree_unflatten(structure, list(map(made, names, leaves)))


def in_memory(tree: Any) -> Any:
    """A copy on the host, which stays while the program's own arrays are given away; keys as
    numbers.
    """
    return jax.tree.map(lambda x: np.array(_plain(x)), tree)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key(data: Any, template: Any) -> Any:
    """Numbers as keys of the template's kind."""
    kind: list[Any] = []
    jax.eval_shape(lambda key: kind.append(jax.random.key_impl(key)), template)
    return jax.random.wrap_key_data(data, impl=kind[0])


def _plain(x: Any) -> Any:
    """Keys as numbers."""
    return jax.random.key_data(x) if _is_key(x) else x


def _plain_shape(x: Any) -> Any:
    """The same of a shape."""
    if not _is_key(x):
        return x
    data = jax.eval_shape(jax.random.key_data, x)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=x.sharding)


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


def _checkpointer() -> Any:
    """Blocking; whoever wants to go on meanwhile calls from another thread."""
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.StandardCheckpointHandler())

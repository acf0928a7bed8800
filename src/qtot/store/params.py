"""Parameters on disk: an ``.npz`` of named arrays, readable without pickle and without qtot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtot.errors import QtotError
from qtot.store.files import write_atomic


def named(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Dotted paths, leaves and structure of a tree."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return names, [leaf for _, leaf in leaves], structure


def save_params(path: Path, tree: Any) -> None:
    """Every array of ``tree`` under its dotted path, such as ``online.agent.network.head.bias``."""
    names, leaves, _ = named(tree)
    buffer = io.BytesIO()
    np.savez(buffer, **{n: np.asarray(x) for n, x in zip(names, leaves, strict=True)})  # pyright: ignore[reportArgumentType]
    write_atomic(path, buffer.getvalue())


def load_params(path: Path, template: Any) -> Any:
    """The arrays of ``path`` in the shape of ``template`` (arrays or ``ShapeDtypeStruct``).

    Raises:
        QtotError: the file is missing or damaged, or holds other arrays than the template.
    """
    names, leaves, structure = named(template)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise QtotError(f"no parameters at {path}; was the run stopped before it saved?") from None
    except OSError as error:
        raise QtotError(f"parameters at {path} cannot be read ({error})") from None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except Exception:  # a damaged zip raises whatever its bytes happen to say
        raise QtotError(
            f"parameters at {path} cannot be read: damaged, or no .npz of plain arrays"
        ) from None
    for name, leaf in zip(names, leaves, strict=True):
        if name not in stored:
            raise QtotError(f"{path} lacks the array {name!r}; was it written by another version?")
        if stored[name].shape != leaf.shape or stored[name].dtype != leaf.dtype:
            got = f"{stored[name].dtype}{list(stored[name].shape)}"
            raise QtotError(
                f"{path}: array {name!r} should be {leaf.dtype}{list(leaf.shape)}, got {got}"
            )
    return jax.tree_util.tree_unflatten(structure, [stored[n] for n in names])

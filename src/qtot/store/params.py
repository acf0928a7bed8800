"""Parameters on disk: an ``.npz`` of named arrays, readable without pickle and without qtot."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from qtot.errors import QtotError
from qtot.store.files import write_atomic
from qtot.store.npz import read_array


def named(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Dotted paths, leaves and structure of a tree."""
    import jax  # not before there are parameters: reports read run folders without it

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
    import jax

    names, leaves, structure = named(template)
    try:
        if path.exists() and not path.is_file():
            raise QtotError(f"parameters at {path} are no plain file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise QtotError(f"no parameters at {path}; was the run stopped before it saved?") from None
    except OSError as error:
        raise QtotError(f"parameters at {path} cannot be read ({error})") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            stored = [_array(path, file, *one) for one in zip(names, leaves, strict=True)]
    except QtotError:
        raise
    except Exception:  # a damaged zip raises whatever its bytes happen to say
        raise QtotError(
            f"parameters at {path} cannot be read: damaged, or no .npz of plain arrays"
        ) from None
    return jax.tree_util.tree_unflatten(structure, stored)


def _array(path: Path, file: zipfile.ZipFile, name: str, leaf: Any) -> np.ndarray:
    """In the place of ``leaf``."""
    if f"{name}.npy" not in file.namelist():
        raise QtotError(f"{path} lacks the array {name!r}; was it written by another version?")
    if file.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
        raise QtotError(f"{path}: array {name!r} is compressed, as qtot never writes one")

    def fits(shape: tuple[int, ...], dtype: Any) -> str:
        if shape == leaf.shape and dtype == leaf.dtype:
            return ""
        return f"should be {leaf.dtype}{list(leaf.shape)}, got {dtype}{list(shape)}"

    return read_array(path, file, name, fits)

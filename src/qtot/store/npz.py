"""Arrays out of an ``.npz`` that anybody may have written: nothing of it is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qtot.errors import QtotError

Fits = Callable[[tuple[int, ...], Any], str]
"""why an array of that shape and type is not wanted; empty if it is"""


def read_array(path: Path, file: zipfile.ZipFile, name: str, fits: Fits) -> np.ndarray:
    """One array, looked at before it is unpacked: a few bytes may claim to be terabytes.

    Raises:
        QtotError: it is in another format, not wanted, or cut.
    """
    with file.open(f"{name}.npy") as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise QtotError(f"{path}: array {name!r} is in another format than .npy's first")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if why := "it is in Fortran's order" if fortran else fits(shape, dtype):
            raise QtotError(f"{path}: array {name!r} {why}")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        content = member.read(size + 1)
    if len(content) != size:
        raise QtotError(f"{path}: array {name!r} is cut")
    return np.frombuffer(content, dtype).reshape(shape)

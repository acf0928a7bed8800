"""State dicts that ``torch.save`` wrote, read without torch, and without executing anything.

Both of its formats are pickles that name storages, which lie beside them: since PyTorch 1.6 a zip
archive, before that (PyMARL's own) one file, in which the storages follow. Of what a pickle may
name, only the few things that make a tensor are known here; they are functions of this module.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qtot.errors import QtotError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""with which the older format begins"""
LARGEST = 2**31
"""bytes of a file; a team's networks have far less"""
TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _Sealed:
    """What a pickle may make, but not change afterwards (its opcode BUILD)."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the file changes what it has made")


class _Storage(_Sealed):
    """Numbers in a row, which may be read later."""

    def __init__(self, kind: str, size: int):
        self.dtype, self.size = np.dtype(TYPES[kind]), size
        self.data: np.ndarray | None = None

    def fill(self, data: bytes) -> None:
        if len(data) != self.size * self.dtype.itemsize:
            raise ValueError(f"a storage of {self.size} numbers has {len(data)} bytes")
        self.data = np.frombuffer(data, self.dtype)


class _Tensor(_Sealed):
    """A view of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any):
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor of no storage")
        self.storage = storage
        self.offset, self.shape, self.strides = _whole(offset), _sizes(shape), _sizes(strides)
        if len(self.shape) != len(self.strides):
            raise ValueError("a tensor with sizes for other strides")
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and self.offset + last >= storage.size:
            raise ValueError("a tensor beyond its storage")
        if math.prod(self.shape) > storage.size:  # a few bytes, read again and again
            raise ValueError("a tensor larger than its storage")

    def array(self) -> np.ndarray:
        data = self.storage.data
        if data is None:
            raise ValueError("a tensor whose storage is missing")
        if 0 in self.shape:
            return np.zeros(self.shape, data.dtype)
        strides = [step * data.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides)
        return view.copy()


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"expected a size, got {str(value)[:40]}")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 8:
        raise ValueError(f"expected sizes, got {str(value)[:40]}")
    return tuple(map(_whole, value))


class _RebuildTensor(_Sealed):
    """``torch._utils._rebuild_tensor``, of either version."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
        del rest  # whether it has gradients, and what is called for them
        return _Tensor(storage, offset, shape, strides)


class _RebuildParameter(_Sealed):
    """``torch._utils._rebuild_parameter``."""

    __slots__ = ()

    def __call__(self, data: Any, *rest: Any) -> Any:
        del rest
        return data


class _Dict(OrderedDict):
    """A state dict, whose ``_metadata`` says nothing of the numbers."""

    def __setstate__(self, state: Any) -> None:
        del state


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", kind): kind for kind in TYPES},
}


class _Unpickler(pickle.Unpickler):
    """Knows nothing but what is allowed."""

    def __init__(self, file: BinaryIO, storage: Callable[[str, str, int], _Storage]):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise QtotError(
                f"it names {module}.{name}, which is no part of a state dict, and is not imported"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        whole = not view or view == [None]
        if kind != "storage" or not isinstance(storage_type, str) or not whole:
            raise ValueError(f"expected a storage, got {str(pid)[:80]}")
        return self._storage(storage_type, str(key), _whole(size))


def _load(file: io.BytesIO, storage: Callable[[str, str, int], _Storage]) -> Any:
    """The next pickle, looked through first: a few bytes may ask for a memo of many gigabytes."""
    at, size = file.tell(), file.getbuffer().nbytes
    for opcode, argument, _ in pickletools.genops(file):
        if "PUT" in opcode.name and argument is not None and int(argument) > size:
            raise ValueError(f"a memo of {argument} entries")
    file.seek(at)
    return _Unpickler(file, storage).load()


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Arrays by their dotted names, as ``torch.save(module.state_dict(), path)`` left them.

    Raises:
        QtotError: the file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise QtotError(f"{path} is not there")
    try:
        if path.stat().st_size > LARGEST:
            raise QtotError("it is too large for a team's networks")
        data = path.read_bytes()
        found = _read_zip(data) if data[:2] == b"PK" else _read_older(data)
        return _arrays(found, 4 * len(data))
    except QtotError as error:
        raise QtotError(f"{path}: {error}") from None
    except OSError as error:
        raise QtotError(f"{path} cannot be read ({error})") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        reason = f"{type(error).__name__}: {error}"[:200]
        raise QtotError(f"{path} is no state dict that torch.save wrote ({reason})") from None


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        top = next((n.removesuffix("data.pkl") for n in names if n.endswith("data.pkl")), None)
        if top is None:
            raise ValueError("the archive holds no data.pkl")

        def member(name: str) -> bytes:
            if archive.getinfo(top + name).compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed, as torch never writes one")
            return archive.read(top + name)

        if f"{top}byteorder" in names and member("byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        storages: dict[str, _Storage] = {}

        def storage(kind: str, key: str, size: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(kind, size)
                storages[key].fill(member(f"data/{key}"))
            return storages[key]

        return _load(io.BytesIO(member("data.pkl")), storage)


def _read_older(data: bytes) -> Any:
    file, storages = io.BytesIO(data), dict[str, _Storage]()

    def storage(kind: str, key: str, size: int) -> _Storage:
        return storages.setdefault(key, _Storage(kind, size))

    def load() -> Any:
        return _load(file, storage)

    if load() != MAGIC or load() != PROTOCOL:
        raise ValueError("it does not begin as torch's files do")
    if load().get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    found, keys = load(), load()
    for key in keys:
        (size,) = struct.unpack("<q", file.read(8))
        one = storages[key]
        if size != one.size:
            raise ValueError(f"storage {key} has {size} numbers, not {one.size}")
        one.fill(file.read(size * one.dtype.itemsize))
    return found


def _arrays(found: Any, most: int) -> dict[str, np.ndarray]:
    if not isinstance(found, dict):
        raise QtotError(f"expected a state dict, got {type(found).__name__}")
    out: dict[str, np.ndarray] = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise QtotError(f"expected a state dict, got an entry {str(name)[:80]!r} that is none")
        array = tensor.array()
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise QtotError(f"{name} holds numbers that are no weights ({array.dtype})")
        if array.size == 0:
            raise QtotError(f"{name} is empty")
        most -= array.nbytes
        if most < 0:
            raise QtotError("its arrays are larger than the file")
        out[name] = array
    return out

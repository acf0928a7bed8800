"""Whether a folder is whole: a manifest, written last, has name, size and SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from qtot.store.files import write_atomic

MANIFEST = "manifest.json"
SCHEMA = 1


def seal(folder: Path) -> None:
    """Write the manifest of what is in ``folder``, all of it on disk when this returns."""
    files = {}
    for path in _files(folder):
        files[path.relative_to(folder).as_posix()] = _facts(path)
        sync(path)
    for path in folder.rglob("*"):
        if path.is_dir():
            sync(path)
    text = json.dumps({"schema": SCHEMA, "files": files}, indent=1, sort_keys=True)
    write_atomic(folder / MANIFEST, (text + "\n").encode())
    sync(folder)


def broken(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None if it is whole."""
    try:
        _files(folder)
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return "it has no manifest: it was never finished"
    except _StrangeFileError as error:
        return str(error)
    except OSError as error:
        return f"its {MANIFEST} cannot be read ({error.strerror})"
    try:
        sealed = json.loads(text)
        if sealed["schema"] != SCHEMA:
            return f"its {MANIFEST} has schema {sealed['schema']!r}, this version reads {SCHEMA}"
        return _differs(folder, {name: dict(facts) for name, facts in sealed["files"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"its {MANIFEST} is damaged"


def _differs(folder: Path, files: dict[str, dict[str, Any]]) -> str | None:
    """How what is there is not what was sealed."""
    try:
        there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        del there[MANIFEST]
        for name in sorted(files.keys() | there.keys()):
            if name not in there:
                return f"{name} is missing"
            if name not in files:
                return f"{name} is not in its {MANIFEST}"
            if _facts(there[name]) != files[name]:
                return f"{name} is not what was written (its size or SHA-256)"
    except _StrangeFileError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error})"
    return None


class _StrangeFileError(Exception):
    """A link, a pipe: nothing that was ever written here."""


def _files(folder: Path) -> list[Path]:
    """All that is no folder.

    Raises:
        _StrangeFileError: one of them is no plain file.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise _StrangeFileError(f"{path.name} is no plain file")
    return paths


def _facts(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def sync(path: Path) -> None:
    """To the disk itself; a folder, too, whose entries are else lost with the power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

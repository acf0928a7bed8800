"""Whether a folder is whole: a manifest, written last, has name, size and SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

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
        sealed = json.loads((folder / MANIFEST).read_bytes())
        schema, files = sealed["schema"], dict(sealed["files"])
    except FileNotFoundError:
        return "it has no manifest: it was never finished"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"its {MANIFEST} is damaged"
    if schema != SCHEMA:
        return f"its {MANIFEST} has schema {schema!r}, this version reads {SCHEMA}"
    try:
        there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        there.pop(MANIFEST)
        if missing := sorted(files.keys() - there.keys()):
            return f"{missing[0]} is missing"
        if extra := sorted(there.keys() - files.keys()):
            return f"{extra[0]} is not in its {MANIFEST}"
        for name, path in there.items():
            if path.stat().st_size != dict(files[name])["size"]:
                return f"{name} has another size than when it was written"
            if _facts(path) != files[name]:
                return f"{name} is damaged: its SHA-256 is another than when it was written"
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    return None


def _files(folder: Path) -> list[Path]:
    """All that is no folder, links and sockets too.

    Raises:
        ValueError: one of them is no plain file.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path.name} is no plain file")
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

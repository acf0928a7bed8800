"""One process writes a run folder; a second one is refused."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from qtot.errors import QtotError


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of it when the process ends, however it does.

    Raises:
        QtotError: another process holds it, or it cannot be written.
    """
    path = folder / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise QtotError(f"cannot write the run folder {folder} ({error.strerror})") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            who = os.read(handle, 64).decode(errors="replace").strip() or "another process"
            raise QtotError(
                f"{folder} is being written by {who}; wait until it ends, or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        os.close(handle)

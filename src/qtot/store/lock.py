"""One process writes a run folder; a second one is refused."""

from __future__ import annotations

import contextlib
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from qtot.errors import QtotError, QtotWarning


class HeldError(QtotError):
    """Another process writes it."""


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a file ``path``, and with it its folder; the system lets go of it when the process ends,
    however it does.

    Raises:
        HeldError: another process holds it.
        QtotError: it cannot be written.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise QtotError(
            f"cannot write the run folder {folder} ({error.strerror}); choose another with --out, "
            "or a copy of the run where it can be written"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(handle, 64).decode(errors="replace").strip() or "another process"
            raise HeldError(
                f"{folder} is being written by {who}; wait until it ends, or stop it"
            ) from None
        except OSError as error:  # some network file systems know no locks
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): see to it that no other process "
                "writes it",
                QtotWarning,
                stacklevel=3,
            )
        with contextlib.suppress(OSError):  # a full disk: who it is goes unsaid
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        os.close(handle)

"""One worker process, as its parent sees it: started, given orders, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qtot.envs.host.worker import BEGIN, ORDER, SLOT, Job

START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from qtot.envs.host.worker import main; main(*map(int, sys.argv[2:]))"
)


class Child:
    """A process that runs ``worker.main``."""

    def __init__(self, board: int, job: Job):
        self.job = job
        self.made: set[int] = set()
        """groups whose environments are known to be made"""
        self.waiting: list[int] = []
        """groups whose orders it has not answered, in order"""
        ours, theirs = _pair()
        lifeline, self._alive = os.pipe()
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        files = (theirs, lifeline, board, self._stacks.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, _path(), *map(str, files)],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        os.close(theirs)
        os.close(lifeline)
        self.pipe = Connection(ours)
        with contextlib.suppress(OSError):  # one that has died says so when it is waited for
            self.pipe.send_bytes(pickle.dumps(job))

    def order(self, group: int, t: int | None) -> None:
        """Have something done."""
        self.waiting.append(group)
        kind = BEGIN if t is None else SLOT
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(ORDER.pack(kind, t or 0, group))

    def speaks(self, patience: float) -> bool:
        """Within so many seconds; also if it has died, since its pipe may be held open by what its
        environments have started.
        """
        deadline = time.monotonic() + patience
        while not self.pipe.poll(max(min(deadline - time.monotonic(), 0.5), 0.0)):
            if self.process.poll() is not None and not self.pipe.poll():
                raise EOFError
            if time.monotonic() >= deadline:
                return False
        return True

    def end(self, *, hangs: bool) -> tuple[str, str]:
        """Kill it if need be; how it ended, and the stacks that it left."""
        if hangs:
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGUSR1)
            self._stacks_written()
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        code = self.process.poll()
        self._kill()
        what = f"exit code {code}"
        if code is not None and code < 0:
            what = f"signal {_name(-code)}"
        self._stacks.seek(0)
        stacks = self._stacks.read().decode(errors="replace")
        self._give_back()
        return what, stacks

    def _stacks_written(self) -> None:
        size = 0
        for _ in range(20):
            time.sleep(0.1)
            before, size = size, os.fstat(self._stacks.fileno()).st_size
            if before == size > 0 or self.process.poll() is not None:
                break

    def close(self, deadline: float) -> None:
        """Wait for it to end until then, or end it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(deadline - time.monotonic(), 0.0))
        self._kill()
        self._give_back()

    def _kill(self) -> None:
        """With whatever processes its environments have started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _give_back(self) -> None:
        self.pipe.close()
        self._stacks.close()
        with contextlib.suppress(OSError):
            os.close(self._alive)


def _pair() -> tuple[int, int]:
    """Two ends of a way to talk."""
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the many without a name
        return str(number)


def _path() -> str:
    """What can be imported here can be imported there, also what was before ``os.chdir``."""
    path = [entry for entry in sys.path if isinstance(entry, str)]  # as Python does, others are not
    found = [str(Path(entry or ".").absolute()) for entry in path]
    return json.dumps(list(dict.fromkeys([*found, *_homes(found)])))


def _homes(known: list[str]) -> list[str]:
    """Folders that imported modules came from, and that are not on the path any more."""
    homes = {}
    for name, module in sys.modules.copy().items():
        spec: Any = getattr(module, "__spec__", None)
        if "." in name or type(getattr(spec, "loader", None)) is not SourceFileLoader:
            continue
        file = Path(spec.origin)
        home = str(file.parent.parent if spec.submodule_search_locations else file.parent)
        if home not in known and spec.name == name:
            homes[home] = True
    return list(homes)


def _environment() -> dict[str, str]:
    """A worker uses one core, and no GPU unless its user says so."""
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**alone, "JAX_PLATFORMS": "cpu", **os.environ}

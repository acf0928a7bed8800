"""One trial's process, as the sweep sees it, and what it runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qtot.errors import QtotError
from qtot.tracking.base import TrackerError

START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from qtot.sweeping.child import main; main(sys.argv[2])"
)
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""several children take of a GPU's memory what they need, where the first would take most of it"""
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
"""exit codes of a child that was asked to stop: saved, and before there was anything to save"""

NO_TRACKER = 75
"""exit code of a child that has lost nothing: a tracker could not begin"""


@dataclass(frozen=True)
class Job:
    """What a child is to do."""

    config: dict[str, Any]
    out: str
    resume: bool
    """whether there is a run to go on with"""
    cpus: tuple[int, ...]
    """it may use; empty: all"""
    tune: bool
    keep: bool
    """as in ``process.prepare``"""
    track: tuple[str, ...]
    """trackers, besides those that a run has with which it goes on"""


class Child:
    """A process that trains. It saves and leaves when it is told to stop, and when its parent ends,
    however that happens: the pipe to its standard input closes.
    """

    def __init__(self, job: Job, place: int, log: Path):
        self.place, self.log = place, log
        self.asked = False
        """whether it was told to stop"""
        try:
            log.unlink(missing_ok=True)  # of the process before; never written through a link
            with log.open("xb") as file:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", START, _path(), json.dumps(asdict(job))],
                    stdin=subprocess.PIPE,
                    env={**SHARED, **os.environ},
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # Ctrl-C is for the parent alone
                )
        except OSError as error:
            raise QtotError(f"a trial cannot be started: {log}: {error.strerror}") from None

    def stop(self) -> None:
        """Tell it to save and leave."""
        self.asked = True
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        """With whatever it has started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> str:
        """After its end: the last line that it said. A log in which nothing is goes."""
        self.stop()
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if not lines:
                self.log.unlink()
            return lines[-1][:500] if lines else ""
        return ""


def cpus_of(place: int, places: int, cores: int) -> tuple[int, ...]:
    """The share of one of ``places`` children, where ``cores`` may be used; empty: all."""
    if places < 2 or not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    share = max(1, min(cores, len(allowed)) // places)
    return tuple(allowed[(place * share + i) % len(allowed)] for i in range(share))


def _path() -> str:
    """What can be imported here can be imported there."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return json.dumps([str(Path(entry or ".").absolute()) for entry in path])


def main(said: str) -> None:
    """The child: trains, and says in a line what was wrong."""
    job = Job(**json.loads(said))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if job.cpus:
        os.sched_setaffinity(0, job.cpus)
    try:
        _train(job)
    except QtotError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(NO_TRACKER if isinstance(error, TrackerError) else 2)
    except KeyboardInterrupt as stop:
        sys.stderr.flush()
        os._exit(128 + getattr(stop, "signum", signal.SIGINT))


def _train(job: Job) -> None:
    from qtot.config import TrainConfig, nested_replace
    from qtot.process import prepare

    prepare(tune=job.tune, keep=job.keep)
    from qtot.api import resume, train_config

    config = nested_replace(TrainConfig(), job.config)
    if job.resume:
        # The sweep has seen that the run has this configuration, which its user has named again.
        resume(job.out, env=config.env, trust=True, quiet=True, track=job.track)
    else:
        train_config(config, job.out, quiet=True, track=job.track)


def _leave_with_parent() -> None:
    """Once the other end of standard input is closed."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)

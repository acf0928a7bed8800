"""TensorBoard: event files in ``RUN/tensorboard/seed-S``."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtot.tracking.base import Facts, Row, Status, package


class Tracker:
    """One folder of event files per seed, which TensorBoard shows as a run."""

    rewinds, sends = True, False

    def __init__(self) -> None:
        self._open: Any = package("tensorboardX", "tensorboard").RecordWriter
        self._proto: Any = package("tensorboardX.proto.event_pb2", "tensorboard")
        self._summary: Any = package("tensorboardX.summary", "tensorboard")
        self._files: dict[int, Any] = {}
        self.said: list[str] = []

    def begin(self, facts: Facts, since: Mapping[int, int] | None) -> set[int]:
        """A new event file; where there are others, it says what of them counts no longer."""
        text = "\n".join(["| | |", "|-|-|", *(f"| {k} | {v} |" for k, v in facts.config.items())])
        for seed in facts.ids:
            self._files[seed] = self._open(str(_new_file(facts.folder / f"seed-{seed}")))
            step = 0 if since is None else since[seed] + 1
            self._write(seed, step, file_version="brain.Event:2")
            if since is not None:
                start = self._proto.SessionLog(status=self._proto.SessionLog.START)
                self._write(seed, step, session_log=start)
            self._write(seed, step, summary=self._summary.text("config", text))
        self._flush()
        self.said = [f"tensorboard --logdir {facts.folder}"]
        return set(facts.ids) if since is not None else set()

    def log(self, rows: list[Row]) -> None:
        """On disk when this returns: tensorboardX's own writer would leave that to a thread."""
        for row in rows:
            for name, value in row.values.items():
                self._write(row.seed, row.step, summary=self._summary.scalar(name, value))
        self._flush()

    def close(self, status: Status, result: list[Row]) -> None:
        """What the closing table has besides the last row, at its step."""
        try:
            self.log([row.beside() for row in result])
        finally:  # what cannot be written is still not left open
            for file in self._files.values():
                with contextlib.suppress(OSError):
                    file.close()

    def _write(self, seed: int, step: int, **what: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=step, **what)
        self._files[seed].write(event.SerializeToString())

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()


def _new_file(folder: Path) -> Path:
    """After those that are there in the order of names, by which TensorBoard reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(list(folder.iterdir()))  # two of one second must not be one
    return folder / f"events.out.tfevents.{time.time():010.0f}.{count:04d}.{socket.gethostname()}"

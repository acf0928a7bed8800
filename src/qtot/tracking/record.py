"""``tracking.json``: the id under which a run is tracked, what each tracker was given, and which
took the run's end.

It may be a stranger's. It names no tracker's run, no server and no path: what a tracker run is
called follows from the id by a digest, so that nobody can point it at a run that is there already.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import threading
from typing import Any

from qtot.errors import QtotError
from qtot.store.run_folder import RunFolder
from qtot.tracking.base import TRACKERS

Given = dict[int, int]
"""the last step of each seed"""


class Record:
    """What ``tracking.json`` of a run holds."""

    def __init__(self, folder: RunFolder, known: str | None = None):
        self.folder = folder
        self.id = known or secrets.token_hex(16)
        self.given: dict[str, Given] = {}
        self.ended: set[str] = set()
        """those that took the closing table; older files tell of none"""
        self.closed = False
        """whether the session is over, and ``tracking.json`` may be another's"""
        self._writing = threading.Lock()

    @staticmethod
    def of(folder: RunFolder) -> Record:
        """The run's, or a new one.

        Raises:
            QtotError: it is damaged.
        """
        value = folder.tracking()
        if value is None:
            return Record(folder)
        try:
            record = Record(folder, _id(value["id"]))
            record.given = {name: _given(name, steps) for name, steps in value["given"].items()}
            record.ended = _ended(value.get("ended", []))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise QtotError(
                f"{folder.path / 'tracking.json'} is damaged ({str(error)[:80]}); delete it, and "
                "the run goes on without the trackers that it had"
            ) from None
        return record

    def id_of(self, seed: int) -> str:
        """Of the tracker run of a seed."""
        return hashlib.sha256(f"{self.id} {seed}".encode()).hexdigest()[:16]

    def give(self, name: str, given: Given) -> None:
        """Write down that a tracker is given rows up to these steps, and so has not taken the end.
        Where that cannot be written, a run that is killed may give them twice. Nothing is written
        once it is closed.
        """
        with self._writing:
            if not self.closed:
                self.given[name] = {**self.given.get(name, {}), **given}
                self.ended.discard(name)
                self._write()

    def end(self, name: str) -> None:
        """Write down that a tracker took the run's end. Nothing is written once it is closed."""
        with self._writing:
            if not self.closed:
                self.ended.add(name)
                self._write()

    def _write(self) -> None:
        value = {"id": self.id, "given": self.given, "ended": sorted(self.ended)}
        with contextlib.suppress(OSError):
            self.folder.write_tracking(value)

    def close(self) -> None:
        """Before the run folder is let go: a tracker that hangs may come back after that."""
        with self._writing:
            self.closed = True


def behind(folder: RunFolder) -> list[str]:
    """The trackers of a run that has ended that lack rows of its metrics, or its end.

    Raises:
        QtotError: the record, or the metrics, are damaged.
    """
    record = Record.of(folder)
    last = {row["seed"]: row.get("env_steps") for row in folder.metrics()} if record.given else {}
    return [
        name
        for name, steps in record.given.items()
        if name not in record.ended
        or any(type(step) is int and steps.get(seed, -1) < step for seed, step in last.items())
    ]


def _id(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{32}", value):
        raise ValueError(f"no id: {value!r}")
    return value


def _ended(names: Any) -> set[str]:
    if not isinstance(names, list):
        raise ValueError(f"no names: {names!r}")
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ValueError(f"no tracker: {unknown[0]!r}")
    return set(names)


def _given(name: str, steps: dict[str, Any]) -> Given:
    if name not in TRACKERS:
        raise ValueError(f"no tracker: {name!r}")
    for seed, step in steps.items():
        if not re.fullmatch(r"[0-9]{1,18}", seed) or type(step) is not int or abs(step) >= 2**63:
            raise ValueError(f"no step of a seed: {seed!r}: {step!r}")
    return {int(seed): step for seed, step in steps.items()}

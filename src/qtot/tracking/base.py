"""What a tracker is, and which there are. Their packages are imported when one is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

from qtot.errors import QtotError, unknown
from qtot.extras import extra_module

Name = Literal["tensorboard", "wandb", "mlflow"]
Status = Literal["finished", "stopped", "failed"]
TRACKERS: dict[str, str] = {
    "tensorboard": "qtot.tracking.tensorboard",
    "wandb": "qtot.tracking.wandb",
    "mlflow": "qtot.tracking.mlflow",
}
"""where the class ``Tracker`` of each is"""
BESIDE = ("best/", "peak_", "share/")
"""how names begin that only the closing table has"""


class TrackerError(QtotError):
    """One that was asked for cannot begin; of the run nothing is lost."""


class Facts(NamedTuple):
    """What a tracker is told of a run."""

    name: str
    """the run folder's"""
    folder: Path
    """for the tracker's own files, in the run folder"""
    config: dict[str, Any]
    """every hyperparameter by its dotted name"""
    ids: dict[int, str]
    """for each seed's tracker run: nobody can make one that names a run of somebody else"""
    named: bool
    """whether the user asked for the tracker now, or a run folder says that it was there"""


class Row(NamedTuple):
    """One seed's numbers at one log."""

    seed: int
    step: int
    """environment steps, the x axis"""
    values: dict[str, float]
    """by the names of ``METRICS``; finite"""

    def beside(self) -> Row:
        """Of one of the closing table, what the last log has not."""
        new = {k: v for k, v in self.values.items() if k.startswith(BESIDE)}
        return self._replace(values=new)


class Tracker(Protocol):
    """One tracker, with a tracker run for each seed. All of it is called by one thread, in which
    it may fail or wait as it likes.
    """

    rewinds: bool
    """whether ``begin`` takes back what came after ``since``"""
    sends: bool
    """whether anything leaves this machine that a run folder's word is not enough for"""
    said: list[str]
    """what the user should know, once it has begun"""

    def begin(self, facts: Facts, since: Mapping[int, int] | None) -> set[int]:
        """Begin the tracker's runs, or go on with them.

        Args:
            facts: the run's.
            since: None for a new run; else, of each seed, the last step of what it was given and
                what stays: later ones come again.

        Returns:
            The seeds whose tracker run goes on, and holds what it was given before.
        """
        ...

    def log(self, rows: list[Row]) -> None:
        """Rows in the order of their steps."""
        ...

    def close(self, status: Status, result: list[Row]) -> None:
        """Everything to where it belongs; ``result`` is the closing table, empty without one."""
        ...


def package(module: str, extra: str) -> ModuleType:
    """A tracker's own; ``extra_module`` in its name.

    Raises:
        QtotError: it is missing or broken; says how to install it.
    """
    return extra_module(module, extra, f"--track {extra}")


def make_tracker(name: str) -> Tracker:
    """One of ``TRACKERS``, not begun.

    Raises:
        QtotError: its package is missing.
    """
    return importlib.import_module(TRACKERS[name]).Tracker()


def asked_for(names: Iterable[str]) -> dict[str, Tracker]:
    """The trackers of these names, each once.

    Raises:
        QtotError: there is no such tracker, or its package is missing.
    """
    if isinstance(names, str):
        raise QtotError(f"track must be a sequence of names, such as ({names!r},), got {names!r}")
    made: dict[str, Tracker] = {}
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", str(name), TRACKERS)
        if name not in made:
            made[name] = make_tracker(name)
    return made

"""Checkpoints of a run: folders that are there as a whole, or not at all.

checkpoints/step-000000123456/        arrays/ (Orbax), run.json, manifest.json
checkpoints/step-000000123456-best/   the same, of the best evaluation so far
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from qtot.errors import QtotError
from qtot.store.seal import broken, seal, sync

NAME = re.compile(r"step-(\d{12})(-best)?")


class Checkpoint(NamedTuple):
    """One that has been written; whether it is whole is another question (``broken``)."""

    path: Path
    step: int
    best: bool


class Checkpoints:
    """Those of a run. One process writes; anyone may read."""

    def __init__(self, folder: Path):
        self.folder = folder

    def all(self) -> list[Checkpoint]:
        """The newest first."""
        try:
            paths = list(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise QtotError(f"{self.folder} cannot be read ({error.strerror})") from None
        found = [
            Checkpoint(path, int(name[1]), name[2] is not None)
            for path in paths
            if (name := NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()
        ]
        return sorted(found, key=lambda one: (one.step, not one.best), reverse=True)

    def whole(self) -> Iterator[tuple[Checkpoint, str | None]]:
        """Each with what is wrong with it: the newest first, then those of best evaluations, which
        lack the replay.
        """
        for found in sorted(self.all(), key=lambda one: one.best):
            yield found, broken(found.path)

    def write(self, step: int, fill: Callable[[Path], None], *, best: bool, keep: int) -> Path:
        """What ``fill`` puts into a new folder, under its name once all of it is on disk. Then
        older ones go: the last ``keep`` stay, and the best.
        """
        path = self.folder / f"step-{step:012d}{'-best' * best}"
        made = self.folder / f".writing-{path.name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            _remove(made)
            made.mkdir()
            fill(made)
            seal(made)
            if path.exists():  # written before the run was resumed, and perhaps damaged
                _remove(path)
            made.rename(path)
            sync(self.folder)
        except BaseException:
            _remove(made)
            raise
        with contextlib.suppress(OSError):  # it is written, whatever becomes of old ones
            self._prune(keep)
        return path

    def _prune(self, keep: int) -> None:
        found = self.all()
        last = [x for x in found if not x.best][:keep]
        best = [x for x in found if x.best][:1]
        for old in found:
            if old not in last + best:
                _remove(old.path)

    def tidy(self, step: int) -> None:
        """Before a run goes on from ``step``: remove what a writer who was killed left behind, and
        what came after, which is damaged or comes again. It would push out what is written now.
        """
        for found in self.all():
            if found.step > step:
                _remove(found.path)
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.name.startswith((".writing-", ".removing-")):
                    shutil.rmtree(path, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Out of sight at once, then from the disk: half a checkpoint is never in the list."""
    away = folder.with_name(f".removing-{folder.name.lstrip('.')}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(away, ignore_errors=True)
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)

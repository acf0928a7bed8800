"""What a check of an environment in Python found: each problem once, with how often it was seen."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import qtot
from qtot.envs.host.base import GarbageError
from qtot.envs.report import Problem, Severity, problem

QTOT = str(Path(qtot.__file__).parent)
SENTENCE = re.compile(r"(?:(.+?): )?expected (.+?), got (.+?)(?:; (.+))?")
LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<frozen")


@dataclass
class _First:
    """Where something was first seen, and what was to be said of it there."""

    place: str
    why: tuple[str, str, str]
    severity: Severity
    count: int = 0


@dataclass
class Found:
    """Problems, each told where it was first seen, and how often it was."""

    _told: dict[tuple[str, str], _First] = field(default_factory=dict)

    def tell(
        self, kind: str, what: str, place: str, *why: str, severity: Severity = "error"
    ) -> None:
        """``why``: expected, got, remedy."""
        expected, got, remedy = why
        new = _First(place, (expected, got, remedy), severity)
        self._told.setdefault((kind, what), new).count += 1

    def raised(self, kind: str, place: str, error: BaseException, expected: str) -> None:
        """An exception of the user's code, or an adapter's word for what it was given."""
        if isinstance(error, GarbageError):
            self.tell("garbage", *_parts(error, place))
            return
        at = origin(error)
        self.tell(kind, at, place, expected, f"{summary(error)} at {at}", "mend it there")

    def __iter__(self) -> Iterator[Problem]:
        for (kind, what), first in self._told.items():
            often = f" (first of {first.count})" if first.count > 1 else ""
            # where code is at fault, its line is a part of what was got
            where = first.place if kind.endswith("_raised") else f"{what}, {first.place}"
            yield problem(kind, where + often, *first.why, severity=first.severity)


def _parts(error: GarbageError, place: str) -> tuple[str, str, str, str, str]:
    """What ``tell`` is to be told of an adapter's sentence, "WHERE: expected ..., got ...; REMEDY",
    of which the first and the last may be missing.
    """
    said = " ".join(str(error).split()).rstrip(".")
    found = SENTENCE.fullmatch(said)
    mend = "mend what the environment returns there"
    if found is None:
        return "an answer", place, "what training can use", said, mend
    what, expected, got, remedy = found.groups()
    return what or "an answer", place, expected, got, remedy or mend


def summary(error: BaseException) -> str:
    """Type and first line of the message."""
    return f"{type(error).__name__} ({str(error).partition(chr(10))[0].rstrip('.')})"


def origin(error: BaseException) -> str:
    """``file:line`` of the user's code: the innermost frame that is no library's, nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(QTOT)]
    users = [
        frame
        for frame in theirs
        if not frame.filename.startswith(LIBRARIES) and "site-packages" not in frame.filename
    ]
    last = (users or theirs or frames)[-1:]
    return f"{last[0].filename}:{last[0].lineno}" if last else "an unknown place"

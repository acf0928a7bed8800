"""What a check of an environment found, and how it is told. Free of JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qtot.errors import QtotError

Severity = Literal["error", "notice"]


@dataclass(frozen=True)
class Problem:
    """One way in which an environment departs from the contract."""

    kind: str
    """which check found it, such as ``mask_inverted``"""
    message: str
    """where, what was expected, what was got, and what to do"""
    severity: Severity = "error"


def problem(
    kind: str, where: str, expected: str, got: str, remedy: str, *, severity: Severity = "error"
) -> Problem:
    """A problem, told in the order of every message of the checker."""
    return Problem(kind, f"{where}: expected {expected}, got {got}; {remedy}", severity)


@dataclass(frozen=True)
class Report:
    """What a checker found."""

    name: str
    facts: dict[str, Any]
    """what was seen in play; empty where the environment could not be played"""
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """No errors; notices may remain."""
        return all(found.severity == "notice" for found in self.problems)

    def raise_if_broken(self) -> None:
        """Raises QtotError, with the whole report in it, unless ``ok``."""
        if not self.ok:
            raise QtotError(f"the environment breaks its contract: {self}")

    def __str__(self) -> str:
        names = [f"{fact.replace('_', ' ')}:" for fact in self.facts]
        width = max(map(len, names), default=0)
        facts = [
            f"  {name:{width}} {_plain(value)}"
            for name, value in zip(names, self.facts.values(), strict=True)
        ]
        worst_first = sorted(self.problems, key=lambda found: found.severity)
        found = [f"{p.severity} [{p.kind}] {p.message}" for p in worst_first]
        return "\n".join([self.name, *facts, *(found or ["no problems found"])])


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        if len(value) > 1 and value == value[:1] * len(value):
            return f"{value[0]} each"
        return ", ".join(map(str, value))
    if value is None or isinstance(value, bool):
        return {None: "unknown", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Errors that are the user's to mend: one sentence, no traceback at the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QtotError(ValueError):
    """What was expected, what was got, where, and what to do. The command exits with code 2."""


class QtotWarning(UserWarning):
    """What a user should know while things go on. The command says it in one line."""


def unknown(kind: str, got: str, known: Iterable[str]) -> QtotError:
    """The error for a misspelt name: says the nearest valid choice, or lists them all."""
    known = list(known)
    close = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(known)}"
    return QtotError(f"unknown {kind} {got!r}; {hint}")

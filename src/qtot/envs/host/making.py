"""Making what the user names: arguments from ``KEY=VALUE``, and errors that say where."""

from __future__ import annotations

import ast
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from qtot.envs.host.base import ERRORS, GarbageError
from qtot.errors import QtotError

SEE = "see its documentation for the names of those it takes"


def arguments(given: Sequence[str]) -> dict[str, Any]:
    """``("N=5", "map=small")`` as keywords: Python literals, or else strings.

    Raises:
        QtotError: one is no KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise QtotError(f"args must look like KEY=VALUE, such as N=5, got {item!r}")
        if key in found:
            raise QtotError(f"args name {key!r} twice")
        try:
            found[key] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found[key] = value
    return found


def make(factory: Callable[..., Any], args: dict[str, Any], name: str) -> Any:
    """``factory(**args)``.

    Raises:
        QtotError: it raised; says what, and the user's own line.
    """
    try:
        return factory(**args)
    except QtotError:
        raise
    except ERRORS as error:
        unknown = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
        if unknown and (wrong := [key for key in args if f"'{key}'" in str(error)]):
            raise QtotError(
                f"environment {name!r} takes no argument {wrong[0]!r}; {_taken(factory)}"
            ) from error
        raise failed(f"environment {name!r} could not be made", error) from error


def failed(what: str, error: BaseException) -> QtotError:
    """What the user's code raised, and the line where it did."""
    frames = traceback.extract_tb(error.__traceback__)
    said = " ".join(str(error).split())
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else ""
    if isinstance(error, GarbageError):  # a sentence of ours
        return QtotError(f"{what}: {said}")
    return QtotError(f"{what}: {type(error).__name__} ({said}){where}")


def _taken(factory: Callable[..., Any]) -> str:
    """The keywords that it takes, if it says so."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if not parameters and callable(factory):
        return "it takes none" if inspect.isfunction(factory) else SEE
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return SEE
    return f"it takes {', '.join(p.name for p in parameters)}"

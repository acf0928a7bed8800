"""Objects of the user's own, by name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qtot.errors import QtotError


def import_object(path: str, option: str) -> Any:
    """What ``package.module:name`` names; modules in the working directory are found, too.

    Raises:
        QtotError: there is none; says which part is missing.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise QtotError(f"{option} must look like 'package.module:name', got {path!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises is about that module
        unknown = isinstance(error, ModuleNotFoundError) and error.name == module
        near = (file.stem for file in Path(here).glob("*.py")) if unknown else ()
        raise QtotError(
            f"{option} {path!r}: importing {module!r} raised {type(error).__name__} ({error})"
            + (_near(module, near) or f"; it is neither in {here} nor installed" * unknown)
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = _near(part, dir(found))
            raise QtotError(f"{option} {path!r}: module {module!r} has no {name!r}{near}")
        found = getattr(found, part)
    return found


def _near(got: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(got, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""

"""Objects of the user's own, by name."""

from __future__ import annotations

import importlib
import sys
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
        raise QtotError(
            f"{option} {path!r}: importing {module!r} raised {type(error).__name__} ({error})"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise QtotError(f"{option} {path!r}: module {module!r} has no {name!r}")
        found = getattr(found, part)
    return found

"""Packages that only some environments need, imported when one of them is made."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from qtot.errors import QtotError


@functools.cache
def host_module(module: str, extra: str) -> ModuleType:
    """The module ``module``, which ``pip install 'qtot[extra]'`` installs.

    Raises:
        QtotError: its package is missing, or one that it needs; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module.partition(".")[0], error, f"pip install 'qtot[{extra}]'") from error


def missing(package: str, error: ImportError, remedy: str) -> QtotError:
    """The error for a package that cannot be imported."""
    why = f"; {error}" if getattr(error, "name", None) != package else ""
    return QtotError(f"this needs the package {package!r}{why}; {remedy}")

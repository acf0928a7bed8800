"""Packages that only some of qtot needs, imported when that is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from qtot.errors import QtotError


def extra_module(module: str, extra: str, who: str = "this") -> ModuleType:
    """The module ``module``, which ``pip install 'qtot[extra]'`` installs; ``who`` needs it.

    Raises:
        QtotError: its package is missing, or one that it needs; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f"pip install 'qtot[{extra}]'"
        raise missing(module.partition(".")[0], error, remedy, who) from error


def missing(package: str, error: ImportError, remedy: str, who: str = "this") -> QtotError:
    """The error for a package that cannot be imported."""
    why = f"; {error}" if getattr(error, "name", None) != package else ""
    return QtotError(f"{who} needs the package {package!r}{why}; {remedy}")

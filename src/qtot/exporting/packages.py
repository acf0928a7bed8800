"""Packages that only exporting needs."""

from __future__ import annotations

import importlib
from types import ModuleType

from qtot.errors import QtotError


def export_module(name: str, extra: str = "onnx") -> ModuleType:
    """The module ``name``, which ``pip install 'qtot[onnx]'`` installs.

    Raises:
        QtotError: it is missing or broken; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise QtotError(
            f"this needs the package {name.partition('.')[0]!r}, which does not import ({error}); "
            f"install it with: pip install 'qtot[{extra}]'"
        ) from error

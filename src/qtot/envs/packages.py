"""Importing an environment package: lazily, quietly, and with a clear word when it is missing."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from qtot.errors import QtotError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Packages warn and print while they are imported, and one of JaxMARL's modules then points
    ``sys.stdout`` and ``sys.stderr`` at the interpreter's originals, which would silence a
    notebook.
    """
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    saved = {name: getattr(sys, name) for name in names}
    try:
        for name in names:
            setattr(sys, name, io.StringIO())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, stream in saved.items():
            setattr(sys, name, stream)


def package_module(name: str, requirement: str) -> ModuleType:
    """The module called ``name``, of a package that pip installs as ``requirement``.

    Raises:
        QtotError: the package is missing or broken; says how to install it.
    """
    try:
        with _quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise QtotError(
            f"this environment needs the package {name.partition('.')[0]!r}, which does not import "
            f"({error}); install it with: pip install '{requirement}'"
        ) from error

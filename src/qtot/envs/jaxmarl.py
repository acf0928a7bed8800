"""Importing JaxMARL: lazily, quietly, and with a clear word when it is missing."""

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
    """The package prints while it is imported, and one of its modules then points ``sys.stdout``
    and ``sys.stderr`` at the interpreter's originals, which would silence a notebook.
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


def jaxmarl_module(name: str) -> ModuleType:
    """``jaxmarl.environments.<name>``.

    Raises:
        QtotError: the package is missing or broken; says how to install it.
    """
    try:
        with _quiet():
            return importlib.import_module(f"jaxmarl.environments.{name}")
    except ImportError as error:
        raise QtotError(
            f"this environment needs the package 'jaxmarl', which does not import ({error}); "
            "install it with: pip install 'jaxmarl>=0.2,<0.3'"
        ) from error

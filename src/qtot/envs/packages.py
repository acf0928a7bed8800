"""Importing an environment package: lazily, quietly, and with a clear word when it is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

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


class _Package(ModuleType):
    """A package whose ``__init__`` runs when something is asked of it that only that defines.

    Importing one of its modules does not ask: a package that gathers all of its own environments,
    and compiles their constants, costs seconds for the sake of one. Whoever imports the package
    itself gets all of it, and the modules that are there already.
    """

    def __getattr__(self, name: str) -> Any:
        module = f"{self.__name__}.{name}"
        if not name.startswith("__") and importlib.util.find_spec(module) is not None:
            return importlib.import_module(module)
        _open(self)
        return getattr(self, name)


_RUNNING = threading.RLock()


def _open(package: ModuleType) -> None:
    """Run the ``__init__`` of a package that has waited; from then on it is one like any other."""
    with _RUNNING:
        if isinstance(package, _Package):
            package.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
            assert package.__spec__ is not None
            assert package.__spec__.loader is not None
            try:
                package.__spec__.loader.exec_module(package)
            except BaseException:
                package.__class__ = _Package  # pyright: ignore[reportAttributeAccessIssue]
                raise


def _unopened(name: str) -> None:
    """Let the package ``name`` wait; one that is imported already stays as it is."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return  # missing, or a single file: importing it will say so
    package = _Package(name, None)
    package.__spec__, package.__loader__ = spec, spec.loader
    package.__path__, package.__file__ = spec.submodule_search_locations, spec.origin
    package.__package__ = name
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


def package_module(name: str, requirement: str) -> ModuleType:
    """The module called ``name``, of a package that pip installs as ``requirement``; of the
    packages that it lies in nothing else is imported.

    Raises:
        QtotError: the package is missing or broken; says how to install it.
    """
    parts = name.split(".")
    try:
        with _quiet():
            above = [".".join(parts[:depth]) for depth in range(1, len(parts))]
            for package in above:
                _unopened(package)
            try:
                return importlib.import_module(name)
            except ImportError:  # a circle that only the usual order goes round
                for package in above:
                    _open(sys.modules[package])
                return importlib.import_module(name)
    except ImportError as error:
        raise QtotError(
            f"this environment needs the package {name.partition('.')[0]!r}, which does not import "
            f"({error}); install it with: pip install '{requirement}'"
        ) from error

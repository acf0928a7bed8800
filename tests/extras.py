"""Tests of optional packages are skipped where one is missing; CI has them all, and fails."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from types import ModuleType

import pytest


def needs(extra: str) -> pytest.MarkDecorator:
    """For tests that need the package of the extra ``qtot[extra]``, which has the same name."""
    missing = importlib.util.find_spec(extra) is None
    reason = f"needs the extra {extra!r}: pip install 'qtot[{extra}]'"
    return pytest.mark.skipif(missing and not os.environ.get("CI"), reason=reason)


def package(module: str, extra: str) -> ModuleType:
    """The module, for tests that use it at their head: without it, all of the file is skipped."""
    if importlib.util.find_spec(module.partition(".")[0]) is None and not os.environ.get("CI"):
        reason = f"needs the extra {extra!r}: pip install 'qtot[{extra}]'"
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(module)


def program(name: str) -> str:
    """Where a program is, for tests that run it: without it, all of the file is skipped."""
    found = shutil.which(name)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"needs {name}", allow_module_level=True)
    assert found is not None, f"CI has no {name}"
    return found

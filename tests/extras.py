"""Tests of optional packages are skipped where one is missing; CI has them all, and fails."""

from __future__ import annotations

import importlib.util
import os

import pytest


def needs(extra: str) -> pytest.MarkDecorator:
    """For tests that need the package of the extra ``qtot[extra]``, which has the same name."""
    missing = importlib.util.find_spec(extra) is None
    reason = f"needs the extra {extra!r}: pip install 'qtot[{extra}]'"
    return pytest.mark.skipif(missing and not os.environ.get("CI"), reason=reason)

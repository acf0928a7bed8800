"""Importing Jumanji (Bonnet et al. 2024)."""

from __future__ import annotations

from types import ModuleType

from qtot.envs.packages import package_module


def jumanji_module(name: str) -> ModuleType:
    """``jumanji.environments.routing.<name>``; QtotError where the package is missing."""
    return package_module(f"jumanji.environments.routing.{name}", "qtot[jumanji]")

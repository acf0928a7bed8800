"""Environments by name, ``family/task``. A family's module is imported when it is used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtot.errors import QtotError, unknown

if TYPE_CHECKING:
    from qtot.envs.base import JaxEnv


@dataclass(frozen=True)
class Family:
    """A module with ``tasks() -> tuple[str, ...]`` and ``make(task) -> JaxEnv``."""

    module: str
    example: str
    about: str


FAMILIES: dict[str, Family] = {
    "matrix": Family(
        "qtot.envs.matrix",
        "two_step",
        "payoff-matrix games of the QMIX, QTRAN and QPLEX papers, and random ones",
    ),
    "smax": Family(
        "qtot.envs.smax", "3m", "StarCraft-like battles against a heuristic enemy (JaxMARL)"
    ),
    "mpe": Family(
        "qtot.envs.mpe", "simple_spread", "multi-particle tasks, the cooperative ones (JaxMARL)"
    ),
    "lbf": Family("qtot.envs.lbf", "8x8-2p-2f-coop", "Level-Based Foraging (Jumanji)"),
    "rware": Family("qtot.envs.rware", "tiny-4ag", "the multi-robot warehouse (Jumanji)"),
    "overcooked": Family(
        "qtot.envs.overcooked",
        "cramped_room",
        "two cooks serve onion soups; LAYOUT-shaped also pays the steps to a soup (JaxMARL)",
    ),
    "overcooked_v2": Family(
        "qtot.envs.overcooked_v2",
        "grounded_coord_simple",
        "the same with recipes, for cooks who see 2 cells far; LAYOUT-shaped, too (JaxMARL)",
    ),
    "hanabi": Family(
        "qtot.envs.hanabi", "2p", "the card game of hints, with 2 to 5 players (JaxMARL)"
    ),
    "riddle": Family(
        "qtot.envs.riddle", "switch-3", "the riddle of the light switch, with N prisoners (JaxMARL)"
    ),
    "predator_prey": Family(
        "qtot.envs.predator_prey", "p2", "a hunt in which catching alone is punished (DCG, WQMIX)"
    ),
    "probe": Family("qtot.envs.probes", "chain", "tiny environments with known values, for tests"),
}


def family_of(name: str) -> str:
    """The part before the slash, checked."""
    family, slash, task = name.partition("/")
    if family not in FAMILIES:
        raise unknown("environment family", family, FAMILIES)
    if not slash or not task:
        raise QtotError(
            f"environment {name!r} names a family but no task; expected 'family/task', "
            f"such as '{family}/{FAMILIES[family].example}' ('qtot envs' lists them)"
        )
    return family


def tasks(family: str) -> tuple[str, ...]:
    """The tasks of one family."""
    return importlib.import_module(FAMILIES[family].module).tasks()


def make_env(name: str) -> JaxEnv:
    """The environment called ``name``, such as ``smax/3m`` or ``matrix/two_step``.

    Raises:
        QtotError: no such family or task; says the nearest one.
    """
    family = family_of(name)
    module = importlib.import_module(FAMILIES[family].module)
    task = name.partition("/")[2]
    try:
        return module.make(task)
    except KeyError:
        raise unknown(f"task of {family}/", task, module.tasks()) from None

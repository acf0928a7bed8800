"""Environments by name, ``family/task``. A family's module is imported when it is used.

Most are written in JAX. Those of ``host`` families are written in Python, and so may be the user's
own, ``package.module:factory``.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtot.envs.host.config import HostConfig
from qtot.errors import QtotError, unknown

if TYPE_CHECKING:
    from qtot.envs.base import JaxEnv
    from qtot.envs.host.base import HostEnv

OWN = "own"


@dataclass(frozen=True)
class Family:
    """A module with ``tasks() -> tuple[str, ...]`` and ``make(task) -> JaxEnv``; of a host family,
    with ``tasks(family)``, and ``host.own`` makes them.
    """

    module: str
    example: str
    about: str
    host: bool = False
    """written in Python, and adapted by ``envs/host``"""
    imports: bool = False
    """a task's name says what is imported"""


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
    "pettingzoo": Family(
        "qtot.envs.host.pettingzoo",
        "mpe2.simple_spread_v3",
        "any module with PettingZoo's parallel_env, or a parallelizable env",
        host=True,
        imports=True,
    ),
    "gym": Family(
        "qtot.envs.host.gymnasium",
        "Foraging-8x8-2p-2f-coop-v3",
        "any id registered with Gymnasium whose spaces are Tuples, one entry per agent",
        host=True,
        imports=True,
    ),
    "smac": Family("qtot.envs.host.smac", "3m", "StarCraft II micromanagement, SMAC", host=True),
    "smacv2": Family(
        "qtot.envs.host.smac", "terran_5_vs_5", "the same with random units and places", host=True
    ),
    "smaclite": Family(
        "qtot.envs.host.smac", "2s3z", "SMAC's battles without StarCraft II", host=True
    ),
    "probe": Family("qtot.envs.probes", "chain", "tiny environments with known values, for tests"),
}


def family_of(name: str) -> str:
    """The part before the slash, checked; "own" for ``package.module:factory``."""
    family, slash, task = name.partition("/")
    if ":" in family:
        module, _, factory = name.partition(":")
        if slash or not module or not factory:
            raise QtotError(
                f"an environment of your own must look like 'package.module:factory', got {name!r}"
            )
        return OWN
    if family not in FAMILIES:
        if not slash and not difflib.get_close_matches(family, FAMILIES, n=1, cutoff=0.5):
            raise QtotError(
                f"unknown environment {name!r}; expected 'family/task', such as 'smax/3m' ('qtot "
                "envs' lists them), or 'package.module:factory' for one of your own"
            )
        raise unknown("environment family", family, FAMILIES)
    if not slash or not task:
        raise QtotError(
            f"environment {name!r} names a family but no task; expected 'family/task', "
            f"such as '{family}/{FAMILIES[family].example}' ('qtot envs' lists them)"
        )
    return family


def is_in_graph(name: str) -> bool:
    """Whether the name says that the environment is written in JAX; one's own may be either."""
    family = family_of(name)
    return family != OWN and not FAMILIES[family].host


def names_code(name: str) -> bool:
    """Whether making the environment imports what its name says: on a run folder's word alone that
    must not happen.
    """
    family = family_of(name)
    return family == OWN or FAMILIES[family].imports


def tasks(family: str) -> tuple[str, ...]:
    """The tasks of one family; of a host family, examples."""
    found = FAMILIES[family]
    module = importlib.import_module(found.module)
    return module.tasks(family) if found.host else module.tasks()


def make_env(name: str, config: HostConfig = HostConfig()) -> JaxEnv | HostEnv:  # noqa: B008
    """The environment called ``name``, such as ``smax/3m``, ``gym/rware-tiny-2ag-v2`` or
    ``package.module:factory``.

    Args:
        name: ``family/task``, or one's own.
        config: of environments written in Python.

    Raises:
        QtotError: no such family or task; says the nearest one.
    """
    if not is_in_graph(name):
        from qtot.envs.host.own import open_env

        return open_env(name, config)
    return jax_env(name)


def jax_env(name: str) -> JaxEnv:
    """One of those that are written in JAX.

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

"""How environments look: what is there, and where it is in a state. Whoever draws reads records of
it (``store/records.py``) and needs no environment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Ground = Literal["plane", "grid", "table"]
"""a plane, y up; cells, which are numbered from the top left and whose middle is a whole number; or
nothing, where a payoff table is played"""
LOOKS: dict[str, str] = {
    "x": "where it is",
    "y": "where it is",
    "shown": "whether it is there",
    "health": "share that is left, 0 to 1",
    "wait": "share of a weapon's cooldown that is left, 0 to 1",
    "heading": "radians, counterclockwise from east as it is drawn",
    "target": "index of the thing that it attacked, -1 for none",
    "marked": "whether it stands out: a goal, a request, a load",
    "says": "what it said, -1 for nothing",
    "level": "a number that is written on it",
    "payoffs": "of every joint action, in a table",
}
"""what a state may say of every thing ``[K]``; what an environment does not have is left out"""


class Thing(NamedTuple):
    """Something that is drawn."""

    name: str
    kind: str
    """``agent`` (the first N things, in their order), ``enemy``, ``landmark``, ``prey``, ``food``,
    ``shelf`` or ``goal``"""
    radius: float
    """in the units of the ground"""


@dataclass(frozen=True)
class Scene:
    """A stage and what is on it."""

    ground: Ground
    bounds: tuple[float, float, float, float]
    """left, bottom, right and top of a plane; of a grid -0.5, rows - 0.5, columns - 0.5, -0.5"""
    things: tuple[Thing, ...]
    look: Callable[[Any], dict[str, Any]]
    """arrays of ``LOOKS`` in one environment's state; pure, can be vmapped"""


def grid(rows: int, columns: int) -> tuple[float, float, float, float]:
    """Bounds of so many cells."""
    return -0.5, rows - 0.5, columns - 0.5, -0.5


_FAMILIES = ("smax", "mpe", "predator_prey", "lbf", "rware", "matrix")
"""that have a module of that name, with ``scene(env)`` for an ``env`` that is a ``module.OF``"""


def scene_of(env: Any) -> Scene | None:
    """Of an environment written in JAX, if it has one."""
    family = env.spec.name.partition("/")[0]
    if family not in _FAMILIES:
        return None
    module = importlib.import_module(f"{__name__}.{family}")
    return module.scene(env) if isinstance(env, module.OF) else None  # one's own may be called so

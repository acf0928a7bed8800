"""Environments of the user's own: an object, or what makes one, recognised by its methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtot.envs.host import gymnasium, pettingzoo, smac
from qtot.envs.host.base import ERRORS, HostEnv
from qtot.envs.host.config import HostConfig
from qtot.envs.host.making import arguments, failed, make
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError, unknown
from qtot.objects import import_object

FAMILIES = {
    "pettingzoo": pettingzoo.from_name,
    "gym": gymnasium.from_name,
    "smac": smac.from_name,
    "smacv2": smac.from_name,
    "smaclite": smac.from_name,
}
QTOT = ("spec", "reset", "step")
AEC = (
    "possible_agents",
    "observation_space",
    "action_space",
    "reset",
    "step",
    "last",
    "agent_iter",
)
SHAPES = {  # what to write, and what it is recognised by
    "SMAC": smac.NEEDS,
    "PettingZoo AEC": AEC,
    "PettingZoo Parallel": pettingzoo.NEEDS,
    "Gymnasium with Tuple spaces": ("observation_space", "action_space", "reset", "step"),
    "qtot's own HostEnv or JaxEnv": QTOT,
}


def open_env(target: Any, config: HostConfig | None = None) -> HostEnv | Any:
    """The environment that ``target`` names, is, or makes; one written in JAX as it is.

    Args:
        target: ``family/task``, ``package.module:factory``, an environment of one of five shapes,
            or a callable that returns one and is given ``config.args`` as keywords.
        config: how it is made, how its rewards become the team's, where episodes are cut.

    Raises:
        QtotError: there is none such; says what was expected and what was missing.
    """
    config = config or HostConfig()
    if not isinstance(target, str):
        return _adapt(target, own_name(target), config)
    family, slash, task = target.partition("/")
    if slash and ":" not in family:
        if family not in FAMILIES:
            raise unknown("environment family", family, FAMILIES)
        return _taken(lambda: FAMILIES[family](task, target, config), target)
    return _adapt(import_object(target, "env"), target, config)


def _adapt(target: Any, name: str, config: HostConfig) -> Any:
    """An object if it is an environment, else what it makes."""
    if is_factory(target):
        target = make(target, arguments(config.args), name)
    shape = _shape(target)
    if shape is None:
        raise _none_of_them(target, name)
    if shape == "SMAC":
        return _taken(lambda: smac.SmacTeam(target, name, config), name)
    if shape == "Gymnasium with Tuple spaces":
        return _taken(lambda: gymnasium.GymnasiumTeam(target, name, config), name)
    if shape.startswith("PettingZoo"):
        parallel = pettingzoo.parallel(target, name)
        return _taken(lambda: pettingzoo.PettingZooTeam(parallel, name, config), name)
    return target


def is_factory(target: Any) -> bool:
    """Whether it is called for an environment; one that can be called is an environment still."""
    return callable(target) and (isinstance(target, type) or _shape(target) is None)


def _taken(adapt: Callable[[], HostEnv], name: str) -> HostEnv:
    """An environment as its adapter takes it, which reads its spaces and may reset it.

    Raises:
        QtotError: the environment raised, or returned what it must not.
    """
    try:
        return adapt()
    except QtotError:
        raise
    except ERRORS as error:
        raise failed(f"environment {name!r} cannot be used", error) from error


def _shape(env: Any) -> str | None:
    """Which of the shapes an object has. Its own contract goes first, so that one who writes it is
    taken at his word.
    """
    if isinstance(getattr(env, "spec", None), EnvSpec):
        ours = _has(env, QTOT) and (hasattr(env, "observe") or hasattr(env, "close"))
        return "qtot's own HostEnv or JaxEnv" if ours else None
    for shape, needs in SHAPES.items():
        if needs is not QTOT and _has(env, needs):
            return shape
    return None


def _has(env: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(env, name) for name in names)


def _none_of_them(env: Any, name: str) -> QtotError:
    if isinstance(getattr(env, "spec", None), EnvSpec):
        lacking = [part for part in (*QTOT, "close") if not hasattr(env, part)]
        return QtotError(
            f"environment {name!r} has a qtot EnvSpec, but no {', '.join(lacking)}; a HostEnv has "
            "reset, step and close, a JaxEnv reset, step and observe"
        )
    if env is None:
        return QtotError(f"environment {name!r}: the factory returned None; let it return one")
    lacks = [
        f"{shape} (it lacks {', '.join(part for part in needs if not hasattr(env, part))})"
        if needs is not QTOT
        else f"{shape} (it lacks an EnvSpec in spec)"
        for shape, needs in SHAPES.items()
    ]
    return QtotError(
        f"environment {name!r} is of type {type(env).__name__}, which is none of the five shapes "
        f"that qtot reads: {'; '.join(lacks)}"
    )


def own_name(target: Any) -> str:
    """What an environment is called that is given as an object, or as what makes one."""
    found = getattr(target, "__qualname__", None)
    return f"own:{found if isinstance(found, str) else type(target).__qualname__}"

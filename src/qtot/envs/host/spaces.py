"""Gymnasium's spaces as sizes, and as functions between their elements and padded arrays.

Observations become float32 features: a Box is flattened, Discrete is one-hot, and everything else
is flattened as ``gymnasium.spaces.utils.flatten`` does, a Dict in the order of its space. An image
is a Box of two or three dimensions; where it is of uint8 with the bounds 0 and 255, its pixels are
scaled to [0, 1], within a Dict, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtot.envs.host.base import GarbageError
from qtot.envs.host.packages import host_module
from qtot.errors import QtotError
from qtot.shapes import ObsShape

MOST_ACTIONS = 4096
MASK = "action_mask"


@dataclass(frozen=True)
class ObsReader:
    """One agent's observation space."""

    space: Any
    size: int
    """features"""
    write: Callable[[Any, np.ndarray], None]
    """``write(obs, row)`` fills ``row``, float32 ``[size]``; GarbageError for what does not fit"""


@dataclass(frozen=True)
class Actions:
    """One agent's actions, numbered from 0."""

    space: Any
    n: int
    decode: Callable[[int], Any]
    """what the environment calls the action of that number"""


def obs_reader(space: Any, whose: str) -> ObsReader:
    """How to read the observations of the agent ``whose``.

    Raises:
        QtotError: the space has no fixed number of features.
    """
    spaces = host_module("gymnasium.spaces", "gym")
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            raise _refused(whose, space, "it is empty; leave the agent one feature, always 0")
        return ObsReader(space, math.prod(space.shape), _box_writer(space))
    if isinstance(space, spaces.Discrete):
        return ObsReader(space, int(space.n), _discrete_writer(space))
    try:
        size = int(spaces.utils.flatdim(space))
    except (ValueError, NotImplementedError) as error:  # Text, Graph, Sequence, a custom one
        remedy = "it has no fixed number of features; wrap the environment to give a Box"
        raise _refused(whose, space, remedy) from error
    return ObsReader(space, size, _library_writer(space, size))


def _refused(whose: str, space: Any, reason: str) -> QtotError:
    return QtotError(f"the observation space of {whose} is {space}: {reason}")


def _box_writer(space: Any) -> Callable[[Any, np.ndarray], None]:
    shape, scale = space.shape, _scale(space)

    def write(obs: Any, row: np.ndarray) -> None:
        array = np.asarray(obs)
        if array.shape != shape:
            raise GarbageError(f"expected an observation of shape {shape}, got {array.shape}")
        try:
            row[:] = array if len(shape) == 1 else array.reshape(-1)
        except (TypeError, ValueError):
            raise GarbageError(f"expected an observation of numbers, got {array.dtype}") from None
        if scale != 1.0:
            row *= scale

    return write


def _discrete_writer(space: Any) -> Callable[[Any, np.ndarray], None]:
    n, start = int(space.n), int(space.start)

    def write(obs: Any, row: np.ndarray) -> None:
        try:
            index = int(obs) - start
        except (TypeError, ValueError):
            index = -1
        if not 0 <= index < n:
            raise GarbageError(f"expected an observation in {space}, got {obs!r}")
        row[:] = 0.0
        row[index] = 1.0

    return write


def _library_writer(space: Any, size: int) -> Callable[[Any, np.ndarray], None]:
    flatten = host_module("gymnasium.spaces", "gym").utils.flatten
    scales = np.asarray(_scales(space), np.float32)
    scaled = bool((scales != 1.0).any())

    def write(obs: Any, row: np.ndarray) -> None:
        try:
            flat = np.asarray(flatten(space, obs), np.float32)
        except Exception as error:  # KeyError, IndexError, ...: whatever the wrong form leads to
            reason = f"{type(error).__name__}: {error}"
            raise GarbageError(
                f"expected an observation in {space}, got {obs!r} ({reason})"
            ) from None
        if flat.shape != (size,):
            raise GarbageError(f"expected an observation of {size} features, got {flat.shape}")
        row[:] = flat * scales if scaled else flat

    return write


def is_image(space: Any) -> bool:
    """Whether the space is a Box of rows and columns, perhaps of channels."""
    spaces = host_module("gymnasium.spaces", "gym")
    return isinstance(space, spaces.Box) and len(space.shape) in (2, 3)


def _scale(space: Any) -> float:
    """What features are multiplied by."""
    pixels = is_image(space) and space.dtype == np.uint8
    return 1.0 / 255.0 if pixels and (space.low == 0).all() and (space.high == 255).all() else 1.0


def _scales(space: Any) -> list[float]:
    """The same for each feature of a space in which spaces are nested."""
    spaces = host_module("gymnasium.spaces", "gym")
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [scale for part in parts for scale in _scales(part)]
    return [_scale(space)] * int(spaces.utils.flatdim(space))


def shared_shape(observed: Sequence[Any]) -> ObsShape:
    """``EnvSpec.obs_shape`` of agents with these spaces: an image, or the parts of a Dict; () where
    observations are vectors, or agents differ. An image of two dimensions has one channel.
    """
    spaces = host_module("gymnasium.spaces", "gym")
    first = observed[0]
    if any(space != first for space in observed[1:]):
        return ()
    if is_image(first):
        return (*map(int, first.shape), 1)[:3]
    if isinstance(first, spaces.Dict):
        return tuple((str(name), _part(space)) for name, space in first.spaces.items())
    return ()


def pixels(observed: Sequence[Any]) -> tuple[str, ...]:
    """``EnvSpec.pixels`` of agents with these spaces."""
    spaces = host_module("gymnasium.spaces", "gym")
    if all(scale == 1.0 for space in observed for scale in _scales(space)):
        return ()
    space = observed[0]
    if not shared_shape(observed) or isinstance(space, spaces.Box):
        return ("",) if shared_shape(observed) else ("*",)
    parts = {str(name): part for name, part in space.spaces.items()}
    scaled = tuple(name for name, part in parts.items() if _scale(part) != 1.0)
    inside = any(set(_scales(part)) != {_scale(part)} for part in parts.values())
    return ("*",) if inside else scaled


def _part(space: Any) -> tuple[int, ...]:
    spaces = host_module("gymnasium.spaces", "gym")
    if isinstance(space, spaces.Box):
        return tuple(map(int, space.shape))
    return (int(spaces.utils.flatdim(space)),)


def legal_actions(mask: np.ndarray, what: str = "an action mask") -> np.ndarray:
    """Which actions a mask of 0 and 1 allows."""
    if mask.dtype.kind != "b" and (strange := mask[(mask != 0) & (mask != 1)]).size:
        raise GarbageError(
            f"expected {what} of 0 and 1, 1 = legal, got {strange[0]}; if it is to be added to "
            "values, give mask == 0"
        )
    return mask != 0


def without_mask(space: Any) -> tuple[Any, bool, bool]:
    """The space of what an agent observes, where the environment sends observation and mask as one
    Dict; whether there is a mask; and whether the observation is the entry "observation" alone.
    """
    spaces = host_module("gymnasium.spaces", "gym")
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces:
        return space, False, False
    rest = {name: part for name, part in space.spaces.items() if name != MASK}
    if set(rest) == {"observation"}:
        return rest["observation"], True, True
    if not rest:
        raise QtotError(f"the observation space {space} holds nothing but {MASK!r}")
    return spaces.Dict(rest), True, False


def actions_of(space: Any, whose: str) -> Actions:
    """The actions of the agent ``whose``; those of MultiDiscrete as one number, the last varying
    fastest.

    Raises:
        QtotError: they are continuous, or too many.
    """
    spaces = host_module("gymnasium.spaces", "gym")
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return Actions(space, int(space.n), (lambda a: a + start) if start else (lambda a: a))
    if isinstance(space, spaces.MultiDiscrete):
        return _combinations(space, whose)
    if isinstance(space, spaces.Box):
        raise QtotError(
            f"the actions of {whose} are {space}, but qtot's methods choose among numbered "
            "actions: wrap the environment so that it offers a few of them (Discrete), or use a "
            "method for continuous actions, such as MADDPG or FACMAC, which qtot does not have"
        )
    raise QtotError(
        f"the actions of {whose} are {space}; qtot reads Discrete and MultiDiscrete: wrap the "
        "environment so that it numbers its actions (Discrete)"
    )


def _combinations(space: Any, whose: str) -> Actions:
    sizes = space.nvec.reshape(-1)
    n = math.prod(map(int, sizes))
    if n > MOST_ACTIONS:
        raise QtotError(
            f"the actions of {whose} are {space}, {n} combinations, which are one number each; at "
            f"most {MOST_ACTIONS} can be learned: wrap the environment so that it offers fewer"
        )
    table = np.stack(np.unravel_index(np.arange(n), sizes), axis=1).reshape(n, *space.nvec.shape)
    table = (table + space.start).astype(space.dtype)
    return Actions(space, n, lambda a: table[a].copy())


def violation(space: Any, obs: Any) -> str | None:
    """How ``obs`` lies outside its declared space, "expected ..., got ..."; None if it does not."""
    spaces = host_module("gymnasium.spaces", "gym")
    if isinstance(space, spaces.Dict) and isinstance(obs, dict) and set(obs) == set(space.spaces):
        for name, part in space.spaces.items():
            if found := violation(part, obs[name]):
                return f"entry {name!r}: {found}"
        return None
    if not isinstance(space, spaces.Box):
        return None if space.contains(obs) else f"expected an element of {space}, got {obs!r}"
    array = np.asarray(obs)
    if array.shape != space.shape:
        return f"expected shape {space.shape}, got {array.shape}"
    wrong = np.argwhere(~((array >= space.low) & (array <= space.high)))  # NaN is wrong, too
    if not len(wrong):
        return None
    at = tuple(map(int, wrong[0]))
    low, high = space.low[at], space.high[at]
    return f"expected feature {list(at)} within [{low:g}, {high:g}], got {array[at]:g}"

"""The shape of one agent's observation before it was flattened into O features.

Free of JAX: environments state it, workers load it, and networks read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

ArrayShape = tuple[int, ...]
NamedShapes = tuple[tuple[str, ArrayShape], ...]
ObsShape = ArrayShape | NamedShapes
"""one array's; or the names and shapes of several, in the order in which they are flattened"""


def is_named(shape: ObsShape) -> TypeGuard[NamedShapes]:
    """Whether an observation is several arrays with names."""
    return bool(shape) and isinstance(shape[0], tuple)


def array_shape(shape: ObsShape) -> ArrayShape:
    """The same, where an observation is one array."""
    assert not is_named(shape)
    return tuple(size for size in shape if isinstance(size, int))


def features(shape: ObsShape) -> int:
    """Numbers in an observation of that shape."""
    if is_named(shape):
        return sum(math.prod(part) for _, part in shape)
    return math.prod(array_shape(shape))


def unflatten(obs: Any, shape: ObsShape) -> Any:
    """One observation ``[O]``, of NumPy or JAX, in its shape: an array, or a dict of arrays."""
    if not is_named(shape):
        return obs.reshape(shape)
    parts, start = {}, 0
    for name, part in shape:
        stop = start + math.prod(part)
        parts[name] = obs[start:stop].reshape(part)
        start = stop
    return parts


def flatten(obs: Mapping[str, Any], shape: NamedShapes) -> np.ndarray | None:
    """The inverse for named arrays, float32 ``[O]``; None if names or shapes are others."""
    if set(obs) != {name for name, _ in shape}:
        return None
    parts = [np.asarray(obs[name], np.float32) for name, _ in shape]
    if any(part.shape != tuple(want) for part, (_, want) in zip(parts, shape, strict=True)):
        return None
    return np.concatenate([part.reshape(-1) for part in parts])

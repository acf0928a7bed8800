"""What turns one agent's raw observation into features: a CNN, or a module of the user's own."""

from __future__ import annotations

import copy
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.nn import Init, Linear
from qtot.errors import QtotError
from qtot.objects import import_object
from qtot.shapes import ArrayShape, ObsShape, array_shape, is_named, unflatten
from qtot.types import Key

WINDOW = 3


class CNN(eqx.Module):
    """Convolutions of 3 × 3 with ReLU, the image's size kept, all pixels flattened at the end.

    Each is a product with the nine shifted images side by side: XLA's own convolution is up to ten
    times slower on a CPU where kernels are batched (agents or seeds with their own).
    """

    layers: tuple[Linear, ...]
    """over a pixel's window, row by row, channels last"""
    obs_shape: ArrayShape = eqx.field(static=True)

    def __init__(self, key: Key, channels: tuple[int, ...], obs_shape: ObsShape, init: Init):
        if is_named(obs_shape) or len(obs_shape) != 3:
            raise QtotError(
                f"agent.cnn reads images (rows, columns, channels), but this environment's "
                f"observations have the shape {obs_shape}; leave agent.cnn empty"
            )
        self.obs_shape = array_shape(obs_shape)
        sizes, keys = (self.obs_shape[-1], *channels), jax.random.split(key, len(channels))
        self.layers = tuple(
            Linear(k, WINDOW**2 * i, o, init, 2.0**0.5)
            for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
        )

    @property
    def features(self) -> int:
        """Numbers that come out."""
        return math.prod(self.obs_shape[:2]) * self.layers[-1].bias.shape[-1]

    def __call__(self, obs: Float[Array, "*b O"]) -> Float[Array, "*b F"]:
        rows, columns, _ = self.obs_shape
        x = obs.reshape(-1, *self.obs_shape)
        for layer in self.layers:
            around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            shifted = [
                around[:, i : i + rows, j : j + columns]
                for i in range(WINDOW)
                for j in range(WINDOW)
            ]
            x = jax.nn.relu(layer(jnp.concatenate(shifted, axis=-1)))
        return x.reshape(*obs.shape[:-1], -1)


class OwnModule(eqx.Module):
    """A module of the user's, called on one observation at a time: an array, or a dict of them."""

    arrays: Any
    rest: Any = eqx.field(static=True)
    """what is no array: functions and sizes"""
    obs_shape: ObsShape = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(self, key: Key, path: str, obs_shape: ObsShape):
        self.obs_shape = obs_shape
        factory = import_object(path, "agent.module")
        named = is_named(obs_shape)
        shape = dict(obs_shape) if named else obs_shape
        wrong = (
            f"agent.module {path!r} must be a factory(key, obs_shape) of an Equinox module that "
            f"turns one observation of shape {shape} into a vector of float32 features"
        )
        one = (
            {name: jax.ShapeDtypeStruct(part, jnp.float32) for name, part in obs_shape}
            if named
            else jax.ShapeDtypeStruct(array_shape(obs_shape), jnp.float32)
        )
        try:
            module = factory(key, shape)
            arrays, rest = eqx.partition(module, eqx.is_inexact_array)

            def call(arrays: Any, obs: Any) -> Any:
                return eqx.combine(arrays, rest)(obs)

            traced, out = jax.make_jaxpr(call, return_shape=True)(arrays, one)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise QtotError(f"{wrong}; it raised {reason}") from error
        if not hasattr(out, "dtype"):
            raise QtotError(f"{wrong}; it returns {type(out).__name__}")
        if out.ndim != 1 or out.dtype != jnp.float32:
            raise QtotError(f"{wrong}; it returns shape {out.shape}, {out.dtype}")
        others = [x for x in jax.tree.leaves(rest) if eqx.is_array(x)]
        hidden = [x for x in traced.consts if isinstance(x, jax.Array)]
        if (
            others
            or hidden
            or not _comparable(rest)
            or any(x.dtype != jnp.float32 for x in jax.tree.leaves(arrays))
        ):
            raise QtotError(
                f"{wrong}; it holds arrays that cannot be trained: keep all of them in fields of "
                "the module, as float32"
            )
        self.arrays, self.rest, self.features = arrays, rest, out.shape[0]

    def __call__(self, obs: Float[Array, "*b O"]) -> Float[Array, "*b F"]:
        module = eqx.combine(self.arrays, self.rest)
        flat = obs.reshape(-1, obs.shape[-1])
        features = jax.vmap(lambda one: module(unflatten(one, self.obs_shape)))(flat)
        return features.reshape(*obs.shape[:-1], self.features)


def _comparable(rest: Any) -> bool:
    """Programs are told apart by it, so that a NumPy array in a static field will not do."""
    try:
        return isinstance(hash(rest), int) and bool(rest == copy.copy(rest))
    except (TypeError, ValueError):
        return False

"""What turns one agent's raw observation into features: a CNN, or a module of the user's own."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.nn import Init, init_linear
from qtot.errors import QtotError
from qtot.objects import import_object
from qtot.types import Key

SIDE = 3  # of a convolution's window


class CNN(eqx.Module):
    """Convolutions of 3 × 3 with ReLU, the image's size kept, all pixels flattened at the end."""

    weights: tuple[Float[Array, "3 3 in out"], ...]
    biases: tuple[Float[Array, "out"], ...]
    obs_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, key: Key, channels: tuple[int, ...], obs_shape: tuple[int, ...], init: Init):
        if len(obs_shape) != SIDE:
            raise QtotError(
                f"agent.cnn reads images (rows, columns, channels), but this environment's "
                f"observations have the shape {obs_shape}; leave agent.cnn empty"
            )
        self.obs_shape = obs_shape
        sizes = (obs_shape[-1], *channels)
        drawn = [
            init_linear(k, SIDE * SIDE * i, o, init, 2.0**0.5)
            for k, i, o in zip(
                jax.random.split(key, len(channels)), sizes[:-1], sizes[1:], strict=True
            )
        ]
        self.weights = tuple(
            w.T.reshape(SIDE, SIDE, i, -1) for (w, _), i in zip(drawn, sizes[:-1], strict=True)
        )
        self.biases = tuple(b for _, b in drawn)

    @property
    def features(self) -> int:
        """Numbers that come out."""
        return math.prod(self.obs_shape[:2]) * self.biases[-1].shape[-1]

    def __call__(self, obs: Float[Array, "*b O"]) -> Float[Array, "*b F"]:
        x = obs.reshape(-1, *self.obs_shape)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = jax.lax.conv_general_dilated(
                x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
        return x.reshape(*obs.shape[:-1], -1)


class OwnModule(eqx.Module):
    """A module of the user's, called on one observation at a time."""

    arrays: Any
    rest: Any = eqx.field(static=True)
    """what is no array: functions and sizes"""
    obs_shape: tuple[int, ...] = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(self, key: Key, path: str, obs_shape: tuple[int, ...]):
        self.obs_shape = obs_shape
        factory = import_object(path, "agent.module")
        wrong = (
            f"agent.module {path!r} must be a factory(key, obs_shape) of an Equinox module that "
            f"turns one observation of shape {obs_shape} into a vector of float features"
        )
        try:
            module = factory(key, obs_shape)
            out = jax.eval_shape(module, jax.ShapeDtypeStruct(obs_shape, jnp.float32))
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise QtotError(f"{wrong}; it raised {reason}") from error
        if not hasattr(out, "dtype"):
            raise QtotError(f"{wrong}; got {type(out).__name__}")
        if out.ndim != 1 or not jnp.issubdtype(out.dtype, jnp.floating):
            raise QtotError(f"{wrong}; got shape {out.shape}, {out.dtype}")
        self.features = out.shape[0]
        self.arrays, self.rest = eqx.partition(module, eqx.is_inexact_array)
        if any(eqx.is_array(leaf) for leaf in jax.tree.leaves(self.rest)):
            raise QtotError(f"{wrong}; it holds arrays that are not float, which nothing can train")

    def __call__(self, obs: Float[Array, "*b O"]) -> Float[Array, "*b F"]:
        module = eqx.combine(self.arrays, self.rest)
        features = jax.vmap(module)(obs.reshape(-1, *self.obs_shape))
        return features.reshape(*obs.shape[:-1], self.features)

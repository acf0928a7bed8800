"""Layers in PyTorch's parametrisation: weights are ``[out, in]``.

Golden values, PyMARL's files and ONNX all speak it.
"""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.types import Key

Init = Literal["torch", "lecun"]


def init_linear(
    key: Key, inputs: int, outputs: int, init: Init, gain: float = 1.0
) -> tuple[Float[Array, "out in"], Float[Array, "out"]]:
    """Weight and bias, from a single draw (each one costs compile time).

    ``torch``: both uniform within 1/sqrt(inputs). ``lecun``: normal of deviation
    gain/sqrt(inputs), and zeros. Orthogonal matrices would need a QR decomposition, whose batched
    form deadlocks XLA's CPU thread pool inside a vmapped program (jaxlib 0.10).
    """
    bound = inputs**-0.5
    if init == "lecun":
        return gain * bound * jax.random.normal(key, (outputs, inputs)), jnp.zeros(outputs)
    drawn = jax.random.uniform(key, (outputs, inputs + 1), minval=-bound, maxval=bound)
    return drawn[:, :inputs], drawn[:, inputs]


class Linear(eqx.Module):
    """``x @ weight.T + bias`` over the last axis."""

    weight: Float[Array, "out in"]
    bias: Float[Array, "out"]

    def __init__(self, key: Key, inputs: int, outputs: int, init: Init, gain: float = 1.0):
        self.weight, self.bias = init_linear(key, inputs, outputs, init, gain)

    def __call__(self, x: Float[Array, "*b in"]) -> Float[Array, "*b out"]:
        return x @ self.weight.T + self.bias


class MLP(eqx.Module):
    """Linear layers with ReLU between them, initialised as PyTorch does."""

    layers: tuple[Linear, ...]

    def __init__(self, key: Key, sizes: tuple[int, ...]):
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        self.layers = tuple(Linear(k, i, o, "torch") for k, i, o in pairs)

    def __call__(self, x: Float[Array, "*b in"]) -> Float[Array, "*b out"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        return last(x)


class LayerNorm(eqx.Module):
    """Zero mean and unit deviation over the last axis, then a learned scale and shift."""

    weight: Float[Array, "size"]
    bias: Float[Array, "size"]

    def __init__(self, size: int):
        self.weight = jnp.ones(size)
        self.bias = jnp.zeros(size)

    def __call__(self, x: Float[Array, "*b size"]) -> Float[Array, "*b size"]:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-5) * self.weight + self.bias

"""Layers: linear maps and the GRU, in PyTorch's parametrisation.

Golden values, PyMARL's files and ONNX (``linear_before_reset = 1``) all speak it: weights are
``[out, in]``, the GRU stacks reset, update, new and has two bias vectors.
"""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qtot.types import Key

Init = Literal["torch", "lecun"]


def init_weight(key: Key, shape: tuple[int, int], init: Init, gain: float = 1.0) -> Array:
    """``torch``: uniform within 1/sqrt(fan in); ``lecun``: normal, deviation gain/sqrt(fan in).

    Orthogonal matrices would need a QR decomposition, whose batched form deadlocks XLA's CPU
    thread pool when it runs inside a vmapped program (jaxlib 0.10).
    """
    scale = shape[1] ** -0.5
    if init == "lecun":
        return gain * scale * jax.random.normal(key, shape, jnp.float32)
    return jax.random.uniform(key, shape, jnp.float32, -scale, scale)


def init_bias(key: Key, size: int, fan_in: int, init: Init) -> Array:
    """``torch``: uniform within 1/sqrt(fan in); ``lecun``: zeros."""
    if init == "lecun":
        return jnp.zeros(size)
    return jax.random.uniform(key, (size,), jnp.float32, -(fan_in**-0.5), fan_in**-0.5)


class Linear(eqx.Module):
    """``x @ weight.T + bias`` over the last axis."""

    weight: Float[Array, "out in"]
    bias: Float[Array, "out"]

    def __init__(self, key: Key, inputs: int, outputs: int, init: Init, gain: float = 1.0):
        weight_key, bias_key = jax.random.split(key)
        self.weight = init_weight(weight_key, (outputs, inputs), init, gain)
        self.bias = init_bias(bias_key, outputs, inputs, init)

    def __call__(self, x: Float[Array, "*b in"]) -> Float[Array, "*b out"]:
        return x @ self.weight.T + self.bias


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


class GRU(eqx.Module):
    """Gated recurrent unit (Cho et al. 2014) as ``torch.nn.GRUCell``, unrolled over time.

    r = σ(W_ir x + b_ir + W_hr h + b_hr);  z = σ(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn));  h' = (1 − z) ⊙ n + z ⊙ h
    """

    weight_ih: Float[Array, "H3 in"]
    weight_hh: Float[Array, "H3 H"]
    bias_ih: Float[Array, "H3"]
    bias_hh: Float[Array, "H3"]

    def __init__(self, key: Key, inputs: int, hidden: int, init: Init):
        keys = jax.random.split(key, 4)
        # torch draws input weights, too, within 1/sqrt(H).
        gain = (inputs / hidden) ** 0.5 if init == "torch" else 1.0
        self.weight_ih = gain * init_weight(keys[0], (3 * hidden, inputs), init)
        self.weight_hh = init_weight(keys[1], (3 * hidden, hidden), init)
        self.bias_ih = init_bias(keys[2], 3 * hidden, hidden, init)
        self.bias_hh = init_bias(keys[3], 3 * hidden, hidden, init)

    def __call__(
        self,
        x: Float[Array, "T B in"],
        first: Bool[Array, "T B"],
        memory: Float[Array, "B H"],
    ) -> tuple[Float[Array, "T B H"], Float[Array, "B H"]]:
        """Every hidden state and the last; ``first`` clears the memory before that slot."""
        gates_x = jnp.split(x @ self.weight_ih.T + self.bias_ih, 3, axis=-1)
        w_r, w_z, w_n = (w.T for w in jnp.split(self.weight_hh, 3))
        b_r, b_z, b_n = jnp.split(self.bias_hh, 3)

        def cell(h: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
            x_r, x_z, x_n, reset = inputs
            h = jnp.where(reset[:, None], 0.0, h)
            r = jax.nn.sigmoid(x_r + h @ w_r + b_r)
            z = jax.nn.sigmoid(x_z + h @ w_z + b_z)
            n = jnp.tanh(x_n + r * (h @ w_n + b_n))
            h = (1.0 - z) * n + z * h
            return h, h

        if x.shape[0] == 1:  # acting: no loop around a single step
            memory, hidden = cell(memory, (*(g[0] for g in gates_x), first[0]))
            return hidden[None], memory
        memory, hidden = jax.lax.scan(cell, memory, (*gates_x, first))
        return hidden, memory

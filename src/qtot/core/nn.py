"""Layers: linear maps and the GRU, in PyTorch's parametrisation.

Golden values, PyMARL's files and ONNX (``linear_before_reset = 1``) all speak it: weights are
``[out, in]``, the GRU stacks reset, update, new and has two bias vectors.
"""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

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
        size, bound = 3 * hidden, hidden**-0.5
        if init == "torch":  # torch draws the input weights, too, within 1/sqrt(H)
            drawn = jax.random.uniform(
                key, (size, inputs + hidden + 2), minval=-bound, maxval=bound
            )
            self.bias_ih, self.bias_hh = drawn[:, -2], drawn[:, -1]
        else:
            scale = jnp.asarray(np.repeat([inputs**-0.5, bound], [inputs, hidden]), jnp.float32)
            drawn = scale * jax.random.normal(key, (size, inputs + hidden))
            self.bias_ih, self.bias_hh = jnp.zeros(size), jnp.zeros(size)
        self.weight_ih = drawn[:, :inputs]
        self.weight_hh = drawn[:, inputs : inputs + hidden]

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

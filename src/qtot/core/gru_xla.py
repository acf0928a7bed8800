"""The GRU's unroll for XLA, laid out for a CPU's caches; and the records that every implementation
of it shares.

A scan would write each kept array into a fresh buffer, which XLA first fills with zeros. Here the
gates overwrite their own inputs, and on the way back their gradients overwrite the gates: half the
memory, and no page touched for nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Gates = tuple[Array, Array, Array, Array]


class Weights(NamedTuple):
    """A GRU's parameters as PyTorch has them: reset, update and new gate below each other."""

    ih: Float[Array, "*n H3 in"]
    hh: Float[Array, "*n H3 H"]
    bias_ih: Float[Array, "*n H3"]
    bias_hh: Float[Array, "*n H3"]


class Saved(NamedTuple):
    """What the way back needs of the way there."""

    hidden: Float[Array, "T B H"]
    r: Float[Array, "T B H"]
    z: Float[Array, "T B H"]
    n: Float[Array, "T B H"]
    hn: Float[Array, "T B H"]
    """W_hn h + b_hn, which the reset gate scales"""


class GateGrads(NamedTuple):
    """Gradients with respect to what the nonlinearities are given, and to ``Saved.hn``."""

    r: Float[Array, "T B H"]
    z: Float[Array, "T B H"]
    n: Float[Array, "T B H"]
    hn: Float[Array, "T B H"]


def sigmoid(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """By tanh, which costs half of the exponential and the division."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def folded_biases(weights: Weights) -> tuple[Float[Array, "H3"], Float[Array, "H"]]:
    """What is added to ``W_i x``, and ``b_hn``, which alone stays with the memory's product."""
    b_r, b_z, b_hn = jnp.split(weights.bias_hh, 3)
    return weights.bias_ih + jnp.concatenate([b_r, b_z, jnp.zeros_like(b_hn)]), b_hn


def gate_grads(
    dh: Float[Array, "B H"], gates: Gates, before: Float[Array, "B H"]
) -> tuple[Float[Array, "B H"], Float[Array, "B H"], Float[Array, "B H"], Float[Array, "B H"]]:
    """``GateGrads`` of one slot, from the gradient of its hidden state, r, z, n and hn, and what
    the slot began with.
    """
    r, z, n, hn = gates
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dz = dh * (before - n) * z * (1.0 - z)
    return dn * hn * r * (1.0 - r), dz, dn, dn * r


def hidden_states(
    x: Float[Array, "T B in"],
    weights: Weights,
    first: Bool[Array, "T B"],
    memory: Float[Array, "B H"],
) -> Float[Array, "T B H"]:
    """The unroll with nothing kept for a way back: not even the gates' inputs are stored."""
    w_i, w_h = weights.ih.T, weights.hh.T
    biases, b_hn = folded_biases(weights)

    def cell(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, reset = inputs
        h = jnp.where(reset[:, None], 0.0, h)
        h = _cell(h, jnp.split(x @ w_i, 3, axis=-1), w_h, biases, b_hn)[0]
        return h, h

    return jax.lax.scan(cell, memory, (x, first))[1]


def forward(
    x: Float[Array, "T B in"],
    weights: Weights,
    first: Bool[Array, "T B"],
    memory: Float[Array, "B H"],
) -> Saved:
    """The unroll, and what the way back needs."""
    w_h = weights.hh.T
    biases, b_hn = folded_biases(weights)
    x_r, x_z, x_n = (x @ w.T for w in jnp.split(weights.ih, 3))
    empty = jnp.zeros_like(x_r)

    def step(t: Array, carry: tuple[Array, Saved]) -> tuple[Array, Saved]:
        h, s = carry
        h = jnp.where(_at(first, t)[:, None], 0.0, h)
        h, *kept = _cell(h, [_at(g, t) for g in (s.r, s.z, s.n)], w_h, biases, b_hn)
        return h, Saved(*(_put(to, v, t) for to, v in zip(s, (h, *kept), strict=True)))

    start = (memory, Saved(empty, x_r, x_z, x_n, empty))
    return jax.lax.fori_loop(0, x.shape[0], step, start)[1]


def backward(
    weights: Weights,
    first: Bool[Array, "T B"],
    saved: Saved,
    before: Float[Array, "T B H"],
    grads: Float[Array, "T B H"],
) -> tuple[GateGrads, Float[Array, "B H"]]:
    """Gradients of the gates, and of the memory before slot 0.

    Args:
        weights: the GRU's.
        first: as in the forward pass.
        saved: what that kept.
        before: what each slot began with: the hidden state before it, or zeros where ``first``.
        grads: of the hidden states.
    """
    last = first.shape[0] - 1
    w_r, w_z, w_n = jnp.split(weights.hh, 3)

    # A slot's gradients are written at the next turn, before anything is read: so XLA sees that
    # each buffer is read only after it is written, and copies none of them. Turn 0 writes back
    # what is there; one turn more, whose own results are dropped, writes those of slot 0.
    def step(i: Array, carry: tuple[Array, Gates, Gates]) -> tuple[Array, Gates, Gates]:
        dh, written, buffers = carry
        turn, t = jnp.minimum(last + 1 - i, last), jnp.maximum(last - i, 0)
        r, z, n, hn = (_put(to, v, turn) for to, v in zip(buffers, written, strict=True))
        buffers = (r, z, n, hn)
        total = dh + _at(grads, t)
        found = gate_grads(total, (_at(r, t), _at(z, t), _at(n, t), _at(hn, t)), _at(before, t))
        dr, dz, _, dhn = found
        through = total * _at(z, t) + dr @ w_r + dz @ w_z + dhn @ w_n
        through = jnp.where(_at(first, t)[:, None], 0.0, through)
        return jnp.where(i <= last, through, dh), found, buffers

    gates = (saved.r, saved.z, saved.n, saved.hn)
    start = (jnp.zeros_like(grads[0]), (saved.r[-1], saved.z[-1], saved.n[-1], saved.hn[-1]), gates)
    dh, _, buffers = jax.lax.fori_loop(0, last + 2, step, start)
    return GateGrads(*buffers), dh


def _cell(
    h: Array, gates_x: list[Array], w_h: Array, biases: Array, b_hn: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """The next hidden state, and r, z, n, hn. The memory's product is one, its gates slices."""
    x_r, x_z, x_n = gates_x
    b_r, b_z, b_n = jnp.split(biases, 3)
    h_r, h_z, h_n = jnp.split(h @ w_h, 3, axis=-1)
    r, z = sigmoid(x_r + h_r + b_r), sigmoid(x_z + h_z + b_z)
    hn = h_n + b_hn
    n = jnp.tanh(x_n + b_n + r * hn)
    return n + z * (h - n), r, z, n, hn


def _at(x: Array, t: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x, t, keepdims=False)


def _put(x: Array, value: Array, t: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x, value, t, 0)

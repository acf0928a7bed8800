"""The GRU's unroll as two Pallas kernels for NVIDIA GPUs, lowered through Triton.

Each program takes a block of sequences through all slots, with the recurrent weights loaded once.
What needs no recurrence (the inputs' product, the weights' gradients) is a large product outside.
Not yet run on a GPU: checked in interpret mode, and lowered for CUDA without being compiled.
Products inside follow ``jax_default_matmul_precision``, as those outside do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

from qtot.core.gru_xla import GateGrads, Saved, Weights, folded_biases, gate_grads, sigmoid

Ref = Any  # an array in the device's memory, read and written in place
ROWS = 16  # sequences per program: the smallest side that Triton multiplies


def hidden_states(
    x: Float[Array, "T B in"],
    weights: Weights,
    first: Bool[Array, "T B"],
    memory: Float[Array, "B H"],
    *,
    interpret: bool = False,
) -> Float[Array, "T B H"]:
    """The unroll with nothing kept for a way back."""
    return _forward(x, weights, first, memory, kept=1, interpret=interpret)[0]


def forward(
    x: Float[Array, "T B in"],
    weights: Weights,
    first: Bool[Array, "T B"],
    memory: Float[Array, "B H"],
    *,
    interpret: bool = False,
) -> Saved:
    """The unroll, and what the way back needs."""
    return Saved(*_forward(x, weights, first, memory, kept=5, interpret=interpret))


def backward(
    weights: Weights,
    first: Bool[Array, "T B"],
    saved: Saved,
    before: Float[Array, "T B H"],
    grads: Float[Array, "T B H"],
    *,
    interpret: bool = False,
) -> tuple[GateGrads, Float[Array, "B H"]]:
    """Gradients of the gates, and of the memory before slot 0; see ``gru_xla.backward``."""
    batch, size = grads.shape[1:]
    w = _padded(weights.hh.reshape(3, size, size), 2)
    slots = (*saved[1:], before, grads)
    outputs = _over_blocks(
        _backward_kernel,
        first,
        slots,
        (w,),
        jnp.zeros_like(grads[0]),
        outputs=4,
        interpret=interpret,
    )
    *gates, dh = (y[..., :batch, :size] for y in outputs)
    return GateGrads(*gates), dh


def _forward(
    x: Array, weights: Weights, first: Array, memory: Array, *, kept: int, interpret: bool
) -> list[Array]:
    batch, size = memory.shape
    biases, b_hn = folded_biases(weights)
    gates = jnp.split(x @ weights.ih.T + biases, 3, axis=-1)
    w = _padded(weights.hh.reshape(3, size, size).swapaxes(1, 2), 2)
    resident = (w, _padded(b_hn[None], 1))
    outputs = _over_blocks(
        _forward_kernel, first, gates, resident, memory, outputs=kept, interpret=interpret
    )
    return [y[:, :batch, :size] for y in outputs[:-1]]


def _forward_kernel(*refs: Ref) -> None:
    keep, x_r, x_z, x_n, w, b_hn, memory, hidden, *kept, last = refs
    w_r, w_z, w_n, bias = w[0], w[1], w[2], b_hn[...]

    def step(t: Array, h: Array) -> Array:
        h = jnp.where(keep[t] > 0, h, 0.0)
        r = sigmoid(x_r[t] + jnp.dot(h, w_r))
        z = sigmoid(x_z[t] + jnp.dot(h, w_z))
        hn = jnp.dot(h, w_n) + bias
        n = jnp.tanh(x_n[t] + r * hn)
        h = n + z * (h - n)
        hidden[t] = h
        for ref, value in zip(kept, (r, z, n, hn), strict=False):  # none without a way back
            ref[t] = value
        return h

    last[...] = jax.lax.fori_loop(0, hidden.shape[0], step, memory[...])


def _backward_kernel(*refs: Ref) -> None:
    keep, r, z, n, hn, before, grads, w, after, *gates, start = refs
    w_r, w_z, w_n = w[0], w[1], w[2]
    end = grads.shape[0] - 1

    def step(i: Array, dh: Array) -> Array:
        t = end - i
        dh = dh + grads[t]
        found = gate_grads(dh, (r[t], z[t], n[t], hn[t]), before[t])
        for ref, value in zip(gates, found, strict=True):
            ref[t] = value
        dr, dz, _, dhn = found
        through = dh * z[t] + jnp.dot(dr, w_r) + jnp.dot(dz, w_z) + jnp.dot(dhn, w_n)
        return jnp.where(keep[t] > 0, through, 0.0)

    start[...] = jax.lax.fori_loop(0, end + 1, step, after[...])


def _over_blocks(
    kernel: Callable[..., None],
    first: Array,
    slots: Sequence[Array],
    resident: Sequence[Array],
    carried: Array,
    *,
    outputs: int,
    interpret: bool,
) -> Sequence[Array]:
    """``kernel`` on blocks of ROWS sequences, all sizes padded to what Triton can multiply.

    Args:
        kernel: is given a mask ``[T, ROWS, 1]`` (1.0 where the memory is kept), blocks of the
            slots, all that is resident, a block of ``carried``; then its outputs.
        first: ``[T, B]``.
        slots: arrays ``[T, B, H]``.
        resident: what every block needs whole, already padded.
        carried: ``[B, H]``, where the recurrence begins.
        outputs: how many arrays like those in ``slots`` are written, before one like ``carried``.
        interpret: run without a GPU.
    """
    time, batch = first.shape
    rows, width = -(-batch // ROWS) * ROWS, _width(carried.shape[-1])

    def rows_padded(x: Array) -> Array:
        rest = [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, [*rest, (0, rows - batch), (0, 0)])

    keep = rows_padded(1.0 - first[..., None].astype(carried.dtype))
    arrays = (
        keep,
        *(rows_padded(_padded(s, 1)) for s in slots),
        *resident,
        rows_padded(_padded(carried, 1)),
    )
    slot = pl.BlockSpec((time, ROWS, width), lambda b: (0, b, 0))
    state = pl.BlockSpec((ROWS, width), lambda b: (b, 0))
    whole = [pl.BlockSpec(x.shape, lambda b, n=x.ndim: (0,) * n) for x in resident]
    like = jax.ShapeDtypeStruct
    return pl.pallas_call(
        kernel,
        grid=(rows // ROWS,),
        in_specs=[
            pl.BlockSpec((time, ROWS, 1), lambda b: (0, b, 0)),
            *(slot for _ in slots),
            *whole,
            state,
        ],
        out_specs=[*(slot for _ in range(outputs)), state],
        out_shape=[
            *(like((time, rows, width), carried.dtype) for _ in range(outputs)),
            like((rows, width), carried.dtype),
        ],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(*arrays)


def _width(size: int) -> int:
    return max(16, pl.next_power_of_2(size))


def _padded(x: Array, axes: int) -> Array:
    """The last ``axes`` axes padded with zeros to the width that the kernels compute with."""
    pads = [(0, _width(n) - n) for n in x.shape[-axes:]]
    return jnp.pad(x, [(0, 0)] * (x.ndim - axes) + pads)

"""The GRU over whole sequences: one function, several implementations that agree.

``plain`` is the scan as it is written down, differentiated by JAX; the others are tested against
it. ``xla`` (CPU, and wherever there is nothing better) and ``pallas`` (NVIDIA GPUs) keep the gates
of the forward pass and walk back with a step written by hand. That step computes only what depends
on the step after it; the gradients of the weights are large products over all slots at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qtot.core import gru_xla
from qtot.core.gru_xla import Weights
from qtot.core.nn import Init
from qtot.types import Key

Implementation = Literal["plain", "xla", "pallas"]
WIDEST_ON_CHIP = 128  # three H × H matrices of float32 beside the gates, in a GPU core's memory


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
            scale = jnp.where(jnp.arange(inputs + hidden) < inputs, inputs**-0.5, bound)
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
        weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        hidden = unroll_gru(x, weights, first, memory)
        return hidden, hidden[-1]


def unroll_gru(
    x: Float[Array, "T B in"],
    weights: Weights,
    first: Bool[Array, "T B"],
    memory: Float[Array, "B H"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "T B H"]:
    """Every hidden state.

    Args:
        x: inputs, time-major.
        weights: the GRU's.
        first: clears the memory before that slot.
        memory: hidden state before slot 0.
        implementation: None chooses by the device that the program is lowered for. ``pallas``
            is interpreted where there is no GPU, and is ``xla`` for H above 128. Inside
            ``jax.shard_map`` all but ``plain`` need ``check_vma=False``.
    """
    if implementation == "plain" or (implementation is None and x.shape[0] == 1):
        return plain(x, weights, first, memory)
    return _unroll(implementation, x, weights, first, memory)


def plain(
    x: Float[Array, "T B in"],
    weights: Weights,
    first: Bool[Array, "T B"],
    memory: Float[Array, "B H"],
) -> Float[Array, "T B H"]:
    """A scan of the cell: the oracle of the others, and the single step of acting."""
    gates_x = jnp.split(x @ weights.ih.T + weights.bias_ih, 3, axis=-1)
    w_r, w_z, w_n = (w.T for w in jnp.split(weights.hh, 3))
    b_r, b_z, b_n = jnp.split(weights.bias_hh, 3)

    def cell(h: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        x_r, x_z, x_n, reset = inputs
        h = jnp.where(reset[:, None], 0.0, h)
        r = jax.nn.sigmoid(x_r + h @ w_r + b_r)
        z = jax.nn.sigmoid(x_z + h @ w_z + b_z)
        n = jnp.tanh(x_n + r * (h @ w_n + b_n))
        h = (1.0 - z) * n + z * h
        return h, h

    if x.shape[0] == 1:  # no loop around a single step
        return cell(memory, (*(g[0] for g in gates_x), first[0]))[0][None]
    return jax.lax.scan(cell, memory, (*gates_x, first))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(
    implementation: Implementation | None, x: Array, weights: Weights, first: Array, memory: Array
) -> Array:
    return _choose(implementation, memory, "hidden_states")(x, weights, first, memory)


def _unroll_forward(
    implementation: Implementation | None, x: Array, weights: Weights, first: Array, memory: Array
) -> tuple[Array, tuple]:
    saved = _choose(implementation, memory, "forward")(x, weights, first, memory)
    return saved.hidden, (x, weights, first, memory, saved)


def _unroll_backward(
    implementation: Implementation | None, residuals: tuple, grads: Array
) -> tuple[Array, Weights, None, Array]:
    x, weights, first, memory, saved = residuals
    before = jnp.concatenate([memory[None], saved.hidden[:-1]])
    before = jnp.where(first[..., None], 0.0, before)
    backward = _choose(implementation, memory, "backward")
    gates, grad_memory = backward(weights, first, saved, before, grads)
    from_x, from_h = (gates.r, gates.z, gates.n), (gates.r, gates.z, gates.hn)
    w_r, w_z, w_n = jnp.split(weights.ih, 3)
    grad_x = gates.r @ w_r + gates.z @ w_z + gates.n @ w_n
    grad_weights = Weights(
        ih=_weight_gradient(x, from_x),
        hh=_weight_gradient(before, from_h),
        bias_ih=jnp.concatenate([d.sum((0, 1)) for d in from_x]),
        bias_hh=jnp.concatenate([d.sum((0, 1)) for d in from_h]),
    )
    return grad_x, grad_weights, None, grad_memory


_unroll.defvjp(_unroll_forward, _unroll_backward)


def _choose(implementation: Implementation | None, memory: Array, part: str) -> Callable:
    """``part`` of an implementation; for None, of each platform's own.

    A process without a GPU need not even trace the kernels.
    """
    xla = getattr(gru_xla, part)
    automatic = implementation is None
    gpu = jax.default_backend() == "gpu"
    wide = memory.shape[-1] > WIDEST_ON_CHIP
    if wide or implementation == "xla" or (automatic and not gpu):
        return xla
    from qtot.core import gru_pallas

    pallas = partial(getattr(gru_pallas, part), interpret=not gpu)
    if not automatic:
        return pallas
    return lambda *args: jax.lax.platform_dependent(*args, cuda=pallas, default=xla)


def _weight_gradient(
    inputs: Float[Array, "T B in"], grads: tuple[Float[Array, "T B H"], ...]
) -> Float[Array, "H3 in"]:
    """Σ over slots of grad ⊗ input, the gates below each other.

    The inputs are transposed once, behind a barrier: XLA would fold it into the products, for
    which its CPU backend has no fast routine (1.3 to 1.6 times the time, measured).
    """
    rows = jax.lax.optimization_barrier(inputs.reshape(-1, inputs.shape[-1]).T)
    products = [rows @ d.reshape(-1, d.shape[-1]) for d in grads]
    return jnp.concatenate([p.T for p in jax.lax.optimization_barrier(products)])

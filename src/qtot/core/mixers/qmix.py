"""QMIX (Rashid et al. 2018; JMLR 2020) and its ablations QMIX-Lin and QMIX-NS.

Weights pass through an absolute value, so Q_tot is monotone in every Q_a; biases do not.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.config import MixerConfig
from qtot.core.mixers.base import MixerInputs, Shapes
from qtot.core.mixers.vdn import StateValue
from qtot.core.nn import MLP, Linear, init_linear
from qtot.types import Key


def hypernetwork(key: Key, state_size: int, outputs: int, config: MixerConfig) -> MLP:
    """Makes ``outputs`` numbers from the state: linear, or with one hidden ReLU layer."""
    hidden = () if config.hypernet_layers == 1 else (config.hypernet_embed,)
    return MLP(key, (state_size, *hidden, outputs))


def mix(
    q: Float[Array, "*b N"],
    w_1: Float[Array, "*#b N E"],
    b_1: Float[Array, "*#b E"],
    w_final: Float[Array, "*#b E"],
    bias: Float[Array, "*#b 1"],
) -> Float[Array, "*b 1"]:
    """The mixing network (fig. 2a): ELU(q |W_1| + b_1) · |w_final| + bias."""
    hidden = jnp.einsum("...n,...ne->...e", q, jnp.abs(w_1)) + b_1
    return jnp.sum(jax.nn.elu(hidden) * jnp.abs(w_final), axis=-1, keepdims=True) + bias


class QMIX(eqx.Module):
    """Monotone mixing with weights from hypernetworks over the state."""

    monotone: ClassVar[bool] = True
    hyper_w_1: MLP
    hyper_b_1: Linear
    hyper_w_final: MLP
    value: StateValue

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        keys = jax.random.split(key, 4)
        s, e = shapes.state_size, config.embed
        self.hyper_w_1 = hypernetwork(keys[0], s, shapes.n_agents * e, config)
        self.hyper_b_1 = Linear(keys[1], s, e, "torch")
        self.hyper_w_final = hypernetwork(keys[2], s, e, config)
        self.value = StateValue(keys[3], s, e)

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        b_1 = self.hyper_b_1(x.state)
        w_1 = self.hyper_w_1(x.state).reshape(*x.q_taken.shape, b_1.shape[-1])
        return mix(x.q_taken, w_1, b_1, self.hyper_w_final(x.state), self.value(x.state))


class QMIXLin(eqx.Module):
    """QMIX-Lin: no hidden mixing layer. Q_tot = Σ_a |w_a(s)| Q_a + V(s)."""

    monotone: ClassVar[bool] = True
    hyper_w: MLP
    value: StateValue

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        keys = jax.random.split(key)
        self.hyper_w = hypernetwork(keys[0], shapes.state_size, shapes.n_agents, config)
        self.value = StateValue(keys[1], shapes.state_size, config.embed)

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        weighted = x.q_taken * jnp.abs(self.hyper_w(x.state))
        return jnp.sum(weighted, axis=-1, keepdims=True) + self.value(x.state)


class QMIXNS(eqx.Module):
    """QMIX-NS: the same network with free parameters instead of hypernetworks."""

    monotone: ClassVar[bool] = True
    w_1: Float[Array, "N E"]
    b_1: Float[Array, "E"]
    w_final: Float[Array, "E"]
    bias: Float[Array, "1"]

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        keys = jax.random.split(key)
        w_1, self.b_1 = init_linear(keys[0], shapes.n_agents, config.embed, "torch")
        w_final, self.bias = init_linear(keys[1], config.embed, 1, "torch")
        self.w_1, self.w_final = w_1.T, w_final[0]

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        return mix(x.q_taken, self.w_1, self.b_1, self.w_final, self.bias)

"""Qatten (Yang et al. 2020): the state attends to the agents, head by head."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.config import MixerConfig
from qtot.core.mixers.base import MixerInputs, Shapes
from qtot.core.mixers.vdn import StateValue
from qtot.core.nn import MLP
from qtot.types import Key


class Qatten(eqx.Module):
    """Q_tot = Σ_h |w_h(s)| Σ_a λ_{h,a} Q_a + V(s), with λ_h a softmax over the agents.

    The paper's keys are each unit's part of the state. A state in general has no such parts, so
    keys are made of what the agent has seen: its hidden state, through which no gradient flows.
    """

    monotone: ClassVar[bool] = True
    queries: MLP
    keys: MLP
    head_weights: MLP
    value: StateValue
    heads: int = eqx.field(static=True)
    embed: int = eqx.field(static=True)

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        keys = jax.random.split(key, 4)
        self.heads, self.embed = config.heads, config.embed
        s, hyper, out = shapes.state_size, config.hypernet_embed, config.heads * config.embed
        self.queries = MLP(keys[0], (s, hyper, out))
        self.keys = MLP(keys[1], (shapes.hidden, out))
        self.head_weights = MLP(keys[2], (s, hyper, config.heads))
        self.value = StateValue(keys[3], s, config.embed)

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        *lead, n = x.q_taken.shape
        query = self.queries(x.state).reshape(*lead, self.heads, self.embed)
        key = self.keys(jax.lax.stop_gradient(x.hidden)).reshape(*lead, n, self.heads, self.embed)
        logits = jnp.einsum("...he,...nhe->...hn", query, key) / self.embed**0.5
        of_heads = jnp.einsum("...hn,...n->...h", jax.nn.softmax(logits, axis=-1), x.q_taken)
        weighted = jnp.abs(self.head_weights(x.state)) * of_heads
        return jnp.sum(weighted, axis=-1, keepdims=True) + self.value(x.state)

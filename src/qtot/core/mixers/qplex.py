"""QPLEX (Wang et al. 2021): every joint Q whose argmax the agents can find, by duplex dueling.

Q_tot = Σ_a V_a + Σ_a λ_a(s, u) A_a, where the advantages A_a = Q_a − V_a of the actions taken are
at most zero and λ_a is above zero. However the weights depend on the joint action, the
largest Q_tot is where every advantage is zero: every agent's own greedy action.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.config import MixerConfig
from qtot.core.mixers.base import MixerInputs, Shapes
from qtot.core.nn import MLP
from qtot.types import Key

ABOVE_ZERO = 1e-10


class Kernels(eqx.Module):
    """λ_a(s, u) = Σ_k |key_k(s)| σ(agent_{k,a}(s)) σ(action_{k,a}(s, u))."""

    key: MLP  # every array has a leading axis, a kernel each
    agents: MLP
    action: MLP

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        s, n, e = shapes.state_size, shapes.n_agents, config.hypernet_embed

        def build(key: Key) -> tuple[MLP, MLP, MLP]:
            keys = jax.random.split(key, 3)
            joint = s + n * shapes.n_actions
            return (
                MLP(keys[0], (s, e, e, 1)),
                MLP(keys[1], (s, e, e, n)),
                MLP(keys[2], (joint, e, e, n)),
            )

        self.key, self.agents, self.action = eqx.filter_vmap(build)(
            jax.random.split(key, config.heads)
        )

    def __call__(
        self, state: Float[Array, "*b S"], actions: Float[Array, "*b NA"]
    ) -> Float[Array, "*b N"]:
        joint = jnp.concatenate([state, actions], axis=-1)

        def kernel(key: MLP, agents: MLP, action: MLP) -> Array:
            strength = jnp.abs(key(state)) + ABOVE_ZERO
            return strength * jax.nn.sigmoid(agents(state)) * jax.nn.sigmoid(action(joint))

        return jnp.sum(jax.vmap(kernel)(self.key, self.agents, self.action), axis=0)


class QPLEX(eqx.Module):
    """The transformation of every agent's Q , then the dueling mix."""

    monotone: ClassVar[bool] = True
    hyper_w: MLP
    value: MLP
    kernels: Kernels

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        keys = jax.random.split(key, 3)
        sizes = (shapes.state_size, config.hypernet_embed, shapes.n_agents)
        self.hyper_w, self.value = MLP(keys[0], sizes), MLP(keys[1], sizes)
        self.kernels = Kernels(keys[2], shapes, config)

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        weight = jnp.abs(self.hyper_w(x.state)) + ABOVE_ZERO
        transformed = weight * x.q_taken + self.value(x.state)
        # No gradient through the advantages: they would teach Q_a through λ, as published.
        advantage = jax.lax.stop_gradient(weight * (x.q_taken - x.q_greedy))
        one_hot = jax.nn.one_hot(x.action, x.q.shape[-1])
        importance = self.kernels(x.state, one_hot.reshape(*x.state.shape[:-1], -1))
        # Σ V + Σ λA = Σ Q + Σ (λ − 1) A
        q_tot = transformed + (importance - 1.0) * advantage
        return jnp.sum(q_tot, axis=-1, keepdims=True)

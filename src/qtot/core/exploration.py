"""Epsilon-greedy exploration, in environment steps, drawn per agent and per environment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.core.config import ExplorationConfig
from qtot.core.masks import masked_argmax


def epsilon_at(config: ExplorationConfig, env_steps: Int[Array, ""]) -> Float[Array, ""]:
    """Linear from ``start`` to ``end`` over ``steps`` valid transitions, then constant."""
    progress = jnp.clip(env_steps / max(config.steps, 1), 0.0, 1.0)
    return config.start + progress * (config.end - config.start)


def epsilon_greedy(
    noise: Float[Array, "2 *b N"],
    q: Float[Array, "*b N A"],
    avail_actions: Bool[Array, "*b N A"],
    epsilon: Float[Array, ""],
) -> Int[Array, "*b N"]:
    """Each agent of each environment explores by its own coin, uniformly over legal actions.
    ``noise`` is uniform on [0, 1).
    """
    coin, which = noise
    # The k-th legal action, k uniform: one draw per agent instead of one per action.
    legal = jnp.cumsum(avail_actions, axis=-1)
    k = jnp.floor(which * legal[..., -1]).astype(legal.dtype)
    random_action = jnp.argmax(legal > k[..., None], axis=-1)
    return jnp.where(coin < epsilon, random_action, masked_argmax(q, avail_actions))


def policy(
    logits: Float[Array, "*b N A"],
    avail_actions: Bool[Array, "*b N A"],
    epsilon: Float[Array, ""] | float,
) -> Float[Array, "*b N A"]:
    """A softmax with a share ``epsilon`` of uniform choice, both over all actions, of which the
    legal ones are then kept and scaled to sum to 1 (COMA, Foerster et al. 2018; in this order in
    PyMARL). No legal action is less likely than epsilon / A; zeros where none is legal.
    """
    # By logarithms: however unlikely all legal actions are together, one of them is taken.
    likely = jnp.log1p(-epsilon) + jax.nn.log_softmax(logits, axis=-1)
    mixed = jnp.logaddexp(likely, jnp.log(epsilon / logits.shape[-1]))
    legal = jax.nn.softmax(jnp.where(avail_actions, mixed, -1e30), axis=-1)
    return jnp.where(avail_actions, legal, 0.0)


def sample_policy(
    noise: Float[Array, "2 *b N"],
    logits: Float[Array, "*b N A"],
    avail_actions: Bool[Array, "*b N A"],
    epsilon: Float[Array, ""],
) -> Int[Array, "*b N"]:
    """Each agent of each environment draws its own action from its policy; ``noise`` as above."""
    cumulative = jnp.cumsum(policy(logits, avail_actions, epsilon), axis=-1)
    # Below the total, so that rounding never picks an action beyond the last legal one.
    u = noise[0] * cumulative[..., -1]
    return jnp.argmax(cumulative > u[..., None], axis=-1)

"""Regression targets over sequences: what a value should have been.

All functions take time-major arrays ``[T, *b]``. ``follows`` says whether slot t+1 is itself a
transition (False before a final observation and at the end of the sequence); where it is not, the
return can only bootstrap. A truncated episode bootstraps from its final observation; a terminated
one has nothing to bootstrap from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def lambda_returns(
    reward: Float[Array, "T *b"],
    terminated: Bool[Array, "T *b"],
    follows: Bool[Array, "T *b"],
    next_value: Float[Array, "T *b"],
    *,
    gamma: float,
    lam: float,
) -> Float[Array, "T *b"]:
    """TD(λ) returns (Sutton & Barto 2018, eq. 12.2), off-policy without correction as in PyMARL2.

    G_t = r_t + γ(1 − terminated_t)[(1 − λ')V_{t+1} + λ' G_{t+1}], with λ' = λ · follows_t.
    With λ = 0 this is the one-step target.
    """
    if lam == 0.0:
        return reward + gamma * jnp.where(terminated, 0.0, next_value)

    def step(g_next: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        r, end, more, v_next = inputs
        mix = lam * more
        g = r + gamma * jnp.where(end, 0.0, (1.0 - mix) * v_next + mix * g_next)
        return g, g

    last = jnp.zeros_like(next_value[0])
    _, returns = jax.lax.scan(step, last, (reward, terminated, follows, next_value), reverse=True)
    return returns


def n_step_returns(
    reward: Float[Array, "T *b"],
    terminated: Bool[Array, "T *b"],
    follows: Bool[Array, "T *b"],
    next_value: Float[Array, "T *b"],
    *,
    gamma: float,
    n: int,
) -> Float[Array, "T *b"]:
    """The sum of n discounted rewards and the value after them, or fewer where the episode or the
    sequence ends first (Sutton & Barto 2018, eq. 7.1).
    """
    returns = reward + gamma * jnp.where(terminated, 0.0, next_value)
    for _ in range(min(n, reward.shape[0]) - 1):
        g_next = jnp.concatenate([returns[1:], next_value[-1:]])  # the last never follows
        ahead = jnp.where(follows, g_next, next_value)
        returns = reward + gamma * jnp.where(terminated, 0.0, ahead)
    return returns

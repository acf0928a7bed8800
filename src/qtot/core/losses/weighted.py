"""Weighted QMIX (Rashid et al. 2020b): a monotone Q_tot that is drawn towards an unrestricted Q*.

Both are regressed on the same target, which Q* makes: the value at the joint action that is greedy
for the agents. Where Q_tot cannot fit everything, weights decide what it should fit.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.core.agent import Agent
from qtot.core.config import AgentConfig, CriticConfig
from qtot.core.losses.base import (
    TD_METRICS,
    Mean,
    Metrics,
    Objective,
    greedy_actions,
    mixer_inputs,
    returns_of,
    td_metrics,
    transitions,
)
from qtot.core.masks import pick
from qtot.core.mixers.base import Shapes
from qtot.core.mixers.vdn import StateValue
from qtot.core.networks import Networks
from qtot.core.nn import MLP
from qtot.core.unroll import Unrolled, scrub, unroll_all, unroll_slow
from qtot.types import Batch, Key

REPORTS = (*TD_METRICS, "critic_loss", "weight")


class CentralQ(eqx.Module):
    """Q*(s, u): agents of its own, mixed by a feed-forward network with no constraint."""

    agent: Agent
    mix: MLP
    value: StateValue

    def __init__(self, key: Key, shapes: Shapes, config: CriticConfig, agent: AgentConfig):
        keys = jax.random.split(key, 3)
        self.agent = Agent(
            keys[0],
            n_agents=shapes.n_agents,
            obs_size=shapes.obs_size,
            obs_shape=shapes.obs_shape,
            n_actions=shapes.n_actions,
            config=agent,
        )
        inputs, e = shapes.state_size + shapes.n_agents, config.embed
        self.mix = MLP(keys[1], (inputs, e, e, e, 1))
        self.value = StateValue(keys[2], shapes.state_size, e)

    def __call__(
        self, q: Float[Array, "*b N"], state: Float[Array, "*b S"]
    ) -> Float[Array, "*b 1"]:
        return self.mix(jnp.concatenate([state, q], axis=-1)) + self.value(state)

    def judge(
        self, state: Float[Array, "*b S"], unrolled: Unrolled
    ) -> Callable[[Int[Array, "*b N"]], Float[Array, "*b 1"]]:
        """Q* of any joint action, in states to which ``unroll_all`` has led."""
        q = unrolled[1][0]
        return lambda action: self(pick(q, action), state)


# Which transitions count in full, the others being weighted alpha: from Q_tot minus its target,
# whether the joint action is the agents' greedy one, and whether the target exceeds Q* of that.
InFull = Callable[[Array, Array, Array], Array]


def _weighted_loss(
    online: Networks, target: Networks, batch: Batch, objective: Objective, in_full: InFull
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted loss of Q_tot plus the plain one of Q*."""
    assert online.mixer is not None
    config, burn_in = objective.target, objective.burn_in
    batch = scrub(batch)
    slots = batch.slots

    # The agents, and Q*'s own.
    (q, hidden), (central_q, _) = unroll_all(online, batch, burn_in)
    (q_slow, _), (central_slow, _) = unroll_slow(target, batch, burn_in)
    best = greedy_actions(q, q_slow, slots, config)

    q_tot = online.mixer(transitions(mixer_inputs(slots, q, hidden, slots.action)))
    q_star = online.critic(*transitions((pick(central_q, slots.action), slots.state)))
    best_value = jax.lax.stop_gradient(target.critic(pick(central_slow, best), slots.state))
    returns = returns_of(slots, best_value[1:], config)

    error = q_tot - returns
    is_greedy = jnp.all(slots.action == best, axis=-1)[:-1]
    full = in_full(jax.lax.stop_gradient(error), is_greedy, returns > best_value[:-1])
    weight = jnp.where(full, 1.0, objective.terms.alpha)
    mean = Mean(slots, objective)
    mixed_loss = mean(weight * error**2)
    critic_loss = mean((q_star - returns) ** 2)
    return mixed_loss + critic_loss, {
        **td_metrics(q_tot, returns, mean),
        "critic_loss": critic_loss,
        "weight": mean(weight),
    }


def cw_loss(
    online: Networks, target: Networks, batch: Batch, objective: Objective
) -> tuple[Float[Array, ""], Metrics]:
    """Centrally weighted: what is greedy, or turned out better than the greedy."""
    return _weighted_loss(
        online,
        target,
        batch,
        objective,
        lambda error, is_greedy, exceeds: is_greedy[..., None] | exceeds,
    )


def ow_loss(
    online: Networks, target: Networks, batch: Batch, objective: Objective
) -> tuple[Float[Array, ""], Metrics]:
    """Optimistically weighted: what Q_tot underestimates."""
    return _weighted_loss(
        online, target, batch, objective, lambda error, is_greedy, exceeds: error < 0.0
    )

"""QTRAN-base (Son et al. 2019): an unrestricted joint Q, and a sum of Q_a that is made to have its
maximum at the same joint action (theorem 1).
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
from qtot.core.masks import masked_argmax
from qtot.core.mixers.base import Shapes
from qtot.core.networks import Networks
from qtot.core.nn import MLP
from qtot.core.unroll import Unrolled, scrub, unroll, unroll_slow
from qtot.types import Batch, Key

REPORTS = (*TD_METRICS, "opt_loss", "nopt_loss")


class JointQ(eqx.Module):
    """Q(s, h, u) over the sum of every agent's encoded hidden state and action, and V(s)."""

    encoder: MLP
    joint: MLP
    value: MLP
    n_actions: int = eqx.field(static=True)

    def __init__(self, key: Key, shapes: Shapes, config: CriticConfig, agent: AgentConfig):
        del agent
        keys = jax.random.split(key, 3)
        self.n_actions = shapes.n_actions
        own, s, e = shapes.hidden + shapes.n_actions, shapes.state_size, config.embed
        self.encoder = MLP(keys[0], (own, own, own))
        self.joint = MLP(keys[1], (s + own, e, e, 1))
        self.value = MLP(keys[2], (s, e, e, 1))

    def __call__(
        self,
        state: Float[Array, "*b S"],
        hidden: Float[Array, "*b N H"],
        action: Int[Array, "*b N"],
    ) -> Float[Array, "*b 1"]:
        one_hot = jax.nn.one_hot(action, self.n_actions)
        own = self.encoder(jnp.concatenate([hidden, one_hot], axis=-1))
        return self.joint(jnp.concatenate([state, jnp.sum(own, axis=-2)], axis=-1))

    def judge(
        self, state: Float[Array, "*b S"], unrolled: Unrolled
    ) -> Callable[[Int[Array, "*b N"]], Float[Array, "*b 1"]]:
        """The joint Q of any joint action, in states to which ``unroll_all`` has led."""
        hidden = unrolled[0][1]
        return lambda action: self(state, hidden, action)


def qtran_loss(
    online: Networks, target: Networks, batch: Batch, objective: Objective
) -> tuple[Float[Array, ""], Metrics]:
    """L_td + opt · L_opt + nopt · L_nopt, with the joint Q fixed in the last two."""
    mixer = online.mixer
    assert mixer is not None
    config, terms, burn_in = objective.target, objective.terms, objective.burn_in
    batch = scrub(batch)
    slots = batch.slots
    q, hidden = unroll(online.agent, batch, burn_in)
    q_slow, hidden_slow = unroll_slow(target, batch, burn_in)[0]

    # The joint Q of the actions taken, towards that of the next greedy joint action.
    joint = online.critic(*transitions((slots.state, hidden, slots.action)))
    best = greedy_actions(q, q_slow, slots, config)
    returns = returns_of(slots, target.critic(slots.state, hidden_slow, best)[1:], config)
    mean = Mean(slots, objective)
    td = mean((joint - returns) ** 2)

    # The sum plus V(s): equal to the joint Q where the agents are greedy, elsewhere not below it.
    def summed(action: Array) -> Array:
        return mixer(transitions(mixer_inputs(slots, q, hidden, action)))

    value = online.critic.value(slots.state[:-1])
    greedy = masked_argmax(jax.lax.stop_gradient(q), slots.avail_actions)
    joint_greedy = online.critic(*transitions((slots.state, hidden, greedy)))
    gap = summed(greedy) + value - jax.lax.stop_gradient(joint_greedy)
    opt = mean(gap**2)
    below = jnp.minimum(summed(slots.action) + value - jax.lax.stop_gradient(joint), 0.0)
    nopt = mean(below**2)
    return td + terms.opt * opt + terms.nopt * nopt, {
        **td_metrics(joint, returns, mean),
        "opt_loss": opt,
        "nopt_loss": nopt,
    }

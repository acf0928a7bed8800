"""COMA (Foerster et al. 2018): on-policy actors whose advantage is counterfactual, what an action
adds to the agent's own average while everyone else's stays as it was.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.core.config import AgentConfig, CriticConfig
from qtot.core.exploration import policy
from qtot.core.losses.base import Mean, Metrics, Objective, returns_of
from qtot.core.masks import pick
from qtot.core.mixers.base import Shapes
from qtot.core.networks import Networks
from qtot.core.nn import MLP
from qtot.core.unroll import previous_actions, scrub, unroll
from qtot.types import Batch, Key

REPORTS = (
    "q_taken",
    "target",
    "td_error_abs",
    "policy_loss",
    "critic_loss",
    "advantage_abs",
    "entropy",
)


class CounterfactualCritic(eqx.Module):
    """Q(s, (u⁻ᵃ, ·)): values of every action of an agent, given what the others did.

    Input order is state, own observation, the actions of all with the agent's own left out, the
    previous actions of all, agent id, as in PyMARL. All agents share it.
    """

    layers: MLP
    n_actions: int = eqx.field(static=True)

    def __init__(self, key: Key, shapes: Shapes, config: CriticConfig, agent: AgentConfig):
        del agent
        n, a, e = shapes.n_agents, shapes.n_actions, config.embed
        inputs = shapes.state_size + shapes.obs_size + 2 * n * a + n
        self.layers = MLP(key, (inputs, e, e, a))
        self.n_actions = a

    def __call__(
        self,
        state: Float[Array, "*b S"],
        obs: Float[Array, "*b N O"],
        action: Int[Array, "*b N"],
        previous: Int[Array, "*b N"],
    ) -> Float[Array, "*b N A"]:
        *lead, n = action.shape

        def for_each(x: Array) -> Array:
            """One copy per agent."""
            flat = x.reshape(*lead, 1, -1)
            return jnp.broadcast_to(flat, (*lead, n, flat.shape[-1]))

        taken = jax.nn.one_hot(action, self.n_actions)
        others = for_each(taken).reshape(*lead, n, n, -1) * (1.0 - jnp.eye(n))[..., None]
        inputs = (
            for_each(state),
            obs,
            others.reshape(*lead, n, -1),
            for_each(jax.nn.one_hot(previous, self.n_actions)),
            jnp.broadcast_to(jnp.eye(n), (*lead, n, n)),
        )
        return self.layers(jnp.concatenate(inputs, axis=-1))


def counterfactual_advantage(
    probabilities: Float[Array, "*b N A"], q: Float[Array, "*b N A"], action: Int[Array, "*b N"]
) -> Float[Array, "*b N"]:
    """Q(s, u) − Σ_u' π(u'|τ) Q(s, (u⁻ᵃ, u')) (eq. 4); no gradient passes."""
    baseline = jnp.sum(probabilities * q, axis=-1)
    return jax.lax.stop_gradient(pick(q, action) - baseline)


def coma_loss(
    online: Networks, target: Networks, batch: Batch, objective: Objective
) -> tuple[Float[Array, ""], Metrics]:
    """Policy gradient with the counterfactual baseline (eq. 4) plus the critic's TD(λ) error.

    The value after a transition is the target critic's of the next joint action that was taken;
    after a time limit, and at the end of a piece of a stream, of the one that would have been.
    """
    burn_in = objective.burn_in
    batch = scrub(batch, next_action=True)
    slots = batch.slots
    previous = jnp.where(slots.first[..., None], -1, previous_actions(batch))
    seen = (slots.state, slots.obs, slots.action, previous)

    # The critic: TD(λ) on the actions taken, agent by agent.
    q = online.critic(*seen)[:-1]
    taken = slots.action[:-1]
    q_taken = pick(q, taken)
    q_slow = pick(jax.lax.stop_gradient(target.critic(*seen)), slots.action)
    returns = returns_of(slots, q_slow[1:], objective.target)
    mean = Mean(slots, objective)
    critic_loss = mean((q_taken - returns) ** 2)

    # The actors: up where an action is worth more than the policy's own mean of it.
    logits, _ = unroll(online.agent, batch, burn_in)
    probabilities = policy(logits, slots.avail_actions, objective.epsilon)[:-1]
    advantage = counterfactual_advantage(probabilities, q, taken)
    chosen = jnp.where(mean.counts[..., None], pick(probabilities, taken), 1.0)
    policy_loss = -mean(advantage * jnp.log(chosen))

    log_p = jnp.log(jnp.where(probabilities > 0.0, probabilities, 1.0))
    entropy = -jnp.sum(jax.lax.stop_gradient(probabilities * log_p), axis=-1)
    return policy_loss + critic_loss, {
        "q_taken": mean(q_taken),
        "target": mean(returns),
        "td_error_abs": mean(jnp.abs(q_taken - returns)),
        "policy_loss": policy_loss,
        "critic_loss": critic_loss,
        "advantage_abs": mean(jnp.abs(advantage)),
        "entropy": mean(entropy),
    }

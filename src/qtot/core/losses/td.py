"""The QMIX loss (Rashid et al. 2018, eq. 6), for any mixer, over whole recurrent sequences."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.agent import Agent
from qtot.core.config import TargetConfig
from qtot.core.masks import masked_argmax, masked_max, masked_mean, pick
from qtot.core.mixers.base import Mixer, MixerInputs
from qtot.core.targets import lambda_returns, n_step_returns
from qtot.core.unroll import scrub, unroll
from qtot.types import Batch


class Networks(eqx.Module):
    """What is trained: the agents, which are shipped, and the mixer, which is thrown away."""

    agent: Agent
    mixer: Mixer


def td_loss(
    online: Networks,
    target: Networks,
    batch: Batch,
    *,
    config: TargetConfig,
    burn_in: int = 0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean squared TD error of Q_tot over the transitions that count.

    Args:
        online: trained networks; the only ones that receive a gradient.
        target: their slow copies, which value the next state.
        batch: sequences of T+1 slots; the last slot is only bootstrapped from.
        config: discount, double Q, kind of return.
        burn_in: slots at the start that carry no loss.

    Returns:
        The loss, and means over the valid transitions: ``q_tot``, ``target``, ``td_error_abs``.
    """
    slots = scrub(batch.slots)
    batch = batch._replace(slots=slots)

    # Unroll both agents over all T+1 slots, each from the memory stored with the sequence.
    q, hidden = unroll(online.agent, batch, burn_in)
    q_slow, hidden_slow = unroll(target.agent, batch, burn_in)

    # Q_tot of the actions taken.
    best = masked_argmax(jax.lax.stop_gradient(q), slots.avail_actions)

    def mixer_inputs(q: Array, hidden: Array, action: Array, greedy: Array) -> MixerInputs:
        return MixerInputs(
            q_taken=pick(q, action),
            q_greedy=greedy,
            q=q,
            action=action,
            hidden=hidden,
            state=slots.state,
            avail_actions=slots.avail_actions,
            alive=slots.alive,
        )

    taken = mixer_inputs(q, hidden, slots.action, masked_max(q, slots.avail_actions))
    q_tot = online.mixer(jax.tree.map(lambda x: x[:-1], taken))  # [T, B, M]

    # The target network's value of the greedy joint action at the next slot, under its own mask.
    if not config.double_q:
        best = masked_argmax(q_slow, slots.avail_actions)
    greedy_slow = masked_max(q_slow, slots.avail_actions)
    value = target.mixer(mixer_inputs(q_slow, hidden_slow, best, greedy_slow))
    next_value = jax.lax.stop_gradient(value[1:])

    # Regress on the return, per value that the mixer returns.
    def each(x: Array) -> Array:
        return jnp.broadcast_to(x[..., None], q_tot.shape)

    valid, ended = slots.valid[:-1], slots.terminated[:-1]
    if config.time_limit == "end":
        ended |= valid & ~slots.valid[1:]
    follows = jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    parts = (each(slots.reward[:-1]), each(ended), each(follows), next_value)
    if config.td_lambda > 0.0 or config.n_step == 1:
        returns = lambda_returns(*parts, gamma=config.gamma, lam=config.td_lambda)
    else:
        returns = n_step_returns(*parts, gamma=config.gamma, n=config.n_step)

    counts = each(valid & (jnp.arange(valid.shape[0])[:, None] >= burn_in))
    error = q_tot - jax.lax.stop_gradient(returns)
    loss = masked_mean(error**2, counts)
    return loss, {
        "q_tot": masked_mean(q_tot, counts),
        "target": masked_mean(returns, counts),
        "td_error_abs": masked_mean(jnp.abs(error), counts),
    }

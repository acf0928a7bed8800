"""The QMIX loss (Rashid et al. 2018, eq. 6), for any mixer, over whole recurrent sequences."""

from __future__ import annotations

from jaxtyping import Array, Float

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
from qtot.core.networks import Networks
from qtot.core.unroll import scrub, unroll, unroll_slow
from qtot.types import Batch

REPORTS = TD_METRICS


def td_loss(
    online: Networks, target: Networks, batch: Batch, objective: Objective
) -> tuple[Float[Array, ""], Metrics]:
    """Mean squared TD error of Q_tot over the transitions that count.

    Returns:
        The loss, and means over the valid transitions: ``q_tot``, ``target``, ``td_error_abs``.
    """
    assert online.mixer is not None
    assert target.mixer is not None
    config, burn_in = objective.target, objective.burn_in
    batch = scrub(batch)
    slots = batch.slots

    # Unroll both agents over all T+1 slots, each from the memory stored with the sequence.
    q, hidden = unroll(online.agent, batch, burn_in)
    q_slow, hidden_slow = unroll_slow(target, batch, burn_in)[0]

    # Q_tot of the actions taken.
    q_tot = online.mixer(transitions(mixer_inputs(slots, q, hidden, slots.action)))  # [T, B, M]

    # The target network's value of the greedy joint action at the next slot, under its own mask.
    best = greedy_actions(q, q_slow, slots, config)
    value = target.mixer(mixer_inputs(slots, q_slow, hidden_slow, best))
    returns = returns_of(slots, value[1:], config)

    mean = Mean(slots, objective)
    loss = mean((q_tot - returns) ** 2)
    return loss, td_metrics(q_tot, returns, mean)

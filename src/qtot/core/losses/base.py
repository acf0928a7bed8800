"""What every loss is given, and the parts that losses share."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.core.config import LossConfig, TargetConfig
from qtot.core.masks import masked_argmax, masked_max, pick
from qtot.core.mixers.base import MixerInputs
from qtot.core.networks import Networks
from qtot.core.targets import lambda_returns, n_step_returns
from qtot.types import Batch, Slots

T = TypeVar("T")
Metrics = dict[str, Float[Array, ""]]


class Objective(NamedTuple):
    """What a loss is told beside networks and data."""

    target: TargetConfig
    terms: LossConfig = LossConfig()
    burn_in: int = 0
    """slots at the start of a sequence that carry no loss"""
    epsilon: Float[Array, ""] | float = 0.0
    """share of random actions with which an on-policy batch was played"""
    divisor: float | None = None
    """what sums over transitions are divided by: 1 leaves them as they are, so that those of the
    parts of a batch can be added; None takes the transitions that carry loss"""


class Loss(Protocol):
    """One idea, one file: a method's loss over sequences of T+1 slots."""

    def __call__(
        self, online: Networks, target: Networks, batch: Batch, objective: Objective
    ) -> tuple[Float[Array, ""], Metrics]:
        """The scalar to minimise, and metrics; both are means over the valid transitions.

        Args:
            online: trained networks; the only ones that receive a gradient.
            target: their slow copies, which value the next state.
            batch: sequences; the last slot is only bootstrapped from.
            objective: discount, kind of return, weights of the method's own terms.
        """
        ...


def mixer_inputs(
    slots: Slots,
    q: Float[Array, "*b N A"],
    hidden: Float[Array, "*b N H"],
    action: Int[Array, "*b N"],
) -> MixerInputs:
    """What a mixer sees of a joint action at every slot."""
    return MixerInputs(
        q_taken=pick(q, action),
        q_greedy=masked_max(q, slots.avail_actions),
        q=q,
        action=action,
        hidden=hidden,
        state=slots.state,
        avail_actions=slots.avail_actions,
        alive=slots.alive,
    )


def transitions(x: T) -> T:
    """All slots but the last, which is no transition."""
    return jax.tree.map(lambda y: y[:-1], x)


def greedy_actions(
    q: Float[Array, "T B N A"], q_slow: Float[Array, "T B N A"], slots: Slots, config: TargetConfig
) -> Int[Array, "T B N"]:
    """Every agent's best legal action at each slot, by its own mask: by the online network for
    double Q-learning (van Hasselt et al. 2016), else by the target network.
    """
    judge = jax.lax.stop_gradient(q) if config.double_q else q_slow
    return masked_argmax(judge, slots.avail_actions)


def returns_of(
    slots: Slots, next_value: Float[Array, "T B M"], config: TargetConfig
) -> Float[Array, "T B M"]:
    """What the values of the transitions are regressed on, one per value that a mixer returns."""

    def each(x: Array) -> Array:
        return jnp.broadcast_to(x[..., None], next_value.shape)

    valid, ended = slots.valid[:-1], slots.terminated[:-1]
    if config.time_limit == "end":
        ended |= valid & ~slots.valid[1:]
    follows = jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    next_value = jax.lax.stop_gradient(next_value)
    parts = (each(slots.reward[:-1]), each(ended), each(follows), next_value)
    if config.td_lambda > 0.0 or config.n_step == 1:
        return lambda_returns(*parts, gamma=config.gamma, lam=config.td_lambda)
    return n_step_returns(*parts, gamma=config.gamma, n=config.n_step)


def counted(slots: Slots, burn_in: int) -> Bool[Array, "T B"]:
    """The transitions that carry loss."""
    valid = slots.valid[:-1]
    return valid & (jnp.arange(valid.shape[0])[:, None] >= burn_in)


TD_METRICS = ("q_tot", "target", "td_error_abs")
"""what every loss on Q_tot reports"""


class Mean:
    """The mean over the transitions that carry loss; 0 when none does."""

    def __init__(self, slots: Slots, objective: Objective):
        self.counts = counted(slots, objective.burn_in)
        divisor = objective.divisor
        self.divisor = jnp.maximum(jnp.sum(self.counts), 1) if divisor is None else divisor

    def __call__(self, x: Float[Array, "T B M"]) -> Float[Array, ""]:
        masked = jnp.where(self.counts[..., None], x, 0.0)
        return jnp.sum(masked) / (self.divisor * x.shape[-1])


def td_metrics(value: Float[Array, "T B M"], returns: Float[Array, "T B M"], mean: Mean) -> Metrics:
    """``TD_METRICS``."""
    values = (value, returns, jnp.abs(value - returns))
    return {name: mean(x) for name, x in zip(TD_METRICS, values, strict=True)}

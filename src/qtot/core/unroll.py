"""From a sampled sequence to Q-values, the same for every loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.core.agent import Agent
from qtot.core.networks import Networks
from qtot.types import Batch, Slots


def scrub(batch: Batch, *, next_action: bool = False) -> Batch:
    """Zero what nobody reads, so that no garbage there (not even NaN) meets a weight.

    A slot is read when it is a transition, or bootstrapped from: the final observation after a
    time limit is, the one after a true end is not. Its action, which was chosen but never played,
    is kept for those who bootstrap from it (``next_action``).
    """
    slots = batch.slots
    goes_on = slots.valid & ~slots.terminated
    read = slots.valid | jnp.concatenate([jnp.zeros_like(goes_on[:1]), goes_on[:-1]])

    def keep(x: Array, mask: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)

    scrubbed = Slots(
        obs=keep(slots.obs, read),
        state=keep(slots.state, read),
        avail_actions=keep(slots.avail_actions, read).astype(bool),
        alive=keep(slots.alive, read).astype(bool),
        action=keep(slots.action, read if next_action else slots.valid),
        reward=keep(slots.reward, slots.valid),
        terminated=slots.terminated & slots.valid,
        first=slots.first,
        valid=slots.valid,
    )
    return batch._replace(slots=scrubbed)


def previous_actions(batch: Batch) -> Int[Array, "T B N"]:
    """The action before each slot; the agent itself forgets it where an episode opens."""
    start = batch.start.prev_action[None].astype(jnp.int32)
    return jnp.concatenate([start, batch.slots.action[:-1].astype(jnp.int32)])


def unroll(
    agent: Agent, batch: Batch, burn_in: int = 0, *, after: int = 0
) -> tuple[Float[Array, "T B N A"], Float[Array, "T B N H"]]:
    """Q-values and hidden states at every slot, from the memory stored with the sequence, where
    it begins ``after`` that of others.

    The first ``burn_in`` slots only bring the memory up to date: no gradient passes through them
    (Kapturowski et al. 2019).
    """
    slots, memory = batch.slots, batch.start.memory[..., after : after + agent.memory_size]
    previous = previous_actions(batch)
    if not burn_in:
        q, hidden, _ = agent.unroll(slots.obs, previous, slots.first, memory)
        return q, hidden

    def part(span: slice, memory: Array) -> tuple[Array, Array, Array]:
        return agent.unroll(slots.obs[span], previous[span], slots.first[span], memory)

    warm = jax.lax.stop_gradient(part(slice(0, burn_in), memory))
    q, hidden, _ = part(slice(burn_in, None), warm[2])
    return jnp.concatenate([warm[0], q]), jnp.concatenate([warm[1], hidden])


Unrolled = tuple[tuple[Float[Array, "*b N A"], Float[Array, "*b N H"]], ...]


def unroll_all(networks: Networks, batch: Batch, burn_in: int = 0) -> Unrolled:
    """The same of all that remember: the agents, then a critic's own if it has any."""
    unrolled, after = [], 0
    for agent in networks.recurrent:
        unrolled.append(unroll(agent, batch, burn_in, after=after))
        after += agent.memory_size
    return tuple(unrolled)


def unroll_slow(target: Networks, batch: Batch, burn_in: int = 0) -> Unrolled:
    """The same of the target networks, unless that is known already."""
    return unroll_all(target, batch, burn_in) if batch.slow is None else batch.slow

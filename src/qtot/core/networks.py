"""Everything that is trained: the agents, and what only training needs."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.core.agent import Agent
from qtot.core.mixers.base import Mixer


class Networks(eqx.Module):
    """The agents, which are shipped; the mixer and a central critic, which are thrown away."""

    agent: Agent
    mixer: Mixer | None = None
    critic: Any = None
    """whatever else the method's loss trains"""

    @property
    def recurrent(self) -> tuple[Agent, ...]:
        """All that remember: the agents, then a critic's own if it has any. Memories are stored
        side by side in this order.
        """
        of_critic = getattr(self.critic, "agent", None)
        return (self.agent,) if of_critic is None else (self.agent, of_critic)

    def initial_memory(self, batch: int) -> Float[Array, "B N K"]:
        """The memory with which an episode begins."""
        return jnp.concatenate([a.initial_memory(batch) for a in self.recurrent], axis=-1)

    def step(
        self,
        obs: Float[Array, "B N O"],
        prev_action: Int[Array, "B N"],
        first: Bool[Array, "B"],
        memory: Float[Array, "B N K"],
    ) -> tuple[Float[Array, "B N A"], Float[Array, "B N K"]]:
        """The agents' values of every action at one slot, and everyone's memory after it.

        A critic's own agents see what the team sees, so that a stored sequence holds what they
        remembered at its start, too.
        """
        outs, at = [], 0
        for agent in self.recurrent:
            own = memory[..., at : at + agent.memory_size]
            at += agent.memory_size
            outs.append(agent.unroll(obs[None], prev_action[None], first[None], own))
        return outs[0][0][0], jnp.concatenate([memory for _, _, memory in outs], axis=-1)

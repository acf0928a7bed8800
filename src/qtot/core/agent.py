"""The agents' recurrent Q-networks (DRQN, Hausknecht & Stone 2015): each acts alone.

Input order is observation, previous action, agent id, as in PyMARL.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.core.config import AgentConfig
from qtot.core.nn import GRU, LayerNorm, Linear
from qtot.types import Key


class QNetwork(eqx.Module):
    """Encoder → memory → Q head, for one set of parameters."""

    encoder: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]
    memory: GRU | Linear
    head: Linear

    def __init__(self, key: Key, inputs: int, n_actions: int, config: AgentConfig):
        keys = jax.random.split(key, len(config.encoder) + 2)
        widths = (inputs, *config.encoder)
        gain = 2.0**0.5  # ReLU halves the variance
        self.encoder = tuple(
            Linear(k, i, o, config.init, gain)
            for k, i, o in zip(keys, widths[:-1], widths[1:], strict=False)
        )
        self.norms = tuple(LayerNorm(w) for w in config.encoder) if config.layer_norm else ()
        if config.memory == "gru":
            self.memory = GRU(keys[-2], widths[-1], config.hidden, config.init)
        else:
            self.memory = Linear(keys[-2], widths[-1], config.hidden, config.init, gain)
        self.head = Linear(keys[-1], config.hidden, n_actions, config.init, gain=0.1)

    def __call__(
        self, x: Float[Array, "T B in"], first: Bool[Array, "T B"], memory: Float[Array, "B K"]
    ) -> tuple[Float[Array, "T B A"], Float[Array, "T B H"], Float[Array, "B K"]]:
        for i, layer in enumerate(self.encoder):
            x = layer(x)
            x = jax.nn.relu(self.norms[i](x) if self.norms else x)
        if isinstance(self.memory, GRU):
            hidden, memory = self.memory(x, first, memory)
        else:
            hidden = jax.nn.relu(self.memory(x))
        return self.head(hidden), hidden, memory


class Agent(eqx.Module):
    """The Q-networks of a team of N agents, sharing all parameters or none."""

    network: QNetwork  # with sharing = "none" every array has a leading N
    n_agents: int = eqx.field(static=True)
    n_actions: int = eqx.field(static=True)
    config: AgentConfig = eqx.field(static=True)

    def __init__(
        self, key: Key, *, n_agents: int, obs_size: int, n_actions: int, config: AgentConfig
    ):
        self.n_agents, self.n_actions, self.config = n_agents, n_actions, config
        inputs = obs_size + n_actions * config.prev_action + n_agents * config.agent_id

        def build(key: Key) -> QNetwork:
            return QNetwork(key, inputs, n_actions, config)

        shared = config.sharing == "all"
        self.network = (
            build(key) if shared else eqx.filter_vmap(build)(jax.random.split(key, n_agents))
        )

    @property
    def memory_size(self) -> int:
        """Features of an agent's memory: H, or 0 for an agent without."""
        return self.config.hidden if self.config.memory == "gru" else 0

    def initial_memory(self, batch: int) -> Float[Array, "B N K"]:
        """The memory with which an episode begins."""
        return jnp.zeros((batch, self.n_agents, self.memory_size))

    def unroll(
        self,
        obs: Float[Array, "T B N O"],
        prev_action: Int[Array, "T B N"],
        first: Bool[Array, "T B"],
        memory: Float[Array, "B N K"],
    ) -> tuple[Float[Array, "T B N A"], Float[Array, "T B N H"], Float[Array, "B N K"]]:
        """Q-values of every action, hidden states, and the memory after the last slot.

        ``first`` clears memory and previous action at its slot; ``prev_action`` -1 means none.
        """
        time, batch, n = prev_action.shape
        inputs = [obs]
        if self.config.prev_action:
            previous = jnp.where(first[..., None], -1, prev_action)
            inputs.append(jax.nn.one_hot(previous, self.n_actions))
        if self.config.agent_id:
            inputs.append(jnp.broadcast_to(jnp.eye(n), (time, batch, n, n)))
        x = jnp.concatenate(inputs, axis=-1)
        first = jnp.broadcast_to(first[..., None], (time, batch, n))

        if self.config.sharing == "none":
            each = jax.vmap(lambda net, x, f, m: net(x, f, m), (0, 2, 2, 1), (2, 2, 1))
            return each(self.network, x, first, memory)
        # Agents and batch are one axis: the shared network does not know who is who.
        q, hidden, memory = self.network(
            x.reshape(time, batch * n, -1),
            first.reshape(time, batch * n),
            memory.reshape(batch * n, -1),
        )
        q, hidden = (y.reshape(time, batch, n, -1) for y in (q, hidden))
        return q, hidden, memory.reshape(batch, n, -1)

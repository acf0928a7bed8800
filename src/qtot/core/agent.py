"""The agents' recurrent Q-networks (DRQN, Hausknecht & Stone 2015): each acts alone.

Input order is observation (or what a CNN or the user's module makes of it), previous action, agent
id, as in PyMARL.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qtot.core.config import AgentConfig
from qtot.core.eyes import CNN, OwnModule
from qtot.core.gru import GRU
from qtot.core.nn import LayerNorm, Linear
from qtot.errors import QtotError
from qtot.shapes import ObsShape, features
from qtot.types import Key


class QNetwork(eqx.Module):
    """Eyes → encoder → memory → Q head, for one set of parameters."""

    eyes: CNN | OwnModule | None
    encoder: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]
    memory: GRU | Linear
    head: Linear

    def __init__(
        self,
        key: Key,
        *,
        obs_shape: ObsShape,
        others: int,
        n_actions: int,
        config: AgentConfig,
    ):
        eyes_key, *keys = jax.random.split(key, len(config.encoder) + 3)
        self.eyes, width = None, features(obs_shape)
        if config.module:
            self.eyes = OwnModule(eyes_key, config.module, obs_shape)
        elif config.cnn:
            self.eyes = CNN(eyes_key, config.cnn, obs_shape, config.init)
        if self.eyes is not None:
            width = self.eyes.features
        widths = (width + others, *config.encoder)
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
        self,
        obs: Float[Array, "T B O"],
        others: Float[Array, "T B I"],
        first: Bool[Array, "T B"],
        memory: Float[Array, "B K"],
    ) -> tuple[Float[Array, "T B A"], Float[Array, "T B H"], Float[Array, "B K"]]:
        x = jnp.concatenate([obs if self.eyes is None else self.eyes(obs), others], axis=-1)
        for i, layer in enumerate(self.encoder):
            x = layer(x)
            x = jax.nn.relu(self.norms[i](x) if self.norms else x)
        if isinstance(self.memory, GRU):
            hidden, memory = self.memory(x, first, memory)
        else:
            hidden = jax.nn.relu(self.memory(x))
        return self.head(hidden), hidden, memory


class Agent(eqx.Module):
    """The Q-networks of a team of N agents."""

    network: QNetwork  # unless sharing is "all", every array has a leading axis, a group each
    n_agents: int = eqx.field(static=True)
    n_actions: int = eqx.field(static=True)
    config: AgentConfig = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        *,
        n_agents: int,
        obs_size: int,
        n_actions: int,
        config: AgentConfig,
        obs_shape: ObsShape = (),
    ):
        self.n_agents, self.n_actions, self.config = n_agents, n_actions, config
        others = n_actions * config.prev_action + n_agents * config.agent_id

        def build(key: Key) -> QNetwork:
            return QNetwork(
                key,
                obs_shape=obs_shape or (obs_size,),
                others=others,
                n_actions=n_actions,
                config=config,
            )

        groups = self.groups
        self.network = (
            build(key)
            if groups is None
            else eqx.filter_vmap(build)(jax.random.split(key, max(groups) + 1))
        )

    @property
    def groups(self) -> tuple[int, ...] | None:
        """Which network each agent uses; None where all use one.

        Raises:
            QtotError: ``agent.groups`` does not name a group for each agent.
        """
        if self.config.sharing == "all":
            return None
        groups = self.config.groups if self.config.sharing == "groups" else range(self.n_agents)
        if len(groups) != self.n_agents:
            raise QtotError(
                f"agent.groups names the groups of {len(groups)} agents, but the team has "
                f"{self.n_agents}; give one number for each"
            )
        return tuple(groups)

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
        inputs = [jnp.zeros((time, batch, n, 0))]
        if self.config.prev_action:
            previous = jnp.where(first[..., None], -1, prev_action)
            inputs.append(jax.nn.one_hot(previous, self.n_actions))
        if self.config.agent_id:
            inputs.append(jnp.broadcast_to(jnp.eye(n), (time, batch, n, n)))
        others = jnp.concatenate(inputs, axis=-1)
        first = jnp.broadcast_to(first[..., None], (time, batch, n))

        if self.groups is not None:
            network = self.network
            if self.config.sharing == "groups":  # each agent's own view of its group's network
                index = np.asarray(self.groups)
                network = jax.tree.map(lambda x: x[index], network)
            each = jax.vmap(lambda net, *xs: net(*xs), (0, 2, 2, 2, 1), (2, 2, 1))
            return each(network, obs, others, first, memory)
        # Agents and batch are one axis: the shared network does not know who is who.
        q, hidden, memory = self.network(
            obs.reshape(time, batch * n, -1),
            others.reshape(time, batch * n, -1),
            first.reshape(time, batch * n),
            memory.reshape(batch * n, -1),
        )
        q, hidden = (y.reshape(time, batch, n, -1) for y in (q, hidden))
        return q, hidden, memory.reshape(batch, n, -1)

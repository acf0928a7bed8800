"""One trained agent, acting alone on its own observation, exactly as in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qtot.core.agent import Agent
from qtot.core.learner import Learner, Statistics
from qtot.deploy.acting import Alone, Memory, Place
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError

__all__ = ["Memory", "Policy", "place_of"]


def place_of(spec: EnvSpec, name: str) -> Place:
    """The place of the agent called ``name``.

    Raises:
        QtotError: the team has none.
    """
    if name not in spec.agents:
        raise QtotError(f"no agent {name!r} here; choose one of: {', '.join(spec.agents)}")
    i = spec.agents.index(name)
    return Place(
        name=name,
        index=i,
        n_actions=spec.n_actions[i],
        obs_size=spec.obs_sizes[i],
        obs_shape=spec.obs_shape,
        pixels=spec.pixels,
        action_meanings=spec.action_meanings[i] if spec.action_meanings else (),
    )


class Policy(Alone):
    """``memory = reset()``, then ``action, memory = act(obs, avail_actions, memory)``."""

    def __init__(self, spec: EnvSpec, learner: Learner, agent: Agent, stats: Statistics, name: str):
        super().__init__(place_of(spec, name), agent.memory_size)
        n, o = spec.n_agents, spec.obs_size

        @jax.jit
        @jax.default_matmul_precision("float32")
        def q_values(obs: Array, prev_action: Array, hidden: Array) -> tuple[Array, Array]:
            # The team's other places stay empty: an agent's Q reads nothing but its own.
            me = self.index
            team_obs = jnp.zeros((1, 1, n, o)).at[0, 0, me, : obs.shape[0]].set(obs)
            q, _, memory = agent.unroll(
                learner.see(stats, team_obs),
                jnp.full((1, 1, n), -1, jnp.int32).at[0, 0, me].set(prev_action),
                jnp.zeros((1, 1), bool),
                agent.initial_memory(1).at[0, me].set(hidden),
            )
            return q[0, 0, me, : self.n_actions], memory[0, me]

        self._q_values = q_values

    def _values(self, obs: np.ndarray, memory: Memory) -> tuple[np.ndarray, Array]:
        q, hidden = self._q_values(obs, memory.prev_action, memory.hidden)
        return np.asarray(q), hidden

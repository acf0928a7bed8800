"""One trained agent, acting alone on its own observation, exactly as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qtot.core.agent import Agent
from qtot.core.learner import Learner, Statistics
from qtot.core.masks import masked_argmax
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.shapes import flatten, is_named


class Memory(NamedTuple):
    """What an agent carries from step to step."""

    hidden: Float[Array, "K"]
    """recurrent state"""
    prev_action: int
    """the action before, or -1 at an episode's start"""


class Policy:
    """``memory = reset()``, then ``action, memory = act(obs, avail_actions, memory)``."""

    def __init__(self, spec: EnvSpec, learner: Learner, agent: Agent, stats: Statistics, name: str):
        if name not in spec.agents:
            raise QtotError(f"no agent {name!r} here; choose one of: {', '.join(spec.agents)}")
        self.name = name
        self.index = spec.agents.index(name)
        self.obs_size = spec.obs_sizes[self.index]
        self.obs_shape = spec.obs_shape
        self.n_actions = spec.n_actions[self.index]
        self._memory_size = agent.memory_size
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

    def reset(self) -> Memory:
        """The memory with which an episode begins."""
        return Memory(jnp.zeros(self._memory_size), -1)

    def q_values(self, obs: Any, memory: Memory) -> tuple[np.ndarray, Array]:
        """Q_a of every action, ``[n_actions]``, and the recurrent state after seeing ``obs``. For
        COMA, logits of the policy in place of Q-values.

        Raises:
            QtotError: ``obs`` has another shape than in training.
        """
        flat = self._flat(obs)
        q, hidden = self._q_values(flat, memory.prev_action, memory.hidden)
        return np.asarray(q), hidden

    def _flat(self, obs: Any) -> np.ndarray:
        """As in training, ``[obs_size]``."""
        shape = dict(self.obs_shape) if is_named(self.obs_shape) else self.obs_shape
        if isinstance(obs, Mapping):
            got: Any = {name: np.shape(part) for name, part in obs.items()}
            flat = flatten(obs, self.obs_shape) if is_named(self.obs_shape) else None
        else:
            array = np.asarray(obs, np.float32)
            got = array.shape
            flat = array.reshape(-1) if got in (self.obs_shape, (self.obs_size,)) else None
        if flat is None:
            other = f" or {shape}" if shape else ""
            raise QtotError(
                f"{self.name} expects an observation of shape ({self.obs_size},){other}, got {got}"
            )
        return flat

    def act(
        self,
        obs: Any,
        avail_actions: Sequence[bool] | np.ndarray | None,
        memory: Memory,
        *,
        epsilon: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> tuple[int, Memory]:
        """The greedy legal action, or with probability ``epsilon`` a random legal one.

        Args:
            obs: this agent's own observation, ``[obs_size]``, not padded; an image, or a dict of
                arrays, in its own shape, with values as in training (pixels within [0, 1]).
            avail_actions: True where legal, ``[n_actions]``; None when all are.
            memory: from ``reset`` or the last ``act``.
            epsilon: share of random actions.
            rng: where they come from; needed when ``epsilon`` is above 0.

        Raises:
            QtotError: a wrong shape, or no legal action.
        """
        legal = np.ones(self.n_actions, bool) if avail_actions is None else None
        if legal is None:
            legal = np.asarray(avail_actions).astype(bool)
        if legal.shape != (self.n_actions,) or not legal.any():
            raise QtotError(
                f"{self.name} expects avail_actions of shape ({self.n_actions},) with at least "
                f"one legal action, got {np.asarray(avail_actions)!r}"
            )
        q, hidden = self.q_values(obs, memory)
        action = int(masked_argmax(jnp.asarray(q), jnp.asarray(legal)))
        if epsilon > 0.0:
            if rng is None:
                raise QtotError("epsilon above 0 needs rng=numpy.random.default_rng(seed)")
            if rng.random() < epsilon:
                action = int(rng.choice(np.flatnonzero(legal)))
        return action, Memory(hidden, action)

"""Environments that are elsewhere, as the program sees them: their state is what they show.

So collectors, learners and replay need not know where experience comes from.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, PyTree, StepResult


class Shown(NamedTuple):
    """A ``JaxEnv`` that observes, and that someone else resets and steps."""

    spec: EnvSpec

    def reset(self, key: Key) -> Observation:
        """Nothing is shown yet."""
        n, spec = self.spec.n_agents, self.spec
        return Observation(
            obs=jnp.zeros((n, spec.obs_size)),
            state=jnp.zeros(spec.state_size),
            avail_actions=jnp.zeros((n, spec.max_actions), bool),
            alive=jnp.zeros(n, bool),
        )

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """Not here."""
        raise NotImplementedError("these environments are stepped by worker processes")

    def observe(self, state: Observation) -> Observation:
        """As it is."""
        return state

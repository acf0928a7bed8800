"""The contract of an environment written in JAX: pure functions, one environment at a time.

The caller vmaps. ``step`` never resets, and what is seen is computed from the state once, by
``observe``, so that neither a step nor a reset pays for an observation that nobody reads. An
environment whose observation needs more than its state keeps what it needs in the state.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Int

from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, PyTree, StepResult


@runtime_checkable
class JaxEnv(Protocol):
    """A team of agents in a world. All three functions can be jitted and vmapped."""

    @property
    def spec(self) -> EnvSpec:
        """The facts; they never change."""
        ...

    def reset(self, key: Key) -> PyTree:
        """The state in which an episode begins."""
        ...

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """The state after the joint action, and what followed it. Never resets."""
        ...

    def observe(self, state: PyTree) -> Observation:
        """What the agents (and, in training, the mixer) see in ``state``."""
        ...

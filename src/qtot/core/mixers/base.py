"""What every mixer is given and must return."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from qtot.core.config import MixerConfig
from qtot.shapes import ObsShape
from qtot.types import Key


class MixerInputs(NamedTuple):
    """Everything a mixer may look at, over any leading axes ``*b`` (usually T, B)."""

    q_taken: Float[Array, "*b N"]
    """Q_a of the actions taken"""
    q_greedy: Float[Array, "*b N"]
    """the largest legal Q_a"""
    q: Float[Array, "*b N A"]
    action: Int[Array, "*b N"]
    hidden: Float[Array, "*b N H"]
    state: Float[Array, "*b S"]
    avail_actions: Bool[Array, "*b N A"]
    alive: Bool[Array, "*b N"]


class Shapes(NamedTuple):
    """Sizes a mixer or a critic is built for."""

    n_agents: int
    n_actions: int
    state_size: int
    hidden: int
    obs_size: int = 0
    obs_shape: ObsShape = ()


@runtime_checkable
class Mixer(Protocol):
    """One file and one line of the registry."""

    monotone: ClassVar[bool]
    """∂Q_tot/∂Q_a ≥ 0 for every agent, so the joint argmax is every agent's own (eq. 4)"""

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig): ...

    def __call__(self, x: MixerInputs) -> Float[Array, "*b M"]:
        """Q_tot, or one value per agent."""
        ...

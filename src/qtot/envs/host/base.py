"""The contract of an environment written in Python: one environment, NumPy arrays, padded.

Adapters (``pettingzoo``, ``gymnasium``, ``smac``, ...) turn what users have into this. ``step``
never resets; whoever plays resets after an episode's final observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from qtot.envs.spec import EnvSpec


class Seen(NamedTuple):
    """What is seen at one slot, with the axes and the meaning of ``qtot.types.Observation``."""

    obs: np.ndarray
    """float32 ``[N, O]``: each agent's own observation, zero-padded"""
    state: np.ndarray
    """float32 ``[S]``"""
    avail_actions: np.ndarray
    """bool ``[N, A]``: True = legal; padding actions are never legal"""
    alive: np.ndarray
    """bool ``[N]``: an agent that is dead, or not there, keeps its place"""


class Stepped(NamedTuple):
    """What followed a joint action."""

    seen: Seen
    """the next slot; after an end, the episode's final observation"""
    reward: float
    """the team reward"""
    terminated: bool
    """a true end"""
    truncated: bool
    """a time limit"""
    info: dict[str, float]
    """the scalars that ``spec.info`` names"""


@runtime_checkable
class HostEnv(Protocol):
    """A team of agents in a world that Python steps."""

    @property
    def spec(self) -> EnvSpec:
        """The facts; they never change."""
        ...

    def reset(self, seed: int) -> Seen:
        """Begin an episode. The same seed gives the same episode, if the world allows."""
        ...

    def step(self, actions: Sequence[int]) -> Stepped:
        """The joint action, one number per agent in the order of ``spec.agents``; what an agent
        that is dead or not there chose is ignored. Never resets.
        """
        ...

    def close(self) -> None:
        """Give back what the world holds: windows, sockets, processes."""
        ...


def is_host(env: object) -> bool:
    """Whether Python steps it: a ``JaxEnv`` may have a ``close``, too, but shows its states by
    ``observe``.
    """
    return hasattr(env, "close") and not hasattr(env, "observe")


ERRORS = (Exception, SystemExit)
"""what an environment may raise; Ctrl-C is its user's"""


class GarbageError(Exception):
    """An environment returned what it must not, in one sentence: where, expected, got."""

"""What all adapters share in play: padded arrays, the team's reward and end, info."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qtot.envs.host.base import GarbageError
from qtot.envs.spec import EnvSpec, TeamReward


class Team:
    """One team's padding. Every array it gives is a new one, since callers keep what they get."""

    def __init__(self, spec: EnvSpec, reward: TeamReward, info: tuple[str, ...]):
        self.steps = 0
        self._n, self._limit, self._reward, self._info = (
            spec.n_agents,
            spec.episode_limit,
            reward,
            info,
        )
        self._obs_shape = (spec.n_agents, spec.obs_size)
        self._state_size = spec.state_size
        columns = np.arange(spec.max_actions)
        self._legal = columns < np.asarray(spec.n_actions)[:, None]
        self._idle = np.broadcast_to(columns == 0, self._legal.shape)
        real = np.arange(spec.obs_size) < np.asarray(spec.obs_sizes)[:, None]
        self._real = None if real.all() else np.flatnonzero(real)

    def blank(self, *, alive: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations of zeros ``[N, O]``, legal actions ``[N, A]`` and who is alive ``[N]``: all,
        with every action, or none, with only action 0.
        """
        legal = self._legal if alive else self._idle
        return (
            np.zeros(self._obs_shape, np.float32),
            legal.copy(),
            np.ones(self._n, bool) if alive else np.zeros(self._n, bool),
        )

    def legal(self, agent: int) -> np.ndarray:
        """All actions of one agent, ``[A]``; not to be written to."""
        return self._legal[agent]

    def side_by_side(self, obs: np.ndarray) -> np.ndarray:
        """All observations ``[N, O]`` in a row, without padding, for a world with no state."""
        flat = obs.reshape(-1)
        return flat.copy() if self._real is None else flat[self._real]

    def state(self, state: Any) -> np.ndarray:
        """The world's state as ``[S]``, which must keep its size."""
        flat = flat_state(state)
        if flat.size != self._state_size:
            raise GarbageError(
                f"state: expected {self._state_size} features as in the first episode, got "
                f"{flat.size}"
            )
        return flat

    def no_state(self) -> np.ndarray:
        """Zeros in its place."""
        return np.zeros(self._state_size, np.float32)

    def reward(self, rewards: Iterable[float], alike: Sequence[float]) -> float:
        """The team's reward from all agents' own; where it is given, those ``alike`` must be equal.
        The mean is over all N, so that it is the sum, divided by a constant.
        """
        if self._reward != "given":
            total = float(sum(rewards))
            return total if self._reward == "sum" else total / self._n
        first = alike[0] if len(alike) else 0.0
        for other in alike:
            if not math.isclose(other, first, rel_tol=1e-5, abs_tol=1e-8):
                raise GarbageError(
                    "reward: expected the same for every agent, since team_reward is 'given', got "
                    f"{[float(r) for r in alike]}; choose sum or mean"
                )
        return float(first)

    def cut(self, ended: bool) -> bool:
        """Counts a step; whether the limit cuts the episode there, unless it ended by itself."""
        self.steps += 1
        return not ended and self.steps >= self._limit

    def info(self, given: Mapping[Any, Any], agents: Iterable[Any] = ()) -> dict[str, float]:
        """The scalars named by the configuration: the step's own, or the mean over those of the
        agents who report it; 0 where nobody does.
        """
        if not self._info:
            return {}
        each = [info for info in agents if isinstance(info, Mapping)]
        return {name: _scalar(name, given, each) for name in self._info}


def _scalar(name: str, given: Mapping[Any, Any], agents: Sequence[Mapping[Any, Any]]) -> float:
    found = [given[name]] if name in given else [info[name] for info in agents if name in info]
    if not found:
        return 0.0
    try:
        return float(np.mean(np.asarray(found, np.float64)))
    except (TypeError, ValueError):
        raise GarbageError(f"info {name!r}: expected a number, got {found[0]!r}") from None


def number(value: Any, what: str) -> float:
    """A reward as a Python number."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise GarbageError(f"{what}: expected a number, got {value!r}") from None
    if not math.isfinite(value):
        raise GarbageError(f"{what}: expected a finite number, got {value}")
    return value


def flat_state(state: Any) -> np.ndarray:
    """A state of any shape as float32 ``[S]``, a new array; pixels of bytes within [0, 1]."""
    array = np.asarray(state)
    try:
        flat = array.reshape(-1).astype(np.float32)
    except (TypeError, ValueError):
        raise GarbageError(f"state: expected numbers, got {type(state).__name__}") from None
    return flat / np.float32(255) if array.dtype == np.uint8 and array.ndim > 1 else flat

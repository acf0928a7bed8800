"""A healthy walk in the APIs that users have, and ways to break one thing of it, for the tests of
``check-env``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from extras import package

spaces = package("gymnasium.spaces", "gym")


class Walk:
    """Two agents: 3 to 5 steps end it truly, and of those that need 9, the declared limit of 6."""

    names: tuple[str, ...] = ("left", "right")
    limit = 6
    space: Any = spaces.Box(0.0, 10.0, (2,), np.float32)

    def __init__(self) -> None:
        if self.limit:
            self.max_steps = self.limit

    def begin(self, seed: int | None) -> None:
        luck = np.random.default_rng(seed)
        self.to_go, self.time, self.luck = int(luck.choice([3, 4, 5, 9])), 0, luck.random()

    def go(self, actions: Sequence[int]) -> tuple[bool, bool]:
        """Whether it has ended, and whether the limit was reached."""
        self.to_go, self.time = self.to_go - 1, self.time + 1
        self.own = [float(action) + self.luck for action in actions]
        return self.to_go <= 0, bool(self.limit and self.time >= self.limit and self.to_go > 0)

    def look(self) -> Any:
        """What one agent sees."""
        return np.array([self.to_go, self.luck], np.float32)

    def mask(self) -> Any:
        return np.array([True, True, True])

    def pay(self) -> Any:
        """The agents' own rewards."""
        return self.own

    def state(self) -> Any:
        return np.array([self.to_go, self.time, self.luck], np.float32)

    def _each(self, what: Any) -> dict[str, Any]:
        return dict.fromkeys(self.names, what)


class Zoo(Walk):
    """As a PettingZoo Parallel environment."""

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents, self.agents = list(self.names), list[str]()

    def observation_space(self, agent: str) -> Any:
        return self.space

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.begin(seed)
        self.agents = list(self.names)
        return self._each(self.look()), self._each({"action_mask": self.mask()})

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        ended, late = self.go(list(actions.values()))
        if ended or late:
            self.agents = []
        rewards = dict(zip(self.names, self.pay(), strict=True))
        ends, infos = (
            (self._each(ended), self._each(late)),
            self._each({"action_mask": self.mask()}),
        )
        return self._each(self.look()), rewards, *ends, infos


class Gym(Walk):
    """As a Gymnasium environment of Tuples."""

    @property
    def observation_space(self) -> Any:
        return spaces.Tuple([self.space for _ in self.names])

    @property
    def action_space(self) -> Any:
        return spaces.Tuple([spaces.Discrete(3) for _ in self.names])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.begin(seed)
        return self._seen()

    def step(self, actions: Sequence[int]) -> tuple[Any, ...]:
        ended, late = self.go(actions)
        seen, info = self._seen()
        return seen, self.pay(), ended, late, info

    def _seen(self) -> tuple[Any, Any]:
        seen, masks = zip(*((self.look(), self.mask()) for _ in self.names), strict=True)
        return seen, {"action_mask": masks}


class Smac(Walk):
    """With SMAC's methods, and a seed."""

    def get_env_info(self) -> dict[str, Any]:
        sizes = {"obs_shape": 2, "state_shape": 3}
        return {"n_agents": len(self.names), "n_actions": 3, **sizes}

    def reset(self, seed: int | None = None) -> None:
        self.begin(seed)

    def step(self, actions: Sequence[int]) -> tuple[Any, ...]:
        ended, late = self.go(actions)
        return sum(self.pay()), ended or late, {"episode_limit": True} if late else {}

    def get_obs(self) -> Any:
        return [self.look() for _ in self.names]

    def get_state(self) -> Any:
        return self.state()

    def get_avail_actions(self) -> Any:
        return [self.mask() for _ in self.names]


FACES = {"PettingZoo": Zoo, "Gymnasium": Gym, "SMAC": Smac}


def broken(face: type[Walk], **parts: Any) -> type[Walk]:
    """That walk with some of its parts replaced."""
    return type(face.__name__, (face,), parts)


# By name, for the command.
Rivals = broken(Zoo, pay=lambda env: [env.own[0], -env.own[0]])

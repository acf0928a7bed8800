"""Small environments in PettingZoo's and Gymnasium's APIs, by hand, for the adapters' tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from extras import package

gymnasium = package("gymnasium", "gym")
spaces = gymnasium.spaces

UNIT = spaces.Box(-10.0, 10.0, (2,), np.float32)


class Script:
    """A Parallel environment that plays what it is told: who is there after every step, and how
    those who leave do. Agent i sees (i + 1, step), and is rewarded with the action it took.
    """

    metadata: Mapping[str, Any] = {"name": "script"}

    def __init__(
        self,
        there: Sequence[str],
        *,
        names: tuple[str, ...] = ("a", "b", "c"),
        ends: Mapping[int, Mapping[str, str]] | None = None,
        observed: Mapping[str, Any] | None = None,
        acts: Mapping[str, Any] | None = None,
        look: Callable[[str, int], Any] | None = None,
        infos: Callable[[str, int], dict[str, Any]] = lambda agent, step: {},
        sloppy: bool = False,
    ):
        self.possible_agents = list(names)
        self._there, self._ends, self._infos, self._sloppy = there, ends or {}, infos, sloppy
        self._observed = observed or dict.fromkeys(names, UNIT)
        self._acts = acts or {name: spaces.Discrete(3) for name in names}
        self._look = look or (
            lambda name, step: np.array([names.index(name) + 1, step], np.float32)
        )
        self.taken: list[dict[str, Any]] = []
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return self._observed[agent]

    def action_space(self, agent: str) -> Any:
        return self._acts[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.seed, self.now, self.taken = seed, 0, []
        self.agents = list(self._there[0])
        return self._seen(self.agents)

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert set(actions) == set(self.agents)
        self.now += 1
        self.taken.append(actions)
        ends = self._ends.get(self.now, {})
        around = list(dict.fromkeys([*self.agents, *self._there[self.now]]))
        terminated = {a: "T" in ends.get(a, "") for a in around}
        truncated = {a: "L" in ends.get(a, "") for a in around}
        rewards = {a: float(np.sum(actions[a])) for a in self.agents}
        obs, infos = self._seen(around)
        self.agents = list(around if self._sloppy else self._there[self.now])
        return obs, rewards, terminated, truncated, infos

    def _seen(self, agents: Sequence[str]) -> tuple[Any, Any]:
        looks = {a: self._look(a, self.now) for a in agents}
        return looks, {a: self._infos(a, self.now) for a in agents}

    def close(self) -> None:
        self.closed = True


class Pair(gymnasium.Env):
    """Two agents in Gymnasium for ``length`` steps; they are paid (action, 2 * action)."""

    def __init__(
        self,
        length: int = 3,
        *,
        observed: Any = UNIT,
        acts: Any = None,
        end: tuple[Any, Any] = (True, False),
        reward: Any = None,
        info: dict[str, Any] | None = None,
    ):
        acts = acts or spaces.Discrete(3)
        self.observation_space = spaces.Tuple((observed, observed))
        self.action_space = spaces.Tuple((acts, acts))
        self._length, self._end, self._reward, self._info = length, end, reward, info or {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self._now, self.seed = 0, seed
        return self._seen(), self._info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert self.action_space.contains(tuple(actions))
        self._now += 1
        over = self._now >= self._length
        pay = [float(actions[0]), 2.0 * float(actions[1])] if self._reward is None else self._reward
        end = self._end if over else (False, False)
        return self._seen(), pay, *end, self._info

    def _seen(self) -> tuple[Any, Any]:
        self.observation_space.seed(self._now)
        return self.observation_space.sample()


class Painter(Pair):
    """Pair whose episodes last as long as their seeds say, drawn as a bar that grows by a pixel a
    step; with ``frail`` those of five steps fail in their second one.
    """

    render_mode = "rgb_array"

    def __init__(self, frail: bool = False):
        super().__init__()
        self._frail = frail

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self._length = 3 + (seed or 0) % 3
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        if self._frail and self._length == 5 and self._now == 1:
            raise RuntimeError("the brush broke")
        return super().step(actions)

    def render(self) -> np.ndarray:
        picture = np.zeros((2, 8, 3), np.uint8)
        picture[:, : self._now] = 255
        return picture

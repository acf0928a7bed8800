"""Small worlds that Ray's actors import."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qtot.envs.host.base import Seen, Stepped
from qtot.envs.spec import EnvSpec


class Agree:
    """Three rounds in which both should choose action 1; what is seen is drawn by the seed."""

    spec = EnvSpec(
        name="test/agree",
        agents=("a", "b"),
        n_actions=(2, 2),
        obs_sizes=(2, 2),
        state_size=2,
        episode_limit=3,
        team_reward="given",
    )

    def __init__(self, pause: float = 0.0, broken: str = ""):
        self.pause, self.broken = pause, broken
        self.time, self.luck = 0, 0.0

    def reset(self, seed: int) -> Seen:
        self.time, self.luck = 0, float(np.random.default_rng(seed).random())
        return self.see()

    def step(self, actions: Sequence[int]) -> Stepped:
        time.sleep(self.pause)
        if self.broken and Path(self.broken).exists():
            raise RuntimeError("this world has ended")
        self.time += 1
        reward = float(actions[0] == actions[1] == 1)
        return Stepped(self.see(), reward, self.time == 3, False, {})

    def see(self) -> Seen:
        return Seen(
            obs=np.array([[self.time, self.luck]] * 2, np.float32),
            state=np.array([self.time, self.luck], np.float32),
            avail_actions=np.ones((2, 2), bool),
            alive=np.ones(2, bool),
        )

    def close(self) -> None:
        """Nothing is held."""

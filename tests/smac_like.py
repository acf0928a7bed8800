"""A battle with SMAC's API and habits: the dead have the no-op only, the living never have it, and
a time limit is reported in the info of a battle that "terminated".

Marines stand on a line, the enemy's at its other end. A marine who has an enemy within reach may
shoot it, everyone else walks or stops; the enemies shoot the nearest. Who shoots the same enemy
together kills it before it has shot twice: the battle is won by focused fire.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NOOP, STOP, LEFT, RIGHT, SHOOT = range(5)
HEALTH, ENEMY_HEALTH, REACH, LENGTH = 3, 4, 2, 6


class Battle:
    """Methods as in PyMARL's ``MultiAgentEnv``. ``gymnasium`` makes step return five values."""

    def __init__(
        self, n: int = 2, enemies: int = 2, episode_limit: int = 20, *, gymnasium: bool = False
    ):
        self.n_agents, self.n_enemies, self.episode_limit = n, enemies, episode_limit
        self.n_actions = SHOOT + enemies
        self._gymnasium = gymnasium
        self._rng = np.random.default_rng(0)
        self.began = 0

    def reset(self) -> tuple[Any, Any]:
        self.began += 1
        self.health = np.full(self.n_agents, HEALTH)
        self.foes = np.full(self.n_enemies, ENEMY_HEALTH)
        self.place = self._rng.integers(0, 2, self.n_agents)
        self.steps = 0
        return self.get_obs(), self.get_state()

    def step(self, actions: Any) -> Any:
        assert all(type(a) is int for a in actions)  # as SMAClite asserts
        for i, action in enumerate(actions):
            assert self.get_avail_agent_actions(i)[action], f"agent {i} cannot do {action}"
        before = self.foes.sum()
        for i, action in enumerate(actions):
            if action in (LEFT, RIGHT):
                self.place[i] += 1 if action == RIGHT else -1
            elif action >= SHOOT:
                self.foes[action - SHOOT] = max(self.foes[action - SHOOT] - 1, 0)
        for foe in self.foes:
            if foe and (up := np.flatnonzero(self.health)).size:
                nearest = up[np.argmax(self.place[up])]
                if LENGTH - 1 - self.place[nearest] <= REACH:
                    self.health[nearest] -= 1
        self.steps += 1
        reward = float(before - self.foes.sum()) / (ENEMY_HEALTH * self.n_enemies)
        won, lost = not self.foes.any(), not self.health.any()
        info: dict[str, Any] = {"battle_won": False, "dead_allies": int((self.health == 0).sum())}
        over = won or lost
        if over:
            info["battle_won"] = won
            reward += float(won)
        elif self.steps >= self.episode_limit:
            over, info["episode_limit"] = True, True
        if self._gymnasium:
            cut = bool(info.pop("episode_limit", False))
            return self.get_obs(), reward, over and not cut, cut, info
        return reward, over, info

    def get_obs(self) -> list[np.ndarray]:
        return [
            np.zeros(self._obs_size, np.float32)
            if not self.health[i]
            else np.concatenate(
                [[self.place[i] / LENGTH, self.health[i] / HEALTH], self.foes / ENEMY_HEALTH]
            )
            for i in range(self.n_agents)
        ]

    @property
    def _obs_size(self) -> int:
        return 2 + self.n_enemies

    def get_state(self) -> np.ndarray:
        return np.concatenate(
            [self.place / LENGTH, self.health / HEALTH, self.foes / ENEMY_HEALTH, [self.steps / 20]]
        )

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in range(self.n_agents)]

    def get_avail_agent_actions(self, i: int) -> list[int]:
        if not self.health[i]:
            return [1] + [0] * (self.n_actions - 1)
        near = LENGTH - 1 - self.place[i] <= REACH
        walk = [int(self.place[i] > 0), int(self.place[i] < LENGTH - 1)]
        return [0, 1, *walk, *(int(bool(near and foe)) for foe in self.foes)]

    def get_env_info(self) -> dict[str, Any]:
        return {
            "state_shape": 2 * self.n_agents + self.n_enemies + 1,
            "obs_shape": self._obs_size,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def close(self) -> None:
        self.closed = True


class Seeded(Battle):
    """The same, where ``reset`` takes a seed."""

    def reset(self, seed: int | None = None) -> tuple[Any, Any]:
        self._rng = np.random.default_rng(seed)
        return super().reset()

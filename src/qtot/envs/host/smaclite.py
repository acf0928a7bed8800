"""SMAClite (Michalski et al. 2023) with the methods of SMAC that it lacks.

Its observations come from ``reset`` and ``step``, its sizes are attributes, and it ends battles by
death alone: the limits are those of SMAC's maps, which the paper uses.
"""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import numpy as np

from qtot.envs.host import making
from qtot.errors import unknown

LIMITS = {
    "2c_vs_64zg": 400,
    "2s3z": 120,
    "2s_vs_1sc": 300,
    "3s5z": 150,
    "3s5z_vs_3s6z": 170,
    "3s_vs_5z": 250,
    "10m_vs_11m": 150,
    "27m_vs_30m": 180,
    "MMM": 150,
    "MMM2": 180,
    "bane_vs_bane": 200,
    "corridor": 400,
}


class SmacliteBattle:
    """The missing methods; ``get_state`` and ``get_avail_actions`` are the battle's own."""

    def __init__(self, battle: Any, limit: int | None):
        self._battle, self._limit = battle, limit
        self._obs: Any = None

    def get_env_info(self) -> dict[str, Any]:
        """Sizes, and the limit if the map has one."""
        if hasattr(self._battle, "get_env_info"):
            return {"episode_limit": self._limit, **self._battle.get_env_info()}
        return {
            "n_agents": self._battle.n_agents,
            "n_actions": self._battle.n_actions,
            "obs_shape": self._battle.obs_size,
            "state_shape": self._battle.state_size,
            "episode_limit": self._limit,
        }

    def reset(self, seed: int) -> None:
        """A battle begins. SMAClite draws from the global generators, which are seeded here."""
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        got = self._battle.reset()
        gymnasium = len(got) == 2 and isinstance(got[1], dict)
        self._obs = got[0] if gymnasium else got

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        """Reward, terminated, info; older versions return four values, newer ones five."""
        self._obs, reward, over, *cut, info = self._battle.step(actions)
        won = {"battle_won": not self._battle.enemies}
        return (
            reward,
            bool(over) or any(cut),
            {**won, **info, "episode_limit": any(cut) and not over},
        )

    def get_obs(self) -> Any:
        """What the last ``reset`` or ``step`` returned."""
        return self._obs

    def get_state(self) -> Any:
        """The battle's state."""
        return self._battle.get_state()

    def get_avail_actions(self) -> Any:
        """The battle's masks."""
        return self._battle.get_avail_actions()

    def close(self) -> None:
        """Closes the battle's window, if there is one."""
        self._battle.close()


def make(
    task: str, args: dict[str, Any], name: str, maps: ModuleType, battles: ModuleType
) -> SmacliteBattle:
    """The map called ``task``.

    Raises:
        QtotError: SMAClite has no such map.
    """
    known = {preset.value.name: preset.value for preset in maps.MapPreset}
    if task not in known:
        raise unknown("map of smaclite/", task, known)
    battle = making.make(battles.SMACliteEnv, {"map_info": known[task], **args}, name)
    return SmacliteBattle(battle, LIMITS.get(task))

"""SMAX (Rutherford et al. 2023): StarCraft-like battles against the heuristic enemy.

Settings as published for JaxMARL's QMIX: the enemy's actions are seen, walls cause death, the
enemy attacks the closest unit.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.envs.dice import hashed
from qtot.envs.jaxmarl import by_agent, jaxmarl_module, stacked
from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, PyTree, StepResult

MAPS = (
    "3m",
    "8m",
    "25m",
    "2s3z",
    "3s5z",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
)


class Smax:
    """One map. Everyone on the team receives the same reward; dead units may only stop."""

    def __init__(self, task: str):
        if task not in MAPS:
            raise KeyError(task)
        smax = jaxmarl_module("smax")
        self._env = smax.HeuristicEnemySMAX(
            scenario=smax.map_name_to_scenario(task),
            see_enemy_actions=True,
            walls_cause_death=True,
            attack_mode="closest",
        )
        self._allies = self._env.num_allies
        agents = tuple(self._env.agents)
        attacks = (f"attack_{i}" for i in range(self._env.num_enemies))
        self.spec = EnvSpec(
            name=f"smax/{task}",
            agents=agents,
            n_actions=tuple(int(self._env.action_spaces[a].n) for a in agents),
            obs_sizes=tuple(int(self._env.observation_spaces[a].shape[0]) for a in agents),
            state_size=int(self._env.state_size),
            episode_limit=int(self._env.max_steps),
            # Elsewhere, teams start 6 from the nearest wall and 12 apart, and walk 2 per step.
            shortest_episode=1 if self._env.smacv2_position_generation else 3,
            lanes=True,
            action_meanings=(("north", "east", "south", "west", "stop", *attacks),) * len(agents),
            team_reward="given",
            state_source="environment",
            masks="environment",
            info=("won",),
            about=f"{self._allies} allies against {self._env.num_enemies} enemies",
        )

    def reset(self, key: Key) -> PyTree:
        """Both teams at their places."""
        return self._env.reset(hashed(key))[1]

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """One battle step. ``step_env`` folds time and defeat together; told apart here. It tests
        the limit on the counter before the step, which allows one transition more; ours is the
        declared limit.
        """
        played = by_agent(self.spec.agents, actions)
        _, state, rewards, _, _ = self._env.step_env(hashed(key), state, played)
        alive = state.state.unit_alive
        allies, enemies = alive[: self._allies].any(), alive[self._allies :].any()
        terminated = ~(allies & enemies)
        return state, StepResult(
            reward=rewards[self.spec.agents[0]].astype(jnp.float32),
            terminated=terminated,
            truncated=~terminated & (state.state.step >= self.spec.episode_limit),
            info={"won": (allies & ~enemies).astype(jnp.float32)},
        )

    def observe(self, state: PyTree) -> Observation:
        """Observations, world state and masks (the package's uint8 made bool)."""
        agents, masks = self.spec.agents, self._env.get_avail_actions(state)
        return Observation(
            obs=stacked(agents, self._env.get_obs(state)),
            state=self._env.get_world_state(state),
            avail_actions=stacked(agents, masks).astype(bool),
            alive=state.state.unit_alive[: self._allies],
        )


def tasks() -> tuple[str, ...]:
    """All maps of the package."""
    return MAPS


@functools.cache
def make(task: str) -> Smax:
    """The map called ``task``."""
    return Smax(task)

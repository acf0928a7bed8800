"""Overcooked (Carroll et al. 2019): two cooks fill pots with onions and serve the soups.

A soup served pays 20 to both; ``LAYOUT-shaped`` adds what the package pays the cooks on the way
there (an onion into the pot 3, a plate in time 3, a soup onto the plate 5), summed and never
annealed. An episode ends by time alone, after 400 transitions: always a truncation.

Observations are the whole kitchen as an image, one's own place and direction in the first
channels. The other cook's differs from it by the order of those channels alone, so the state is
the image of the first cook.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.envs.jaxmarl import all_legal, by_agent, jaxmarl_module, stacked
from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, PyTree, StepResult

LAYOUTS = ("cramped_room", "asymm_advantages", "coord_ring", "forced_coord", "counter_circuit")
SHAPED = "-shaped"


class Shift(NamedTuple):
    """Where an episode stands."""

    kitchen: PyTree
    """the package's state"""
    sparse_return: Float[Array, ""]
    """reward since the reset, without shaping"""


class Kitchen:
    """One layout, of either version of the game. Both cooks receive the same reward.

    Args:
        env: the package's environment.
        name: ``family/task``; its ending tells whether the reward is shaped.
        image: rows, columns and channels of what a cook sees.
        whole: the image of the whole kitchen, which is the state, from the package's state.
        whole_size: its features.
        about: one line for ``qtot envs``.
    """

    def __init__(
        self,
        env: Any,
        name: str,
        *,
        image: tuple[int, int, int],
        whole: Callable[[PyTree], Array],
        whole_size: int,
        about: str,
    ):
        self._env, self._whole = env, whole
        agents = tuple(env.agents)
        self._shaped = name.endswith(SHAPED)
        self.spec = EnvSpec(
            name=name,
            agents=agents,
            n_actions=(len(env.action_set),) * len(agents),
            obs_sizes=(math.prod(image),) * len(agents),
            obs_shape=image,
            state_size=whole_size,
            episode_limit=int(env.max_steps),
            team_reward="given",
            state_source="environment",
            masks="all legal",
            info=("sparse_return",) if self._shaped else (),
            about=f"{about}, shaped reward" if self._shaped else about,
        )

    def reset(self, key: Key) -> Shift:
        """Empty hands, counters and pots."""
        return Shift(self._env.reset(key)[1], jnp.zeros(()))

    def step(self, key: Key, state: Shift, actions: Int[Array, "N"]) -> tuple[Shift, StepResult]:
        """One move of both cooks. Neither of them ever ends the episode."""
        played = by_agent(self.spec.agents, actions)
        _, kitchen, rewards, dones, info = self._env.step_env(key, state.kitchen, played)
        reward = rewards[self.spec.agents[0]].astype(jnp.float32)
        after = Shift(kitchen, state.sparse_return + reward)
        if self._shaped:
            reward += stacked(self.spec.agents, info["shaped_reward"]).sum()
        return after, StepResult(
            reward=reward,
            terminated=jnp.zeros((), bool),
            truncated=dones["__all__"],
            info=dict.fromkeys(self.spec.info, after.sparse_return),
        )

    def observe(self, state: Shift) -> Observation:
        """What each cook sees, and the whole kitchen; both are small integers."""
        seen = stacked(self.spec.agents, self._env.get_obs(state.kitchen))
        return Observation(
            obs=seen.reshape(self.spec.n_agents, -1).astype(jnp.float32),
            state=self._whole(state.kitchen).reshape(-1).astype(jnp.float32),
            avail_actions=jnp.asarray(all_legal(self.spec.n_actions)),
            alive=jnp.ones(self.spec.n_agents, bool),
        )


def tasks() -> tuple[str, ...]:
    """All layouts of the package; each also takes the ending ``-shaped``."""
    return LAYOUTS


@functools.cache
def make(task: str) -> Kitchen:
    """The layout called ``task``, with or without ``-shaped``."""
    layout = task.removesuffix(SHAPED)
    if layout not in LAYOUTS:
        raise KeyError(task)
    overcooked = jaxmarl_module("overcooked")
    with warnings.catch_warnings():  # it would have everyone use the second version
        warnings.simplefilter("ignore", DeprecationWarning)
        env = overcooked.Overcooked(layout=overcooked.overcooked_layouts[layout])
    columns, rows, channels = env.obs_shape  # so declared; the arrays have rows first
    return Kitchen(
        env,
        f"overcooked/{task}",
        image=(rows, columns, channels),
        whole=lambda kitchen: env.get_obs(kitchen)["agent_0"],
        whole_size=rows * columns * channels,
        about=f"a kitchen of {rows} x {columns} cells",
    )

"""Level-Based Foraging (Papoudakis et al. 2021) through Jumanji: a team gathers food on a grid.

Agents have levels, 1 or 2. Food is eaten once the levels of those who load beside it add up to its
own. The team reward is the food's share of all levels on the grid, so that eating everything
returns 1. Tasks are named as in lbforaging:

    8x8-2p-3f          grid, players (agents) and food
    8x8-2p-2f-coop     every food has the level of all agents together, at most three, the weakest
    2s-8x8-2p-2f-coop  agents see 2 cells far, in place of the whole grid

The limit of 50 transitions is lbforaging's, too; Jumanji's own default is 100. The package has no
global state, so the state is the agents' observations side by side.
"""

from __future__ import annotations

import functools
import re

import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.envs.jumanji import jumanji_module
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.types import Key, Observation, PyTree, StepResult

NAME = re.compile(
    r"(?:([1-9]\d{0,3})s-)?([1-9]\d{0,3})x([1-9]\d{0,3})-([1-9]\d{0,3})p-([1-9]\d{0,3})f(-coop)?"
)
LIMIT = 50


def _wrong(rows: int, columns: int, agents: int, food: int, sight: int) -> str | None:
    """What the package cannot do, and what to choose; None if it can."""
    if rows != columns:
        return f"the grid must be a square; choose {rows}x{rows} or {columns}x{columns}"
    if rows < 5:
        return f"a {rows}x{rows} grid is too small; choose 5x5 or larger"
    if sight > rows:
        return f"a sight of {sight} reaches beyond the grid; leave out '{sight}s-' to see all of it"
    # The generator keeps agents off every row whose number is a coordinate of food, which leaves
    # the first and the last at least. It would place more agents than that on top of food.
    if not 2 <= agents <= 2 * rows:
        return f"{agents}p is too few or too many; choose 2p to {2 * rows}p on this grid"
    most = ((rows - 2) ** 2 - agents - 1) // 5  # Jumanji's own bound: 5 inner cells for each food
    if food > most:
        less = f"at most {most}f or " if most > 0 else ""
        return f"{food} food may not fit beside {agents} agents; choose {less}a larger grid"
    return None


class Lbf:
    """One task. The team reward is the sum over agents, who share by level."""

    def __init__(self, task: str):
        found = NAME.fullmatch(task)
        if found is None:
            raise KeyError(task)
        rows, columns, agents, food = map(int, found.group(2, 3, 4, 5))
        sight = int(found[1] or rows)
        if wrong := _wrong(rows, columns, agents, food, sight):
            raise QtotError(f"environment 'lbf/{task}' cannot be made: {wrong}")
        generator = jumanji_module("lbf.generator").RandomGenerator(
            grid_size=rows,
            num_agents=agents,
            num_food=food,
            fov=sight,
            max_agent_level=2,
            force_coop=bool(found[6]),
        )
        self._env = jumanji_module("lbf").LevelBasedForaging(generator, time_limit=LIMIT)
        size = 3 * (food + agents)  # row, column and level
        self.spec = EnvSpec(
            name=f"lbf/{task}",
            agents=tuple(f"agent_{i}" for i in range(agents)),
            n_actions=(6,) * agents,
            obs_sizes=(size,) * agents,
            state_size=size * agents,
            episode_limit=LIMIT,
            action_meanings=(("noop", "up", "down", "left", "right", "load"),) * agents,
            team_reward="sum",
            state_source="concatenated observations",
            masks="environment",
            info=("won",),
            about=f"{agents} agents, {food} food on {rows}x{rows}"
            + (f", seen {sight} cells far" if sight < rows else "")
            + (", eaten only together" if found[6] else ""),
        )

    def reset(self, key: Key) -> PyTree:
        """Agents and food at random places, with random levels."""
        return self._env.reset(key)[0]

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """One move or load of everyone; chance plays no part. Won is to have eaten everything."""
        after, step = self._env.step(state, actions)
        won = after.food_items.eaten.all()
        return after, StepResult(
            reward=step.reward.sum(),
            terminated=won,
            truncated=step.last() & ~won,
            info={"won": won.astype(jnp.float32)},
        )

    def observe(self, state: PyTree) -> Observation:
        """Food, oneself and the others, as row, column and level; what is eaten or too far away
        is -1, -1, 0. Cells count from the first that is seen. Loading needs food beside oneself.
        """
        seen = self._env._observer.state_to_observation(state)
        obs = seen.agents_view.astype(jnp.float32)
        return Observation(
            obs=obs,
            state=obs.reshape(-1),
            avail_actions=seen.action_mask,
            alive=jnp.ones(self.spec.n_agents, bool),
        )


def tasks() -> tuple[str, ...]:
    """Those that papers report; other sizes go by the same pattern."""
    return (
        "8x8-2p-2f-coop",
        "2s-8x8-2p-2f-coop",
        "8x8-2p-3f",
        "10x10-3p-3f",
        "2s-10x10-3p-3f",
        "15x15-3p-5f",
        "15x15-4p-3f",
        "15x15-4p-5f",
    )


@functools.cache
def make(task: str) -> Lbf:
    """The task called ``task``.

    Raises:
        KeyError: that is no name of a task.
        QtotError: the package cannot make it; says what to choose.
    """
    return Lbf(task)

"""The multi-robot warehouse (Papoudakis et al. 2021) through Jumanji: robots fetch shelves.

The team receives 1 for every requested shelf that is carried to a goal, where the next request is
drawn. Tasks are named as in rware: the warehouse, its number of robots (agents), and how many
shelves are requested at a time: as many as there are agents; ``-easy`` twice, ``-hard`` half as
many.

Jumanji moves the robots one after the other. Where two of them collide the episode ends truly,
which also happens to a robot that follows closely behind one of a later number; in the original,
robots only block each other's way. A loaded robot that waits among the shelves sets its shelf down.
The package has no global state, so the state is the agents' observations side by side.
"""

from __future__ import annotations

import functools
import re

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from qtot.envs.jumanji import jumanji_module
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.types import Key, Observation, PyTree, StepResult

SIZES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5)}
"""rows and columns of shelf clusters, each of which is 8 shelves high and 2 wide"""
REQUESTS = {"": 1.0, "-easy": 2.0, "-hard": 0.5}
"""shelves requested at a time, per agent"""
NAME = re.compile(rf"({'|'.join(SIZES)})-([1-9]\d{{0,3}})ag(-easy|-hard)?")
LIMIT = 500


class Rware:
    """One task. Everyone on the team receives the same reward."""

    def __init__(self, task: str):
        found = NAME.fullmatch(task)
        if found is None:
            raise KeyError(task)
        (rows, columns), agents = SIZES[found[1]], int(found[2])
        requests = int(agents * REQUESTS[found[3] or ""])
        shelves = 16 * (rows * columns - 1)  # in front of the goals, a cluster is left out
        if not 1 <= requests < shelves:
            raise QtotError(
                f"environment 'rware/{task}' cannot be made: it requests {requests} shelves at a "
                f"time, and a {found[1]} warehouse takes 1 to {shelves - 1}; choose "
                + ("more agents" if requests < 1 else "fewer agents or a larger warehouse")
            )
        generator = jumanji_module("robot_warehouse.generator").RandomGenerator(
            shelf_rows=rows,
            shelf_columns=columns,
            column_height=8,
            num_agents=agents,
            sensor_range=1,
            request_queue_size=requests,
        )
        # Jumanji does not tell the time limit from a collision. Ours is counted below; with its
        # own out of reach, what ends is a collision.
        never = int(np.iinfo(np.int32).max)
        self._env = jumanji_module("robot_warehouse").RobotWarehouse(generator, time_limit=never)
        size = int(self._env.num_obs_features)
        self.spec = EnvSpec(
            name=f"rware/{task}",
            agents=tuple(f"agent_{i}" for i in range(agents)),
            n_actions=(5,) * agents,
            obs_sizes=(size,) * agents,
            state_size=size * agents,
            episode_limit=LIMIT,
            action_meanings=(("noop", "forward", "left", "right", "toggle_load"),) * agents,
            team_reward="given",
            state_source="concatenated observations",
            masks="environment",
            info=("collided",),
            about=f"{agents} robots, {shelves} shelves, {requests} of them requested",
        )

    def reset(self, key: Key) -> PyTree:
        """Robots at random places, random shelves requested."""
        return self._env.reset(key)[0]

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """One step of every robot. The key, not the one in the state, draws new requests."""
        after, step = self._env.step(state.replace(key=key), actions)
        collided = step.last()
        return after, StepResult(
            reward=step.reward,
            terminated=collided,
            truncated=~collided & (after.step_count >= LIMIT),
            info={"collided": collided.astype(jnp.float32)},
        )

    def observe(self, state: PyTree) -> Observation:
        """Own place, load and direction; then robots and shelves on the 3x3 cells around. Forward
        is illegal for a loaded robot before another shelf.
        """
        view = self._env._make_observations(state.grid, state.agents, state.shelves)
        obs = view.astype(jnp.float32)
        return Observation(
            obs=obs,
            state=obs.reshape(-1),
            avail_actions=state.action_mask,
            alive=jnp.ones(self.spec.n_agents, bool),
        )


def tasks() -> tuple[str, ...]:
    """Those that papers report; other numbers of agents go by the same pattern."""
    return (
        "tiny-2ag",
        "tiny-2ag-hard",
        "tiny-4ag",
        "tiny-4ag-easy",
        "tiny-4ag-hard",
        "small-4ag",
        "small-4ag-hard",
        "medium-4ag",
        "large-4ag",
    )


@functools.cache
def make(task: str) -> Rware:
    """The task called ``task``.

    Raises:
        KeyError: that is no name of a task.
        QtotError: the package cannot make it; says what to choose.
    """
    return Rware(task)

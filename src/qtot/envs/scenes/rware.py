"""Robots, shelves and goals in a warehouse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtot.envs.rware import Rware
from qtot.envs.scenes import Scene, Thing, grid

OF = Rware


def scene(env: Rware) -> Scene:
    """Robots, goals, then shelves. Robots that carry, and requested shelves, stand out."""
    warehouse = env._env
    rows, columns = (int(size) for size in warehouse.grid_size)
    goals = np.asarray(warehouse.goals)
    shelves = jax.eval_shape(env.reset, jax.random.key(0)).shelves.is_requested.shape[0]
    robots = env.spec.n_agents
    things = [Thing(name, "agent", 0.34) for name in env.spec.agents]
    things += [Thing(f"goal_{i}", "goal", 0.46) for i in range(len(goals))]
    things += [Thing(f"shelf_{i}", "shelf", 0.4) for i in range(shelves)]
    towards = np.array([0.5, 0.0, -0.5, 1.0]) * np.pi  # up, right, down, left

    def look(state: Any) -> dict[str, Any]:
        # The package's x counts rows.
        here, there = state.agents.position, state.shelves.position
        still = jnp.full(len(goals) + shelves, jnp.nan)
        carries, wanted = state.agents.is_carrying, state.shelves.is_requested
        return {
            "x": jnp.concatenate([here.y, goals[:, 0], there.y]),
            "y": jnp.concatenate([here.x, goals[:, 1], there.x]),
            "shown": jnp.ones(robots + len(goals) + shelves, bool),
            "heading": jnp.concatenate([jnp.asarray(towards)[state.agents.direction], still]),
            "marked": jnp.concatenate(
                [carries.astype(bool), jnp.zeros(len(goals), bool), wanted.astype(bool)]
            ),
        }

    return Scene("grid", grid(rows, columns), tuple(things), look)

"""Hunters and prey on a grid."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from qtot.envs.predator_prey import GONE, SIGHT, Hunt, PredatorPrey
from qtot.envs.scenes import Scene, Thing, grid

OF = PredatorPrey


def scene(env: PredatorPrey) -> Scene:
    """Agents, then prey."""
    rows, columns = (size - 2 * SIGHT for size in env.inside.shape)
    width = columns + 2 * SIGHT
    things = [Thing(name, "agent", 0.36) for name in env.spec.agents]
    things += [Thing(f"prey_{i}", "prey", 0.3) for i in range(env._prey)]

    def look(state: Hunt) -> dict[str, Any]:
        cells = jnp.concatenate([state.agents, state.prey])
        return {"x": cells % width - SIGHT, "y": cells // width - SIGHT, "shown": cells != GONE}

    return Scene("grid", grid(rows, columns), tuple(things), look)

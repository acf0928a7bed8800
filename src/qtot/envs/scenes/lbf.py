"""Foragers and food with their levels on a grid."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from qtot.envs.lbf import NAME, Lbf
from qtot.envs.scenes import Scene, Thing, grid

OF = Lbf


def scene(env: Lbf) -> Scene:
    """Agents, then food."""
    task = NAME.fullmatch(env.spec.name.partition("/")[2])
    assert task is not None
    rows, columns, food = int(task[2]), int(task[3]), int(task[5])
    things = [Thing(name, "agent", 0.38) for name in env.spec.agents]
    things += [Thing(f"food_{i}", "food", 0.32) for i in range(food)]

    def look(state: Any) -> dict[str, Any]:
        place = jnp.concatenate([state.agents.position, state.food_items.position])
        there = jnp.ones(len(env.spec.agents), bool)
        eaten = state.food_items.eaten
        return {
            "x": place[:, 1],
            "y": place[:, 0],
            "shown": jnp.concatenate([there, ~eaten]),
            "level": jnp.concatenate([state.agents.level, state.food_items.level]),
            "marked": jnp.concatenate([state.agents.loading.astype(bool), jnp.zeros_like(eaten)]),
        }

    return Scene("grid", grid(rows, columns), tuple(things), look)

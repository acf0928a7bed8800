"""Particles and landmarks on a plane."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from qtot.envs.mpe import Mpe
from qtot.envs.scenes import Scene, Thing

REACH = 1.6
"""shown to each side: they begin within 1, and may leave"""
OF = Mpe


def scene(env: Mpe) -> Scene:
    """Agents, then landmarks; what is said, where words are heard."""
    world = env._env
    n, total = world.num_agents, world.num_entities
    names = (*env.spec.agents, *world.landmarks)
    radii = np.asarray(world.rad)
    things = tuple(
        Thing(name, "agent" if i < n else "landmark", float(radii[i]))
        for i, name in enumerate(names)
    )
    one_goal = env.spec.name.endswith("speaker_listener")

    def look(state: Any) -> dict[str, Any]:
        out = {
            "x": state.p_pos[:, 0],
            "y": state.p_pos[:, 1],
            "shown": jnp.ones(total, bool),
        }
        if world.dim_c:
            said = jnp.where(state.c.max(-1) > 0, jnp.argmax(state.c, -1), -1)
            out["says"] = jnp.concatenate([said, jnp.full(total - n, -1)])
        if one_goal:
            out["marked"] = jnp.arange(total) == n + state.goal
        return out

    return Scene("plane", (-REACH, -REACH, REACH, REACH), things, look)

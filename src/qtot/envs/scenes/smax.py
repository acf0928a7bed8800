"""A battlefield: units with health, cooldown and whom they attacked last."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from qtot.envs.scenes import Scene, Thing
from qtot.envs.smax import Smax

MOVES = 5
"""actions below are movements and stopping"""
OF = Smax


def scene(env: Smax) -> Scene:
    """Allies, then enemies. Where kinds are drawn anew for every episode, names leave them out."""
    battle = env._env
    allies, units = battle.num_allies, battle.num_allies + battle.num_enemies
    radii = np.asarray(battle.unit_type_radiuses)
    if battle.smacv2_unit_type_generation:
        names, sizes = [""] * units, [float(radii.mean())] * units
    else:
        kinds = np.asarray(battle.scenario)
        names = [battle.unit_type_names[kind] for kind in kinds]
        sizes = [float(radii[kind]) for kind in kinds]
    roles = [("ally", "agent", i) for i in range(allies)]
    roles += [("enemy", "enemy", i) for i in range(units - allies)]
    things = tuple(
        Thing(f"{role}_{i} {name}".strip(), kind, size)
        for (role, kind, i), name, size in zip(roles, names, sizes, strict=True)
    )
    is_ally = np.arange(units) < allies

    def look(state: Any) -> dict[str, Any]:
        now = state.state
        attack = now.prev_attack_actions - MOVES
        # The enemies' attacks count the allies from the last.
        target = jnp.where(is_ally, attack + allies, allies - 1 - attack)
        return {
            "x": now.unit_positions[:, 0],
            "y": now.unit_positions[:, 1],
            "shown": now.unit_alive,
            "health": now.unit_health / battle.unit_type_health[now.unit_types],
            "wait": jnp.clip(
                now.unit_weapon_cooldowns / battle.unit_type_weapon_cooldowns[now.unit_types], 0, 1
            ),
            "target": jnp.where((attack >= 0) & now.unit_alive, target, -1),
        }

    return Scene("plane", (0.0, 0.0, battle.map_width, battle.map_height), things, look)

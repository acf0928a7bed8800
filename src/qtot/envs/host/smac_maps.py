"""SMACv2's scenarios (Ellis et al. 2023), by the names of its paper, such as ``terran_5_vs_5``."""

from __future__ import annotations

import re
from typing import Any

GENERATED = re.compile(r"(terran|protoss|zerg)_([1-9]\d?)_vs_([1-9]\d?)")
UNITS = {
    "terran": (("marine", "marauder", "medivac"), (0.45, 0.45, 0.1)),
    "protoss": (("stalker", "zealot", "colossus"), (0.45, 0.45, 0.1)),
    "zerg": (("zergling", "baneling", "hydralisk"), (0.45, 0.1, 0.45)),
}


def generated(task: str) -> dict[str, Any]:
    """The arguments of ``StarCraftCapabilityEnvWrapper`` that SMACv2's configurations have."""
    found = GENERATED.fullmatch(task)
    assert found is not None
    race, ours, theirs = found[1], int(found[2]), int(found[3])
    kinds, weights = UNITS[race]
    rare = kinds[weights.index(min(weights))]
    return {
        "capability_config": {
            "n_units": ours,
            "n_enemies": theirs,
            "team_gen": {
                "dist_type": "weighted_teams",
                "unit_types": list(kinds),
                "weights": list(weights),
                "exception_unit_types": [rare],
                "observe": True,
            },
            "start_positions": {
                "dist_type": "surrounded_and_reflect",
                "p": 0.5,
                "map_x": 32,
                "map_y": 32,
            },
        },
        "map_name": f"10gen_{race}",
        "conic_fov": False,
        "obs_own_pos": True,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "obs_last_action": False,
        "obs_timestep_number": False,
        "state_last_action": True,
        "state_timestep_number": False,
    }

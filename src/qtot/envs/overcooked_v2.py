"""Overcooked V2 (Gessler et al. 2025): Overcooked with more to find out and to tell each other.

Settings as published for JaxMARL's baseline: a cook sees two cells in every direction and begins
anywhere in its room, a wrong soup costs what a right one pays (20), and after every right one
the recipe is drawn anew. Pressing a recipe's button costs 5. ``LAYOUT-shaped`` (an ingredient
that the recipe wants 3, a plate in time 3, the right soup onto a plate 5) and the limit of 400
transitions are as in ``qtot.envs.overcooked``; the state is the whole kitchen, which shows the
recipe.

The package's ``long_room`` has one cook, so no team.
"""

from __future__ import annotations

import functools

from qtot.envs.jaxmarl import jaxmarl_module
from qtot.envs.overcooked import SHAPED, Kitchen

LAYOUTS = (
    "cramped_room",
    "asymm_advantages",
    "coord_ring",
    "forced_coord",
    "counter_circuit",
    "cramped_room_v2",
    "asymm_advantages_recipes_center",
    "asymm_advantages_recipes_right",
    "asymm_advantages_recipes_left",
    "two_rooms",
    "two_rooms_both",
    "fun_coordination",
    "more_fun_coordination",
    "fun_symmetries",
    "fun_symmetries_plates",
    "fun_symmetries1",
    "grounded_coord_simple",
    "grounded_coord_ring",
    "test_time_simple",
    "test_time_wide",
    "demo_cook_simple",
    "demo_cook_wide",
)


def tasks() -> tuple[str, ...]:
    """The package's layouts for a team; each also takes the ending ``-shaped``."""
    return LAYOUTS


@functools.cache
def make(task: str) -> Kitchen:
    """The layout called ``task``, with or without ``-shaped``."""
    layout = task.removesuffix(SHAPED)
    if layout not in LAYOUTS:
        raise KeyError(task)
    env = jaxmarl_module("overcooked_v2").OvercookedV2(
        layout=layout,
        agent_view_size=2,
        negative_rewards=True,
        sample_recipe_on_delivery=True,
        random_agent_positions=True,
    )
    recipes = len(env.possible_recipes)
    return Kitchen(
        env,
        f"overcooked_v2/{task}",
        image=env.obs_shape,
        whole=lambda kitchen: env.get_obs_default(kitchen)[0],
        whole_size=env.height * env.width * env.obs_shape[-1],
        about=f"a kitchen of {env.height} x {env.width} cells, {recipes} "
        f"recipe{'s' if recipes > 1 else ''}",
    )

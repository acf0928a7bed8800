"""Importing JaxMARL, and its way of keeping what belongs to an agent under the agent's name.

Its cooperative tasks with discrete actions have adapters: SMAX, MPE, Overcooked, Overcooked V2,
Hanabi and the switch riddle. Left out, of version 0.2:

    coin_game, storm*      mixed motives: every agent is after a payoff of its own
    jaxnav                 every robot has a goal and a reward of its own; continuous actions as
                           published
    MPE_simple             one agent, no team
    MPE_simple_*           tag, push, adversary, crypto and world_comm have adversaries
    MPE_simple_facmac*     continuous actions
    ant, halfcheetah, ...  (MABrax) continuous actions, and brax to install
    SMAX, LearnedPolicyEnemySMAX   both teams learn, or an enemy must be supplied
    JaxRobotarium_*        a package of its own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from qtot.envs.packages import package_module


def jaxmarl_module(name: str) -> ModuleType:
    """``jaxmarl.environments.<name>``; QtotError where the package is missing."""
    return package_module(f"jaxmarl.environments.{name}", "jaxmarl>=0.2,<0.3")


def by_agent(agents: Sequence[str], actions: Int[Array, "N"]) -> dict[str, Int[Array, ""]]:
    """Every agent's action under its name, as the package takes them."""
    return {agent: actions[i] for i, agent in enumerate(agents)}


def stacked(agents: Sequence[str], per_agent: Mapping[str, Array]) -> Array:
    """``[N, ...]``, in the order of ``agents``."""
    return jnp.stack([per_agent[agent] for agent in agents])


def all_legal(n_actions: Sequence[int]) -> Bool[np.ndarray, "N A"]:
    """All but padding: the package has masks for none of the agents."""
    return np.arange(max(n_actions)) < np.asarray(n_actions)[:, None]

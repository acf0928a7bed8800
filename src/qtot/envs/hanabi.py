"""Hanabi (Bard et al. 2020): everyone sees all cards but one's own, and hints are dear.

    Np         the full game, N from 2 to 5: 50 cards of 5 colours, best score 25
    Np-small   "Hanabi-Small" of the Hanabi Learning Environment: 20 cards of 2 colours, hands of
               2, 3 hint tokens and one life, best score 10

Who is not to move has one legal action, to wait. A card that fits pays 1; losing the last life
takes back all that was paid, so that the return is the score. Every game ends truly.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.envs.jaxmarl import by_agent, jaxmarl_module, stacked
from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, PyTree, StepResult

PLAYERS = {f"{n}p": n for n in (2, 3, 4, 5)}
SMALL = {"num_colors": 2, "hand_size": 2, "max_info_tokens": 3, "max_life_tokens": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    name + ending: {"num_agents": n, **rules}
    for ending, rules in (("", {}), ("-small", SMALL))
    for name, n in PLAYERS.items()
}


class Table(NamedTuple):
    """Where a game stands; observations tell the last move, too."""

    now: PyTree
    """the package's state"""
    before: PyTree
    """the state before the last move; of a new game, the first"""
    move: Int[Array, ""]
    """the last move; of a new game, to wait"""


class Hanabi:
    """One game. Everyone receives the same reward.

    The state is what player 0 sees and, as in MAPPO's Hanabi (Yu et al. 2022), the hand which it
    does not: with the hints, which all see, nothing is missing.
    """

    def __init__(self, task: str):
        rules = VARIANTS[task]
        self._env = env = jaxmarl_module("hanabi").Hanabi(**rules)
        self._wait = int(env.num_moves) - 1
        n, best = env.num_agents, env.num_colors * env.num_ranks
        drawn = int(env.deck_size) - n * env.hand_size
        self.spec = EnvSpec(
            name=f"hanabi/{task}",
            agents=tuple(env.agents),
            n_actions=(int(env.num_moves),) * n,
            obs_sizes=(int(env.obs_size),) * n,
            state_size=int(env.obs_size) + env.hand_size * best,
            # The longest game: as many hints as there are tokens, of which every draw but the
            # last gains one; the draws; and the last round.
            episode_limit=env.max_info_tokens + (drawn - 1) + drawn + n,
            team_reward="given",
            state_source="environment",
            masks="environment",
            info=("score",),
            about=f"{env.deck_size} cards, hands of {env.hand_size}, best score {best}",
        )

    def reset(self, key: Key) -> Table:
        """A shuffled deck, dealt. Player 0 begins."""
        start = self._env.reset(key)[1]
        return Table(start, start, jnp.int32(self._wait))

    def step(self, key: Key, state: Table, actions: Int[Array, "N"]) -> tuple[Table, StepResult]:
        """One player's move; what the others chose is not looked at."""
        played = by_agent(self.spec.agents, actions)
        _, now, rewards, dones, _ = self._env.step_env(key, state.now, played)
        move = actions[jnp.argmax(state.now.cur_player_idx)]
        return Table(now, state.now, move), StepResult(
            reward=rewards[self.spec.agents[0]].astype(jnp.float32),
            terminated=dones["__all__"],
            truncated=jnp.zeros((), bool),
            info={"score": now.score.astype(jnp.float32)},
        )

    def observe(self, state: Table) -> Observation:
        """Cards, hints, beliefs and the last move; the package's masks (floats) made bool."""
        agents, env = self.spec.agents, self._env
        obs = stacked(agents, env.get_obs(state.now, state.before, state.move))
        return Observation(
            obs=obs,
            state=jnp.concatenate([obs[0], state.now.player_hands[0].reshape(-1)]),
            avail_actions=stacked(agents, env.get_legal_moves(state.now)).astype(bool),
            alive=jnp.ones(self.spec.n_agents, bool),
        )


def tasks() -> tuple[str, ...]:
    """The full and the small game, for 2 to 5 players."""
    return tuple(VARIANTS)


@functools.cache
def make(task: str) -> Hanabi:
    """The game called ``task``."""
    return Hanabi(task)

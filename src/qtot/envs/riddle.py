"""The switch riddle (Foerster et al. 2016): a hundred prisoners and a light bulb, for N agents.

A random one of the N is in the room, sees the bulb and may switch it or tell that everyone has
been there: 1 if that is true, -1 if not, and the game ends. Time is up, unpaid, after 4N-6 days,
which the package does not tell apart from a true end. What the others do has no effect.

The state is the bulb, who is in the room and who has been there before (2N+1 features); the
package, which states no vector, holds these.
"""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.envs.jaxmarl import all_legal, by_agent, jaxmarl_module, stacked
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.types import Key, Observation, PyTree, StepResult

FEWEST = 3
TELL = 2


class SwitchRiddle:
    """The riddle for ``n`` agents. Everyone receives the same reward."""

    def __init__(self, n: int):
        self._env = env = jaxmarl_module("switch_riddle").SwitchRiddle(num_agents=n)
        self.spec = EnvSpec(
            name=f"riddle/switch-{n}",
            agents=tuple(env.agents),
            n_actions=(len(env.game_actions),) * n,
            obs_sizes=(2,) * n,
            state_size=2 * n + 1,
            episode_limit=int(env.max_steps),
            team_reward="given",
            state_source="environment",
            masks="all legal",
            info=("won",),
            about=f"{n} agents, one of them in the room, tell when all have been there",
        )

    def reset(self, key: Key) -> PyTree:
        """The light is off, and someone is in the room."""
        return self._env.reset(key)[1]

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """One day: nothing (0), switch (1) or tell (2)."""
        played = by_agent(self.spec.agents, actions)
        _, after, rewards, dones, _ = self._env.step_env(key, state, played)
        reward = rewards[self.spec.agents[0]].astype(jnp.float32)
        told = actions[state.agent_in_room] == TELL
        return after, StepResult(
            reward=reward,
            terminated=told,
            truncated=dones["__all__"] & ~told,
            info={"won": (reward > 0).astype(jnp.float32)},
        )

    def observe(self, state: PyTree) -> Observation:
        """Whether one is in the room and, from there only, whether the light is on."""
        n = self.spec.n_agents
        in_room = jax.nn.one_hot(state.agent_in_room, n)
        obs = stacked(self.spec.agents, self._env.get_obs(state))
        return Observation(
            obs=obs.astype(jnp.float32),
            state=jnp.concatenate([state.bulb_state[None], in_room, state.has_been]),
            avail_actions=jnp.asarray(all_legal(self.spec.n_actions)),
            alive=jnp.ones(n, bool),
        )


def tasks() -> tuple[str, ...]:
    """Those of few agents; ``switch-N`` takes any other N from 3 to 99."""
    return ("switch-3", "switch-4", "switch-5")


@functools.cache
def make(task: str) -> SwitchRiddle:
    """The riddle called ``task``.

    Raises:
        KeyError: no such task.
        QtotError: fewer than three agents.
    """
    named = re.fullmatch(r"switch-([1-9]\d?)", task)
    if not named:
        raise KeyError(task)
    if int(named[1]) < FEWEST:
        raise QtotError(f"riddle/switch-N needs {FEWEST} agents or more, got N = {named[1]}")
    return SwitchRiddle(int(named[1]))

"""Multi-particle tasks (Lowe et al. 2017) through JaxMARL: those whose agents share a goal.

The competitive ones have no team reward, and FACMAC's have continuous actions. The package ends
an episode by time alone, after ``max_steps + 1`` transitions: always a truncation. It has no
global state, so the state is the agents' observations side by side.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.envs.dice import hashed, unused
from qtot.envs.jaxmarl import all_legal, by_agent, jaxmarl_module
from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, PyTree, StepResult

CLASSES = {
    "simple_spread": ("SimpleSpreadMPE", "3 agents cover 3 landmarks without colliding"),
    "simple_speaker_listener": (
        "SimpleSpeakerListenerMPE",
        "a speaker who sees the goal, a listener who moves",
    ),
    "simple_reference": ("SimpleReferenceMPE", "2 agents tell each other where to go"),
}


MOVES = ("stay", "left", "right", "down", "up")


class Mpe:
    """One task. The team reward is the sum over agents, in the package's own scale."""

    def __init__(self, task: str):
        cls, about = CLASSES[task]
        self._env = env = getattr(jaxmarl_module("mpe"), cls)()
        agents = tuple(env.agents)
        sizes = tuple(int(env.observation_spaces[a].shape[0]) for a in agents)
        self.spec = EnvSpec(
            name=f"mpe/{task}",
            agents=agents,
            n_actions=(n_actions := tuple(int(env.action_spaces[a].n) for a in agents)),
            # Where agents speak, moves and words are combined.
            action_meanings=(MOVES,) * len(agents) if set(n_actions) == {len(MOVES)} else (),
            obs_sizes=sizes,
            state_size=sum(sizes),
            episode_limit=int(env.max_steps) + 1,
            shortest_episode=int(env.max_steps) + 1,
            lanes=True,
            team_reward="sum",
            state_source="concatenated observations",
            masks="all legal",
            about=about,
        )
        self._legal = all_legal(self.spec.n_actions)

    def reset(self, key: Key) -> PyTree:
        """Particles and landmarks at random places."""
        return self._env.reset(hashed(key))[1]

    def step(self, key: Key, state: PyTree, actions: Int[Array, "N"]) -> tuple[PyTree, StepResult]:
        """One step of the physics. In these tasks the package multiplies its noise by zero."""
        played = by_agent(self.spec.agents, actions)
        _, after, rewards, dones, _ = self._env.step_env(unused(key), state, played)
        return after, StepResult(
            reward=sum((rewards[a] for a in self.spec.agents), jnp.zeros(())),
            terminated=jnp.zeros((), bool),
            truncated=dones["__all__"],
            info={},
        )

    def observe(self, state: PyTree) -> Observation:
        """Observations, zero-padded to the largest; their unpadded parts are the state."""
        per_agent = self._env.get_obs(state)
        parts = [per_agent[a] for a in self.spec.agents]
        width = self.spec.obs_size
        return Observation(
            obs=jnp.stack([jnp.pad(x, (0, width - x.shape[0])) for x in parts]),
            state=jnp.concatenate(parts),
            avail_actions=jnp.asarray(self._legal),
            alive=jnp.ones(self.spec.n_agents, bool),
        )


def tasks() -> tuple[str, ...]:
    """The cooperative tasks."""
    return tuple(CLASSES)


@functools.cache
def make(task: str) -> Mpe:
    """The task called ``task``."""
    return Mpe(task)

"""Tiny environments with known values: when learning fails on one, its name says what is broken.

The makers' docstrings say what common faults would give instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qtot.envs.base import JaxEnv
from qtot.envs.matrix import MarkovGame
from qtot.envs.spec import EnvSpec
from qtot.types import Key, Observation, StepResult


class Known(NamedTuple):
    """The best team's value in each position at discount ``GAMMA``, and its mean raw return."""

    values: tuple[float, ...]
    best_return: float = 1.0


GAMMA = 0.9
KNOWN: dict[str, Known] = {
    "chain": Known((0.81, 0.9, 1.0)),
    "chain_truncated": Known((8.1, 9.0, 10.0)),
    "long": Known(tuple(GAMMA ** (95 - k) for k in range(96))),
    "one": Known((1.0,)),
    "masks": Known((4.95, 4.95, 1.0, 10.0), 5.5),
    "coordination": Known((1.0,) * 4),
    "memory": Known((0.729, 0.729, 0.81, 0.81, 0.9, 0.9, 1.0, 1.0)),
    "dead": Known((3.439, 2.71, 1.9, 1.0), 4.0),
    "distinct": Known((2.71, 1.9, 1.0), 1.5),  # by time; to be multiplied by the episode's id
    "own_obs": Known((2.0, 2.0), 2.0),
}


def tasks() -> tuple[str, ...]:
    """The tasks of the family."""
    return tuple(_MAKERS)


def make(task: str) -> JaxEnv:
    """The probe called ``task``; KeyError if there is none."""
    return _MAKERS[task](f"probe/{task}")


def _corridor(name: str, length: int, *, ends: bool, about: str) -> MarkovGame:
    """Two agents walk ``length`` positions whatever they do; leaving the last one pays 1."""
    payoffs = np.zeros((length, 2, 2))
    payoffs[-1] = 1
    return MarkovGame(
        name,
        payoffs,
        ends=ends & (np.arange(length) == length - 1),
        # The last position leads to itself: a bootstrap past the end has something to find.
        successor=np.minimum(np.arange(length) + 1, length - 1),
        limit=length,
        about=about,
    )


def chain(name: str) -> MarkovGame:
    """Three steps, 1 at the end, a true end. Q_tot of every joint action: .81, .9, 1.

    Bootstrapped from the final observation: 8.1, 9, 10; from the next episode: 2.99, 3.32, 3.69.
    """
    return _corridor(name, 3, ends=True, about="3 steps, reward 1 at the end, terminated")


def chain_truncated(name: str) -> MarkovGame:
    """The chain, stopped by a time limit before its end would come: 8.1, 9, 10.

    The final observation is the last position again: V = 1 + γV = 10. Taken for a true end, the
    values are the chain's. Exact for agents without memory; the final slot finds a recurrent
    agent in a memory that no transition trains.
    """
    return _corridor(name, 3, ends=False, about="the same 3 steps, stopped by a time limit")


def long(name: str) -> MarkovGame:
    """The chain of 96 positions: nothing is paid before its one end. Values γ^95, ..., γ, 1.

    Longer than many rollouts: a loop that resets at every update never sees the reward.
    """
    return _corridor(name, 96, ends=True, about="96 steps, nothing paid before the end")


def one(name: str) -> MarkovGame:
    """One agent, one action, one step, reward 1: every axis may be 1, and Q_tot is 1."""
    return MarkovGame(name, [[1]], about="one agent, one action, one step")


def masks(name: str) -> MarkovGame:
    """A door with one legal action, then a room in which the better action is often locked.

    Positions 0 and 1 (the door) look alike, as do 2 (locked: only action 1 is legal, pays 1) and
    3 (open: pays 10, 5.5, 5.5, 1). Door 0 leads to 2, door 1 to 3, each in half of the episodes.
    Q_tot: door γ(1 + 10) / 2 = 4.95, room [[10, 5.5], [5.5, 1]]. With the door's mask (or none)
    on the room's values, the door is worth γ10 = 9.
    """
    door, room = [[0, 0], [0, 0]], [[10, 5.5], [5.5, 1]]
    return MarkovGame(
        name,
        [door, door, room, room],
        ends=[False, False, True, True],
        successor=[2, 3, 2, 3],
        limit=2,
        starts=2,
        state=np.eye(2)[[0, 0, 1, 1]],
        avail_actions=np.array([[1, 0], [1, 0], [0, 1], [1, 1]])[:, None],
        about="the tempting action is illegal one step later",
    )


def coordination(name: str) -> MarkovGame:
    """Two bits, seen by three agents, select the one joint action of 27 that pays 1.

    Bits 00: (0, 1, 2); 01: (1, 2, 0); 10: (2, 0, 1); 11: (1, 1, 1). The best return is 1; 1/27 at
    random; 1/4 for agents that do not read the bits, or that cannot tell who they are.
    """
    payoffs = np.zeros((4, 3, 3, 3))
    for k, paid in enumerate([(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 1, 1)]):
        payoffs[(k, *paid)] = 1
    bits = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return MarkovGame(name, payoffs, starts=4, state=bits, about="two bits say what 3 should play")


def memory(name: str) -> MarkovGame:
    """The first observation says which action both agents must play three steps later.

    Position 2t + cue. Until t = 3 only action 0 is legal, so that the previous action carries
    nothing; there both actions are, and 1 is paid if both play the cue. The best return is 1 for
    agents that remember and .5 for those that do not, whatever they play.
    """
    cue, time = np.tile([0, 1], 4), np.repeat(np.arange(4), 2)
    payoffs = np.zeros((8, 2, 2))
    payoffs[6, 0, 0] = payoffs[7, 1, 1] = 1
    seen = np.concatenate([np.eye(2)[cue] * (time == 0)[:, None], np.eye(4)[time]], axis=1)
    return MarkovGame(
        name,
        payoffs,
        ends=time == 3,
        successor=np.minimum(np.arange(8) + 2, 6 + cue),
        limit=4,
        starts=2,
        obs=np.repeat(seen[:, None], 2, axis=1),
        avail_actions=np.stack([np.ones(8), time == 3], axis=-1)[:, None],
        about="act on what was seen three steps before",
    )


def dead(name: str) -> MarkovGame:
    """Agent 1 dies after two of four steps; the team plays on. Values 3.439, 2.71, 1.9, 1.

    A step pays 1 if everyone alive plays 1; the dead may only play 0. The best return is 4; 2 if
    a death is taken for the team's end.
    """
    payoffs = np.zeros((4, 2, 2))
    payoffs[:2, 1, 1] = payoffs[2:, 1, :] = 1
    alive = np.array([[1, 1], [1, 1], [1, 0], [1, 0]])
    return MarkovGame(
        name,
        payoffs,
        ends=[False, False, False, True],
        successor=[1, 2, 3, 3],
        limit=4,
        avail_actions=np.stack([np.ones((4, 2)), alive], axis=-1),
        alive=alive,
        about="one of two agents dies halfway",
    )


def own_obs(name: str) -> MarkovGame:
    """Each agent has sizes of its own: features 1 and 3, actions 2 and 4. Best return 2.

    A bit is drawn: agent 0 sees ``[bit]`` and should play it; agent 1 sees ``[not bit, bit, 1]``
    and should play 2 + bit. Each that is right adds 1 (a sum, so VDN is exact).
    """
    a, b = np.indices((4, 4))
    return MarkovGame(
        name,
        [np.add(a == bit, b == 2 + bit, dtype=float) for bit in (0, 1)],
        starts=2,
        obs=[[[0, 0, 0], [1, 0, 1]], [[1, 0, 0], [0, 1, 1]]],
        obs_sizes=(1, 3),
        n_actions=(2, 4),
        team_reward="sum",
        about="agents with observations and actions of their own sizes",
    )


class Episode(NamedTuple):
    """An episode of :class:`Distinct`, and its transitions so far."""

    id: Float[Array, ""]
    time: Int[Array, ""]


class Distinct:
    """Every episode draws an id in [0, 1); each of its three steps pays the id. A true end.

    The state is ``[id, time / 3]``, which both agents observe: wherever reward and id differ, or
    one agent's id and the state's, two environments were mixed. ``info["id"]`` is the id at the
    end and -1 before. Q_tot of every joint action: the id times 2.71, 1.9, 1. Mean return 1.5.
    """

    def __init__(self, name: str):
        self.spec = EnvSpec(
            name=name,
            agents=("agent_0", "agent_1"),
            n_actions=(2, 2),
            obs_sizes=(2, 2),
            state_size=2,
            episode_limit=3,
            masks="all legal",
            info=("id",),
            about="the reward and all that is seen identify the episode",
        )

    def reset(self, key: Key) -> Episode:
        """An episode with an id of its own."""
        return Episode(jax.random.uniform(key), jnp.int32(0))

    def step(
        self, key: Key, state: Episode, actions: Int[Array, "N"]
    ) -> tuple[Episode, StepResult]:
        """Time goes by; neither the key nor the actions are used."""
        time = state.time + 1
        end = time >= self.spec.episode_limit
        info = {"id": jnp.where(end, state.id, -1.0)}
        return Episode(state.id, time), StepResult(state.id, end, jnp.zeros_like(end), info)

    def observe(self, state: Episode) -> Observation:
        """The id and the time, for everyone."""
        seen = jnp.stack([state.id, state.time / self.spec.episode_limit])
        return Observation(jnp.tile(seen, (2, 1)), seen, jnp.ones((2, 2), bool), jnp.ones(2, bool))


_MAKERS: Mapping[str, Callable[[str], JaxEnv]] = {"distinct": Distinct} | {
    maker.__name__: maker
    for maker in (chain, chain_truncated, long, one, masks, coordination, memory, dead, own_obs)
}

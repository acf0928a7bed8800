"""Payoff-matrix games, those of the QMIX, QTRAN and QPLEX papers and random ones, as Markov games.

    two_step       state 1: agent 0 chooses 2A or 2B, unpaid. 2A pays 7 whatever is played; 2B
                   pays [[0, 1], [1, 8]]; then the game ends. Best return 8 (Rashid et al. 2018).
    climbing       [[11, -30, 0], [-30, 7, 0], [0, 6, 5]], 25 times. Best return 275.
    penalty-K      [[k, 0, 10], [0, 2, 0], [10, 0, k]] with k = -K, 25 times; K is any number
                   from 0 up. Best return 250 (both: Claus & Boutilier 1998; 25 times:
                   Papoudakis et al. 2021).
    qtran          [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]], once. Best 8 (Son et al. 2019).
    qplex          [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]], once. Best 8 (Wang et al. 2021).
    random-NxK-G   N agents, K actions each, once: payoffs uniform in [0, 10), drawn by NumPy's
                   generator seeded with (N, K, G). The name fixes the game, a run's seed does
                   not. ``make(task).payoffs.max()`` is the best return.

The state says, one-hot, which matrix is played, and all agents observe it. A game played once
ends truly; one played 25 times is stopped by the time limit, so its last value is bootstrapped.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from qtot.envs.spec import EnvSpec, TeamReward
from qtot.errors import QtotError
from qtot.types import Key, Observation, StepResult


class Place(NamedTuple):
    """Where an episode of a Markov game stands."""

    position: Int[Array, ""]
    """which payoff tensor is played, 0 to K-1"""
    time: Int[Array, ""]
    """transitions since the reset"""


class MarkovGame:
    """K payoff tensors, between which the joint actions move the team (Shapley 1953).

    An episode begins in one of the first ``starts`` positions, each as likely. The joint action
    u in position k pays ``payoffs[k, *u]`` and leads to ``successor[k, *u]``. It ends the
    episode truly where ``ends[k]``; else ``limit`` transitions end it by time.

    An illegal action pays NaN, so that a learner which plays one cannot miss it.

    Args:
        name: ``family/task``.
        payoffs: ``[K, A, ..., A]``, one action axis per agent.
        ends: ``[K]`` or one bool. True: what is played in this position is the last action.
        limit: transitions after which an episode that has not ended is truncated.
        successor: ``[K, ...]`` positions; action axes left out at the end are broadcast.
            Default: the position stays.
        starts: positions that an episode may begin in, the first ones.
        state: ``[K, S]``. Default: the position, one-hot.
        obs: ``[K, N, O]``, zero-padded. Default: every agent observes the state.
        obs_sizes: features of each agent. Default: all O.
        n_actions: actions of each agent. Default: all A.
        avail_actions: ``[K, N, A]``, True = legal. Default: all but padding.
        alive: ``[K, N]``. Default: everyone.
        team_reward: how the payoffs were formed from the agents' own rewards.
        about: one line for ``qtot envs``.
    """

    def __init__(
        self,
        name: str,
        payoffs: ArrayLike,
        *,
        ends: ArrayLike = True,
        limit: int = 1,
        successor: ArrayLike | None = None,
        starts: int = 1,
        state: ArrayLike | None = None,
        obs: ArrayLike | None = None,
        obs_sizes: tuple[int, ...] | None = None,
        n_actions: tuple[int, ...] | None = None,
        avail_actions: ArrayLike | None = None,
        alive: ArrayLike | None = None,
        team_reward: TeamReward = "given",
        about: str = "",
    ):
        # NumPy, not JAX: making an environment must not start a device.
        self.payoffs: Float[np.ndarray, "K *A"] = np.asarray(payoffs, np.float32)
        k, *axes = self.payoffs.shape
        n, a = len(axes), axes[0]
        n_actions = n_actions or (a,) * n

        table = np.asarray(np.arange(k) if successor is None else successor, np.int32)
        table = table.reshape(table.shape + (1,) * (self.payoffs.ndim - table.ndim))
        self.successor: Int[np.ndarray, "K *A"] = np.broadcast_to(table, self.payoffs.shape)
        self.ends: Bool[np.ndarray, "K"] = np.broadcast_to(np.asarray(ends, bool), (k,))
        self.starts = starts

        self.state: Float[np.ndarray, "K S"] = np.asarray(
            np.eye(k) if state is None else state, np.float32
        )
        each = np.broadcast_to(self.state[:, None], (k, n, self.state.shape[1]))
        self.obs: Float[np.ndarray, "K N O"] = np.asarray(each if obs is None else obs, np.float32)
        real = np.arange(a) < np.asarray(n_actions)[:, None]
        self.avail_actions: Bool[np.ndarray, "K N A"] = np.broadcast_to(
            real if avail_actions is None else np.asarray(avail_actions, bool), (k, n, a)
        )
        self.alive: Bool[np.ndarray, "K N"] = np.broadcast_to(
            np.asarray(True if alive is None else alive, bool), (k, n)
        )
        self.spec = EnvSpec(
            name=name,
            agents=tuple(f"agent_{i}" for i in range(n)),
            n_actions=n_actions,
            obs_sizes=obs_sizes or (self.obs.shape[2],) * n,
            state_size=self.state.shape[1],
            episode_limit=limit,
            team_reward=team_reward,
            masks="all legal" if np.all(self.avail_actions[:, real]) else "environment",
            about=about,
        )

    def reset(self, key: Key) -> Place:
        """The position in which an episode begins."""
        start = jax.random.bits(key) % self.starts  # randint takes three times as long to compile
        return Place(start.astype(jnp.int32), jnp.int32(0))

    def step(self, key: Key, state: Place, actions: Int[Array, "N"]) -> tuple[Place, StepResult]:
        """The next position, and what the joint action paid; the key is not used."""
        agents = range(self.spec.n_agents)
        played = (state.position, *(actions[i] for i in agents))
        avail = jnp.asarray(self.avail_actions)[state.position]
        legal = jnp.all(avail[jnp.arange(len(agents)), actions])
        terminated = jnp.asarray(self.ends)[state.position]
        time = state.time + 1
        return Place(jnp.asarray(self.successor)[played], time), StepResult(
            reward=jnp.where(legal, jnp.asarray(self.payoffs)[played], jnp.nan),
            terminated=terminated,
            truncated=(time >= self.spec.episode_limit) & ~terminated,
            info={},
        )

    def observe(self, state: Place) -> Observation:
        """What the tables show of the position."""
        tables = (self.obs, self.state, self.avail_actions, self.alive)
        return Observation(*(jnp.asarray(table)[state.position] for table in tables))


def tasks() -> tuple[str, ...]:
    """The tasks of the family; ``penalty-K`` and ``random-NxK-G`` also take other numbers."""
    penalties = (f"penalty-{k}" for k in (0, 25, 50, 75, 100))
    return ("two_step", "climbing", *penalties, *_ONCE, "random-2x3-0", "random-3x4-7")


def make(task: str) -> MarkovGame:
    """The game called ``task``.

    Raises:
        KeyError: no such task.
        QtotError: a random game that is misspelt, or too small or large to be played.
    """
    name = f"matrix/{task}"
    if task.startswith("random"):
        return _random(name, task)
    if task == "two_step":
        return MarkovGame(
            name,
            [[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]],
            ends=[False, True, True],
            successor=[[1, 2], [1, 1], [2, 2]],
            limit=2,
            about="agent 0 picks what both play next: a safe 7, or an 8 that needs both",
        )
    if task == "climbing":
        matrix = [[11, -30, 0], [-30, 7, 0], [0, 6, 5]]
        about = "the best joint action lies beside the worst; 25 times"
        return MarkovGame(name, [matrix], ends=False, limit=25, about=about)
    if penalty := re.fullmatch(r"penalty-(\d{1,9}(?:\.\d{1,9})?)", task):
        k = 0.0 - float(penalty[1])  # of 0, a minus sign would make -0.0
        matrix = [[k, 0, 10], [0, 2, 0], [10, 0, k]]
        about = f"two equal optima; missing each other costs {penalty[1]}; 25 times"
        return MarkovGame(name, [matrix], ends=False, limit=25, about=about)
    matrix, about = _ONCE[task]
    return MarkovGame(name, [matrix], about=about)


def _random(name: str, task: str) -> MarkovGame:
    numbers = re.fullmatch(r"random-(\d{1,9})x(\d{1,9})-(\d{1,18})", task)
    if numbers is None:
        raise QtotError(
            f"{name}: expected random-AGENTSxACTIONS-GAME, three whole numbers, "
            "such as 'random-3x4-7'"
        )
    n, k, game = map(int, numbers.groups())
    if n < 1 or k < 2 or n * math.log2(k) > _LARGEST:
        raise QtotError(
            f"{name}: expected an agent or more, 2 actions or more, and at most "
            f"2**{_LARGEST} joint actions; got {n} agents of {k} actions"
        )
    payoffs = 10 * np.random.default_rng((n, k, game)).random((1, *(k,) * n), np.float32)
    about = f"random payoffs, game {game}; the best is {payoffs.max():.4g}; once"
    return MarkovGame(name, payoffs, about=about)


_LARGEST = 20  # 2**20 payoffs fill 4 MiB
_ONCE = {
    "qtran": (
        [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],
        "no monotone mixing finds the 8 under uniform exploration; once",
    ),
    "qplex": (
        [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]],
        "the best monotone fit has its maximum at 6, not 8; once",
    ),
}

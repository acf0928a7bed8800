"""Collecting experience from environments that Python steps, in the form of the in-graph collector.

While the environments of one group step, the policy acts in the other's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qtot.core.learner import PolicyParams
from qtot.core.networks import Networks
from qtot.envs.host.board import FINAL, OVER
from qtot.envs.host.pool import Pool
from qtot.envs.stream import Stream
from qtot.training.collect import Actors, Collector, Tally, action_dtype
from qtot.types import Observation, SequenceStart, Slots

FOREVER = 2**40
"""episodes"""


class Gathered(NamedTuple):
    """A rollout of all seeds, in NumPy: what ``Program.learn`` is given."""

    after: Actors
    """``[seeds, E, ...]``: what is shown next"""
    slots: Slots
    """``[seeds, T, E, ...]``"""
    start: SequenceStart
    """``[seeds, E, ...]``"""
    tally: Tally
    """``[seeds]``"""


class Shown(NamedTuple):
    """What the policy is given of a group, ``[seeds, e, ...]``."""

    seen: Observation
    first: Any
    noise: Any
    """``[seeds, 2, e, N]``"""


Leaves = list[Any]
Act = Callable[[Leaves, Any, Shown, Any, Any], tuple[Any, Any]]


def acting(collector: Collector, policies: PolicyParams) -> PolicyParams:
    """What of them is needed to act."""
    online = collector.acting(policies.online)
    return policies._replace(online=Networks(online.agent, None, online.critic))


def act_program(collector: Collector, policies: PolicyParams, seeds: int, precision: str) -> Act:
    """``(leaves, env_steps, shown, prev_action, memory) -> (prev_action, memory)`` of every seed,
    with the exploration of training. Jitted. The policies' leaves are given as a list, since to
    take modules apart at every slot costs as much as half of the acting.
    """
    structure = jax.tree.structure(acting(collector, policies))

    def one(
        policy: PolicyParams,
        env_steps: Int[Array, ""],
        shown: Shown,
        previous: Int[Array, "e N"],
        memory: Float[Array, "e N K"],
    ) -> tuple[Array, Array]:
        none = jnp.zeros(shown.first.shape)
        stream = Stream(shown.seen, shown.first, none > 0, none > 0, none, none.astype(jnp.int32))
        epsilon = collector.learner.epsilon(env_steps)
        actors = Actors(stream, memory, previous)
        _, action, memory = collector.act(shown.noise, actors, policy.online, policy.stats, epsilon)
        return action, memory

    def each(leaves: Leaves, *rest: Any) -> Any:
        args = (jax.tree.unflatten(structure, leaves), *rest)
        if seeds > 1:
            return jax.vmap(one)(*args)
        alone = one(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], alone)

    return jax.jit(jax.default_matmul_precision(precision)(each))


class Gatherer:
    """``begin → gather → gather → ...``. Environments lie on the board group by group, in a group
    seed by seed.
    """

    def __init__(
        self,
        pool: Pool,
        collector: Collector,
        *,
        seeds: int,
        seed: int,
        groups: int,
        memory_size: int,
    ):
        self.memory_size = memory_size
        self.pool, self.collector, self.seeds, self.groups = pool, collector, seeds, groups
        self.each = collector.envs // groups
        n, board = collector.learner.n_agents, pool.board
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """by the part of the work that was waited for"""
        where = np.arange(len(board.phase)).reshape(groups, seeds, self.each)
        self.places = [part.reshape(-1) for part in where]
        group, of_seed, number = np.indices(where.shape)
        board.salt[:] = 0
        board.salt[:, 0] = (seed + of_seed).reshape(-1)
        board.salt[:, 4] = (group * self.each + number).reshape(-1)
        board.left[:] = FOREVER
        self.dtype = np.dtype(action_dtype(collector.learner.n_actions))
        self.lead = (seeds, self.each, n)
        self.waiting: set[int] = set()
        self.running = False

    def gather(
        self, act: Act, leaves: Leaves, env_steps: np.ndarray, noise: np.ndarray
    ) -> Gathered:
        """One rollout.

        Args:
            act: the policies' program.
            leaves: of the policies of every seed, where the program runs.
            env_steps: of every seed, which decide epsilon.
            noise: ``[seeds, T, 2, E, N]``, uniform.

        Raises:
            QtotError: the environments fail again and again.
        """
        whole, board = self.collector.whole_episodes, self.pool.board
        if whole or not self.running:
            self._open()
        else:
            board.turn()
        start = SequenceStart(self._joined(self.memory), self._joined(self.previous))
        for cleared in (board.valid, board.ended, board.failed, board.terminated, board.reward):
            cleared[:] = 0
        board.first[1:] = False
        for t in range(self.collector.slots):
            shown = False
            for group in range(self.groups):
                if not self._shows(group, t):
                    continue
                shown = True
                self._wait(group)
                self._act(act, leaves, env_steps, noise[:, t], group=group, t=t)
                if (board.phase[self.places[group]] != OVER).any():
                    self._send(group, t)
            if not shown:
                break
        for group in range(self.groups):
            self._wait(group)
        began = time.perf_counter()
        self._discard()
        gathered = Gathered(self._after(), self._slots(), start, self._tally())
        self.seconds["transfer"] += time.perf_counter() - began
        return gathered

    def warm(self, act: Act, leaves: Leaves, env_steps: np.ndarray, noise: np.ndarray) -> None:
        """Have ``act`` compiled, with what the board shows now; nothing is chosen."""
        shown = self._shown(0, 0, noise)
        previous, memory = self._blank()
        jax.block_until_ready(act(leaves, env_steps, shown, previous, memory))

    def _blank(self) -> tuple[np.ndarray, np.ndarray]:
        """Previous action and memory where episodes open."""
        return np.full(self.lead, -1, self.dtype), np.zeros(
            (*self.lead, self.memory_size), np.float32
        )

    def _open(self) -> None:
        """Fresh episodes, empty memories."""
        previous, memory = self._blank()
        self.memory: list[Any] = [memory] * self.groups
        self.previous: list[Any] = [previous] * self.groups
        self.pool.board.left[:] = 1 if self.collector.whole_episodes else FOREVER
        for group in range(self.groups):
            self._send(group, None)
        for group in range(self.groups):
            self._wait(group)
        self.running = True

    def _send(self, group: int, t: int | None) -> None:
        self.pool.send(group, t)
        self.waiting.add(group)

    def _wait(self, group: int) -> None:
        if group in self.waiting:
            began = time.perf_counter()
            self.pool.wait(group)
            self.waiting.discard(group)
            self.seconds["environment"] += time.perf_counter() - began

    def _shows(self, group: int, t: int) -> bool:
        """Whether any environment of a group shows something at slot ``t``: all do, unless only
        whole episodes are played and these are over.
        """
        if t == 0 or not self.collector.whole_episodes:
            return True
        self._wait(group)
        return bool(self.pool.board.valid[t - 1, self.places[group]].any())

    def _act(
        self,
        act: Act,
        leaves: Leaves,
        env_steps: np.ndarray,
        noise: np.ndarray,
        *,
        group: int,
        t: int,
    ) -> None:
        """Choose a group's joint actions."""
        began = time.perf_counter()
        self.previous[group], self.memory[group] = act(
            leaves,
            env_steps,
            self._shown(group, t, noise),
            self.previous[group],
            self.memory[group],
        )
        action = np.asarray(self.previous[group])
        self.pool.board.action[t, self._part(group)] = action.reshape(-1, action.shape[-1])
        self.seconds["policy"] += time.perf_counter() - began

    def _part(self, group: int) -> slice:
        places = self.places[group]
        return slice(places[0], places[-1] + 1)

    def _shown(self, group: int, t: int, noise: np.ndarray) -> Shown:
        """Copies: XLA may read a NumPy array in place, and later."""
        board, part = self.pool.board, self._part(group)

        def own(array: np.ndarray) -> Any:
            return array[t, part].reshape(*self.lead[:2], *array.shape[2:]).copy()

        here = slice(group * self.each, (group + 1) * self.each)
        return Shown(Observation(*(own(x) for x in board[:4])), own(board.first), noise[:, :, here])

    def _joined(self, parts: list[Any]) -> Any:
        """Of all groups, ``[seeds, E, ...]``."""
        return np.concatenate([np.asarray(part) for part in parts], axis=1)

    def _discard(self) -> None:
        """The episodes of environments that failed do not count, as far as they are in here."""
        board = self.pool.board
        for t, e in np.argwhere(board.failed):
            opened = np.flatnonzero(board.first[: t + 1, e])
            over = np.flatnonzero(board.ended[:t, e])  # those do
            since = max([0, *opened[-1:], *(over[-1:] + 1)])
            board.valid[since : t + 1, e] = False

    def _by_seed(self, array: np.ndarray) -> Any:
        """``[T, n, ...]`` of the board as ``[seeds, T, E, ...]``; a copy, for the board goes on."""
        lead, rest = (len(array), self.groups, self.seeds, self.each), array.shape[2:]
        out = np.empty((self.seeds, len(array), self.groups * self.each, *rest), array.dtype)
        view = out.reshape(self.seeds, len(array), self.groups, self.each, *rest)
        view[...] = array.reshape(*lead, *rest).swapaxes(1, 2).swapaxes(0, 1)
        return out

    def _slots(self) -> Slots:
        board, slots = self.pool.board, self.collector.slots
        return Slots(
            *(self._by_seed(x[:slots]) for x in board[:4]),
            action=self._by_seed(board.action).astype(self.dtype),
            reward=self._by_seed(np.where(board.valid, board.reward, 0.0).astype(np.float32)),
            terminated=self._by_seed(board.terminated & board.valid),
            first=self._by_seed(board.first[:slots]),
            valid=self._by_seed(board.valid),
        )

    def _after(self) -> Actors:
        board = self.pool.board
        shown: Any = [self._by_seed(x[-1:])[:, 0] for x in board[:5]]
        final = self._by_seed(board.phase[None] == FINAL)[:, 0]
        no: Any = np.zeros_like(final)
        none: Any = np.zeros(final.shape, np.float32)
        stream = Stream(Observation(*shown[:4]), shown[4], final, no, none, none.astype(np.int32))
        return Actors(stream, self._joined(self.memory), self._joined(self.previous))

    def _tally(self) -> Tally:
        board = self.pool.board

        def total(array: np.ndarray, where: np.ndarray) -> Any:
            kept = self._by_seed(np.where(where, array, 0.0).astype(np.float32))
            return kept.sum(axis=(1, 2))

        ended = board.ended & board.valid
        return Tally(
            transitions=total(np.ones(()), board.valid),
            episodes=total(np.ones(()), ended),
            episode_return=total(board.episode_return, ended),
            episode_length=total(board.episode_length, ended),
            info={k: total(board.info[..., i], ended) for i, k in enumerate(self.pool.spec.info)},
        )

"""Collecting experience from environments that Python steps, in the form of the in-graph collector.

While the environments of one group step, the policy acts in the other's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np

from qtot.envs.host.board import OVER
from qtot.envs.host.pool import Pool
from qtot.training.acting import Act, Leaves, Sight
from qtot.training.collect import Collector, action_dtype
from qtot.training.gathered import Gathered, Reading
from qtot.types import Observation, SequenceStart

FOREVER = 2**40
"""episodes"""


class Gatherer:
    """``gather → gather → ...``. Environments lie on the board group by group, in a group
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
        self.reading = Reading(board, pool.spec.info, groups, seeds, self.each)
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
        now = self._joined(self.previous), self._joined(self.memory)
        gathered = self.reading.rollout(start, *now, self.collector.slots)
        self.seconds["transfer"] += time.perf_counter() - began
        return gathered

    def warm(self, act: Act, leaves: Leaves, env_steps: np.ndarray, noise: np.ndarray) -> None:
        """Have ``act`` compiled, with what the board shows now; nothing is chosen."""
        sight = self._sight(0, 0, noise)
        previous, memory = self._blank()
        jax.block_until_ready(act(leaves, env_steps, sight, previous, memory))

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
            self._sight(group, t, noise),
            self.previous[group],
            self.memory[group],
        )
        action = np.asarray(self.previous[group])
        self.pool.board.action[t, self._part(group)] = action.reshape(-1, action.shape[-1])
        self.seconds["policy"] += time.perf_counter() - began

    def _part(self, group: int) -> slice:
        places = self.places[group]
        return slice(places[0], places[-1] + 1)

    def _sight(self, group: int, t: int, noise: np.ndarray) -> Sight:
        """Copies: XLA may read a NumPy array in place, and later."""
        board, part = self.pool.board, self._part(group)

        def own(array: np.ndarray) -> Any:
            return array[t, part].reshape(*self.lead[:2], *array.shape[2:]).copy()

        here = slice(group * self.each, (group + 1) * self.each)
        return Sight(Observation(*(own(x) for x in board[:4])), own(board.first), noise[:, :, here])

    def _joined(self, parts: list[Any]) -> Any:
        """Of all groups, ``[seeds, E, ...]``."""
        return np.concatenate([np.asarray(part) for part in parts], axis=1)

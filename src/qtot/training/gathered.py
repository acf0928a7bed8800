"""What a board holds after a rollout, in the form in which programs learn from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtot.envs.host.board import FINAL, Board
from qtot.envs.stream import Stream
from qtot.training.collect import Actors, Collector, Tally
from qtot.types import Observation, SequenceStart, Slots


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


class Reading(NamedTuple):
    """How environments lie on a board: group by group, in a group seed by seed."""

    board: Board
    info: tuple[str, ...]
    """names of the board's scalars"""
    groups: int
    seeds: int
    each: int
    """environments of a seed in a group"""

    def rollout(
        self, start: SequenceStart, previous: np.ndarray, memory: np.ndarray, slots: int
    ) -> Gathered:
        """The first ``slots`` slots, and what is shown next; episodes that failed do not count.

        Args:
            start: what agents remembered before.
            previous: their last actions, ``[seeds, E, N]``.
            memory: what they remember now, ``[seeds, E, N, K]``.
            slots: T.
        """
        self._discard()
        after = self._after(previous, memory)
        return Gathered(after, self._slots(slots, previous.dtype), start, self._tally())

    def _discard(self) -> None:
        """The episodes of environments that failed do not count, as far as they are in here."""
        board = self.board
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

    def _slots(self, slots: int, dtype: np.dtype) -> Slots:
        board = self.board
        return Slots(
            *(self._by_seed(x[:slots]) for x in board[:4]),
            action=self._by_seed(board.action).astype(dtype),
            reward=self._by_seed(np.where(board.valid, board.reward, 0.0).astype(np.float32)),
            terminated=self._by_seed(board.terminated & board.valid),
            first=self._by_seed(board.first[:slots]),
            valid=self._by_seed(board.valid),
        )

    def _after(self, previous: Any, memory: Any) -> Actors:
        board = self.board
        shown: Any = [self._by_seed(x[-1:])[:, 0] for x in board[:5]]
        final = self._by_seed(board.phase[None] == FINAL)[:, 0]
        no: Any = np.zeros_like(final)
        none: Any = np.zeros(final.shape, np.float32)
        stream = Stream(Observation(*shown[:4]), shown[4], final, no, none, none.astype(np.int32))
        return Actors(stream, memory, previous)

    def _tally(self) -> Tally:
        board = self.board

        def total(array: np.ndarray, where: np.ndarray) -> Any:
            kept = self._by_seed(np.where(where, array, 0.0).astype(np.float32))
            return kept.sum(axis=(1, 2))

        ended = board.ended & board.valid
        return Tally(
            transitions=total(np.ones(()), board.valid),
            episodes=total(np.ones(()), ended),
            episode_return=total(board.episode_return, ended),
            episode_length=total(board.episode_length, ended),
            info={k: total(board.info[..., i], ended) for i, k in enumerate(self.info)},
        )


def zeros(collector: Collector, actors: Actors) -> Gathered:
    """A rollout of nothing, in the shapes of one; traced only."""
    slots = collector.slots

    def one(actors: Actors) -> Gathered:
        seen = actors.stream.env
        flat = jnp.zeros((slots, *actors.stream.first.shape))
        rows = lambda x: jnp.zeros((slots, *x.shape), x.dtype)  # noqa: E731
        made = Slots(
            *(rows(x) for x in seen),
            action=rows(actors.prev_action),
            reward=flat,
            terminated=flat > 0,
            first=flat > 0,
            valid=flat > 0,
        )
        zero = jnp.zeros(())
        info = dict.fromkeys(collector.env.spec.info, zero)
        tally = Tally(zero, zero, zero, zero, info)
        return Gathered(actors, made, SequenceStart(actors.memory, actors.prev_action), tally)

    return jax.vmap(one)(actors)

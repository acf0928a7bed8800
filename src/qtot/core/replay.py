"""Replay of sequences: one preallocated ring of slots, no next-step copies.

The ring holds, for each of E environments, R rows of ``stride`` slots, environment by environment:
with time first and a single environment, XLA would lay it out anew in every update. A whole
episode is a row of T+1 slots. A segment is a row of T slots whose slot T is the first slot of the
next row of the same environment; so the newest segment waits until its successor is written, and
no sample crosses the write head. Where rows need not follow each other, as from actors that come
and go, a segment is a row of T+1 slots, too.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.core.shards import ALONE, Shards
from qtot.errors import QtotError
from qtot.types import Batch, Key, PyTree, SequenceStart


class ReplayState(NamedTuple):
    """Everything that is stored."""

    slots: PyTree
    """ring ``[E, R * stride, ...]``, of slots in whatever form they are stored"""
    start: SequenceStart
    """what the agents remembered at each row's start, ``[E, R, ...]``"""
    written: Int[Array, ""]
    """rows written per environment since the beginning"""


class Replay(NamedTuple):
    """Sizes of the ring. ``init → add → pick → read``."""

    rows: int
    """R, rows per environment"""
    stride: int
    """slots per row"""
    envs: int
    """E"""
    overlap: bool
    """segments: slot T of a row lies in the next row"""
    shards: Shards = ALONE
    """which of the environments are stored on this device"""

    @staticmethod
    def make(
        *,
        capacity: int,
        length: int,
        envs: int,
        whole_episodes: bool,
        own_last: bool = False,
        shards: Shards = ALONE,
    ) -> Replay:
        """A ring of at least ``capacity`` sequences of ``length`` transitions; with ``own_last``,
        segments have their slot T in their own row.
        """
        if min(capacity, length, envs) < 1:
            raise QtotError(
                "replay needs a capacity, a length and a number of environments of at least 1, "
                f"got {capacity}, {length} and {envs}"
            )
        overlap = not (whole_episodes or own_last)
        rows = -(-capacity // envs) + overlap
        stride = length + (not overlap)
        return Replay(rows, stride, envs, overlap, shards)

    def init(self, slot: PyTree, start: SequenceStart) -> ReplayState:
        """Zeros, shaped after one example slot and start of one environment."""

        def ring(length: int, x: Array) -> Array:
            here = self.envs // self.shards.pieces * self.shards.here
            return jnp.zeros((here, length, *x.shape), x.dtype)

        return ReplayState(
            slots=jax.tree.map(lambda x: ring(self.rows * self.stride, x), slot),
            start=jax.tree.map(lambda x: ring(self.rows, x), start),
            written=jnp.zeros((), jnp.int32),
        )

    def add(self, state: ReplayState, slots: PyTree, start: SequenceStart) -> ReplayState:
        """Overwrite the oldest row of every environment with ``slots [stride, E, ...]``."""
        row = state.written % self.rows

        def write(at: Array, old: PyTree, new: PyTree) -> PyTree:
            return jax.tree.map(
                lambda o, n: jax.lax.dynamic_update_slice_in_dim(o, n.astype(o.dtype), at, axis=1),
                old,
                new,
            )

        return ReplayState(
            slots=write(
                row * self.stride, state.slots, jax.tree.map(lambda x: x.swapaxes(0, 1), slots)
            ),
            start=write(row, state.start, jax.tree.map(lambda x: x[:, None], start)),
            written=state.written + 1,
        )

    def stored(self, state: ReplayState) -> Int[Array, ""]:
        """Rows per environment that may be sampled."""
        return jnp.maximum(jnp.minimum(state.written, self.rows) - self.overlap, 0)

    def pick(
        self, state: ReplayState, key: Key, batch: int
    ) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
        """Row and environment of those of ``batch`` sequences that are drawn here, of each shard
        equally many: uniform, with replacement, over all that it holds, so that the cost does not
        grow with the capacity.
        """
        envs, each = self.envs // self.shards.pieces, batch // self.shards.pieces

        def one(key: Key) -> Array:
            return jax.random.randint(key, (each,), 0, self.stored(state) * envs)

        pick = self.shards.draw(key, one)
        age, env = pick // envs, pick % envs
        env += jnp.repeat(envs * jnp.arange(self.shards.here), each)
        row = (state.written - 1 - self.overlap - age) % self.rows
        return row, env

    def read(self, state: ReplayState, row: Int[Array, "B"], env: Int[Array, "B"]) -> Batch:
        """The sequences that begin at the given rows, time-major ``[stride or T+1, B, ...]``."""
        offsets = jnp.arange(self.stride + self.overlap)[:, None]
        at = (row * self.stride + offsets) % (self.rows * self.stride)
        return Batch(
            slots=jax.tree.map(lambda x: x[env, at], state.slots),
            start=jax.tree.map(lambda x: x[env, row], state.start),
        )

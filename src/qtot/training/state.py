"""What a run consists of while it is in a program, and where each part lies."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from qtot.core.learner import TrainState
from qtot.core.replay import ReplayState
from qtot.training.collect import Actors, Tally
from qtot.training.devices import DATA, SEED
from qtot.types import Key, SequenceStart, Slots


class SeedState(NamedTuple):
    """Everything of one seed; with several, every array has a leading axis."""

    train: TrainState
    actors: Actors
    replay: ReplayState | None
    """None where each rollout is learned from once"""
    credit: Float[Array, ""]
    """learner updates earned and not yet done"""
    key: Key


class Progress(NamedTuple):
    """Sums since the last log."""

    collected: Tally
    learned: dict[str, Float[Array, ""]]
    """sums over updates"""
    updates: Float[Array, ""]


class Rollout(NamedTuple):
    """What one collection brought."""

    slots: Slots
    start: SequenceStart
    tally: Tally
    active: Bool[Array, ""]
    """False for a seed that has taken all its steps, whose experience does not count"""


class RunState(NamedTuple):
    """The whole program's state: donated to every chunk, never copied."""

    seeds: SeedState
    iteration: Int[Array, ""]
    """collections done; the same for all seeds, which run in lock step"""
    progress: Progress
    """of every seed; part of the state, so that sums do not depend on where chunks are cut"""

    def plus(self, seeds: SeedState, new: Progress, afresh: Bool[Array, ""]) -> RunState:
        """After another iteration, with its sums added, or the first to be summed."""
        add = lambda old, new: jnp.where(afresh, 0.0, old) + new  # noqa: E731
        return RunState(seeds, self.iteration + 1, jax.tree.map(add, self.progress, new))


# What is per seed and what all seeds share: a shared write head keeps the ring's update in place.
SEED_AXES = SeedState(
    train=0,  # pyright: ignore[reportArgumentType]
    actors=0,  # pyright: ignore[reportArgumentType]
    replay=ReplayState(slots=0, start=0, written=None),  # pyright: ignore[reportArgumentType]
    credit=0,  # pyright: ignore[reportArgumentType]
    key=0,  # pyright: ignore[reportArgumentType]
)
# The same for devices: a seed's networks are wherever some of its environments are.
SEED_SPECS = SeedState(
    train=P(SEED),  # pyright: ignore[reportArgumentType]
    actors=P(SEED, DATA),  # pyright: ignore[reportArgumentType]
    replay=ReplayState(P(SEED, DATA), P(SEED, DATA), P()),  # pyright: ignore[reportArgumentType]
    credit=P(SEED),  # pyright: ignore[reportArgumentType]
    key=P(SEED),  # pyright: ignore[reportArgumentType]
)

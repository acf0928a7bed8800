"""What both ways to learn share: counting what was played, and cutting an update into pieces."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qtot.config import TrainConfig
from qtot.core.learner import Learner, TrainState
from qtot.training.collect import Actors, Collector
from qtot.training.state import Rollout, SeedState
from qtot.types import Key, PyTree, Slots

CACHED = 170_000
"""numbers of a recurrent layer, over all slots of a piece, for which a core's cache (2 MB) is large
enough: measured, where half or twice as many are no faster"""


class Parts(NamedTuple):
    """What learning needs of a training program."""

    config: TrainConfig
    learner: Learner
    collector: Collector
    abreast: int
    """seeds that share a CPU's cache at the same time; 0 where caches do not count"""

    def counted(self, state: SeedState, rollout: Rollout) -> TrainState:
        """With the steps taken, and what was seen in them."""
        train = state.train
        stats = jax.tree.map(
            lambda new, old: jnp.where(rollout.active, new, old),
            self.learner.observe(train.stats, rollout.slots),
            train.stats,
        )
        steps = train.env_steps + rollout.tally.transitions.astype(jnp.int32)
        seen = jnp.where(rollout.active, self.learner.size_of(rollout.slots), 0.0)
        largest = jnp.maximum(train.largest_reward, seen)
        return train._replace(env_steps=steps, stats=stats, largest_reward=largest)

    def with_last(self, key: Key, after: Actors, train: TrainState, slots: Slots) -> Slots:
        """A piece of a stream ``[T, E, ...]`` and its slot T, which shows what came ``after``."""
        epsilon = self.learner.epsilon(train.env_steps)
        last = self.collector.peek(key, after, train.online, train.stats, epsilon)
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), slots, last)

    def cut(self, picked: PyTree) -> PyTree:
        """Arrays over the sequences of an update, cut into pieces ``[pieces, B, ...]`` that fit
        into a CPU's cache; elsewhere, all is one piece.
        """
        sequences, slots = len(jax.tree.leaves(picked)[0]), self.collector.slots + 1
        numbers = slots * self.learner.n_agents * max(self.learner.agent.hidden, 1) * self.abreast
        pieces = next(
            n
            for n in range(1, sequences + 1)
            if sequences % n == 0 and (n == sequences or numbers * sequences // n <= CACHED)
        )
        return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), picked)

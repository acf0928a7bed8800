"""Learning from each rollout as it comes: some epochs of minibatches, without a replay."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qtot.core.learner import TrainState
from qtot.training.collect import Actors
from qtot.training.learning import Parts
from qtot.training.state import Progress, Rollout, SeedState
from qtot.types import Batch, Key, SequenceStart, Slots


class Online(NamedTuple):
    """As PQN learns for VDN (Gallici et al. 2025), here for every method."""

    parts: Parts

    def learn(self, state: SeedState, key: Key, rollout: Rollout) -> tuple[SeedState, Progress]:
        """Go through the rollout for some epochs. Counters and what the agents see by move on
        only afterwards, so that a single update is by the very policy that played it.
        """
        active, online = rollout.active, self.parts.config.online
        counted = self.parts.counted(state, rollout)
        stats = counted.stats._replace(obs=state.train.stats.obs)
        train = state.train._replace(stats=stats)
        peek_key, deal_key = jax.random.split(key)
        batch = self._batch(peek_key, state.actors, train, rollout.slots, rollout.start)
        if not self.parts.learner.target_networks:
            # What values the next state stays as it was when the rollout ended: valued anew by the
            # networks of every minibatch, Q_tot grows without bound.
            train = train._replace(target=train.online)
            batch = self.parts.learner.foresee(train, batch)

        def read(chosen: Array) -> Batch:
            return Batch(
                slots=jax.tree.map(lambda x: x[:, chosen], batch.slots),
                start=jax.tree.map(lambda x: x[chosen], batch.start),
                slow=jax.tree.map(lambda x: x[:, chosen], batch.slow),
            )

        def update(train: TrainState, chosen: Array) -> tuple[TrainState, dict[str, Array]]:
            return self.parts.learner.update(train, self.parts.cut(chosen), read)

        keys = jax.random.split(deal_key, online.epochs)
        dealt = jax.vmap(self.deal)(keys)
        learned, metrics = jax.lax.scan(update, train, dealt.reshape(-1, dealt.shape[-1]))
        train = jax.tree.map(lambda new, old: jnp.where(active, new, old), learned, train)
        metrics = {k: jnp.where(active, jnp.sum(v), 0.0) for k, v in metrics.items()}
        updates = jnp.where(active, float(online.epochs * online.minibatches), 0.0)
        train = train._replace(
            stats=counted.stats,
            env_steps=counted.env_steps,
            largest_reward=counted.largest_reward,
        )
        return state._replace(train=train), Progress(rollout.tally, metrics, updates)

    def _batch(
        self, key: Key, after: Actors, train: TrainState, slots: Slots, start: SequenceStart
    ) -> Batch:
        """A rollout as it is, to be learned from once; a piece of a stream gets its slot T."""
        if self.parts.collector.whole_episodes:
            memory = train.online.initial_memory(start.prev_action.shape[0])
            return Batch(slots, start._replace(memory=memory))
        return Batch(self.parts.with_last(key, after, train, slots), start)

    def deal(self, key: Key) -> Int[Array, "parts E"]:
        """The environments in random order, dealt to minibatches: of every shard equally many."""
        shards, parts = self.parts.collector.shards, self.parts.config.online.minibatches
        each = self.parts.collector.envs // shards.pieces

        def one(key: Key) -> Array:
            return jax.random.permutation(key, each).reshape(parts, -1)

        dealt = jax.vmap(one, out_axes=1)(shards.keys(key))  # [parts, shards, each / parts]
        dealt += (each * jnp.arange(shards.here))[:, None]
        return dealt.reshape(parts, -1)

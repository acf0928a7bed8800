"""Learning from what is stored: every rollout earns credit, which updates spend."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.compact import Codec, Stored
from qtot.core.learner import TrainState
from qtot.core.replay import Replay, ReplayState
from qtot.training.learning import Parts
from qtot.training.state import Progress, Rollout, SeedState
from qtot.types import Batch, Key, SequenceStart, Slots


class FromReplay(NamedTuple):
    """``init → learn``, which stores and updates."""

    parts: Parts
    ring: Replay

    @property
    def codec(self) -> Codec:
        """How slots are stored."""
        spec, dtype = self.parts.collector.env.spec, self.parts.config.replay.dtype
        derived = spec.state_source == "concatenated observations"
        return Codec(spec.max_actions, dtype, spec.obs_sizes if derived else ())

    def init(self, slot: Slots, start: SequenceStart) -> ReplayState:
        """Empty, for slots ``[1, E, ...]`` and their starts ``[E, ...]``; shapes are enough."""
        stored, first = jax.eval_shape(self._stored, slot, start)
        return self.ring.init(
            jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), stored),
            jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), first),
        )

    def _stored(self, slots: Slots, start: SequenceStart) -> tuple[Stored, SequenceStart]:
        """A rollout in the form in which the replay keeps it."""
        if self.parts.collector.whole_episodes:  # memory is zero there: store nothing
            start = start._replace(memory=start.memory[..., :0])
        return self.codec.encode(slots), start

    def learn(self, state: SeedState, key: Key, rollout: Rollout) -> tuple[SeedState, Progress]:
        """Store the rollout, then spend the credit that it earns."""
        assert state.replay is not None
        collect, tally = self.parts.config.collect, rollout.tally
        train, slots = self.parts.counted(state, rollout), rollout.slots
        if len(slots.reward) < self.ring.stride:
            slots = self.parts.with_last(key, state.actors, train, slots)
        replay = self.ring.add(state.replay, *self._stored(slots, rollout.start))
        ready = self.ring.stored(replay) * collect.envs >= self.parts.config.replay.warmup
        unit = tally.transitions if collect.update_unit == "step" else tally.episodes
        credit = state.credit + jnp.where(ready, unit * collect.update_ratio, 0.0)
        train, credit, learned, updates = self._spend(train, replay, key, credit)
        state = state._replace(train=train, replay=replay, credit=credit)
        return state, Progress(tally, learned, updates)

    def severed(self, state: SeedState) -> SeedState:
        """Where what would have followed is lost: the newest transition of every environment, which
        has its next observation in the next row, does not count.
        """
        assert state.replay is not None
        ring, stored = self.ring, state.replay
        at = (stored.written * ring.stride - 1) % (ring.rows * ring.stride)
        last: Any = jax.tree.map(lambda x: x[:, at], stored.slots)
        slots = self.codec.decode(last)
        cut = self.codec.encode(slots._replace(valid=jnp.zeros_like(slots.valid)))
        kept = jax.tree.map(lambda x, y: x.at[:, at].set(y), stored.slots, cut)
        return state._replace(replay=stored._replace(slots=kept))

    def update(
        self, train: TrainState, replay: ReplayState, key: Key
    ) -> tuple[TrainState, dict[str, Array]]:
        """One learner update on sequences from the replay."""

        def read(picked: tuple[Array, Array]) -> Batch:
            batch = self.ring.read(replay, *picked)
            stored: Any = batch.slots
            batch = batch._replace(slots=self.codec.decode(stored))
            if self.parts.collector.whole_episodes:  # they start from an empty memory
                memory = train.online.initial_memory(batch.start.prev_action.shape[0])
                batch = batch._replace(start=batch.start._replace(memory=memory))
            return batch

        picked = self.ring.pick(replay, key, self.parts.config.replay.batch)
        return self.parts.learner.update(train, self.parts.cut(picked), read)

    def _spend(
        self, train: TrainState, replay: ReplayState, key: Key, credit: Float[Array, ""]
    ) -> tuple[TrainState, Array, dict[str, Array], Array]:
        """Spend the credit. The replay is only read, so under vmap a seed that has spent its
        credit waits without a copy of it.
        """

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            train, credit, sums = carry
            train, metrics = self.update(train, replay, jax.random.fold_in(key, train.updates))
            return train, credit - 1.0, jax.tree.map(jnp.add, sums, metrics)

        before = train.updates
        zeros = {name: jnp.zeros(()) for name in self.parts.learner.quantities}
        train, credit, sums = jax.lax.while_loop(
            lambda carry: carry[1] >= 1.0, body, (train, credit, zeros)
        )
        return train, credit, sums, (train.updates - before).astype(jnp.float32)

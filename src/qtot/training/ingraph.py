"""Environments, exploration, replay and learning in one jitted program, several seeds at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.config import TrainConfig
from qtot.core.exploration import epsilon_at
from qtot.core.learner import Learner, TrainState
from qtot.core.replay import Replay, ReplayState
from qtot.envs.base import JaxEnv
from qtot.envs.spec import EnvSpec
from qtot.training.collect import Actors, Collector, Tally
from qtot.types import Batch, Key, SequenceStart, Slots

LEARN_KEYS = ("loss", "grad_norm", "q_tot", "target", "td_error_abs", "lr")


class SeedState(NamedTuple):
    """Everything of one seed; with several, every array has a leading axis."""

    train: TrainState
    actors: Actors
    replay: ReplayState
    credit: Float[Array, ""]
    """learner updates earned and not yet done"""
    key: Key


class Progress(NamedTuple):
    """Sums since the last log."""

    collected: Tally
    learned: dict[str, Float[Array, ""]]
    """sums over updates"""
    updates: Float[Array, ""]


class RunState(NamedTuple):
    """The whole program's state: donated to every chunk, never copied."""

    seeds: SeedState
    iteration: Int[Array, ""]
    """collections done; the same for all seeds, which run in lock step"""


# What is per seed and what all seeds share: a shared write head keeps the ring's update in place.
SEED_AXES = SeedState(
    train=0,  # pyright: ignore[reportArgumentType]
    actors=0,  # pyright: ignore[reportArgumentType]
    replay=ReplayState(slots=0, start=0, written=None),  # pyright: ignore[reportArgumentType]
    credit=0,  # pyright: ignore[reportArgumentType]
    key=0,  # pyright: ignore[reportArgumentType]
)


def make_learner(spec: EnvSpec, config: TrainConfig) -> Learner:
    """The learner of a configuration, sized for an environment."""
    return Learner(
        algo=config.algo,
        n_agents=spec.n_agents,
        n_actions=spec.max_actions,
        obs_size=spec.obs_size,
        state_size=spec.state_size,
        total_steps=config.steps,
        agent=config.agent,
        mixer=config.mixer,
        target=config.target,
        optimiser=config.optimiser,
        scaling=config.scaling,
        burn_in=config.replay.burn_in,
    )


class Program(NamedTuple):
    """The in-graph training program of one configuration. ``init → chunk → chunk → ...``."""

    config: TrainConfig
    learner: Learner
    collector: Collector
    replay: Replay

    @staticmethod
    def make(env: JaxEnv, config: TrainConfig) -> Program:
        """The program for an environment; allocates nothing."""
        spec, replay = env.spec, config.replay
        whole = replay.sequences == "episodes"
        length = spec.episode_limit if whole else replay.length
        envs = config.collect.envs
        learner = make_learner(spec, config)
        ring = Replay.make(capacity=replay.capacity, length=length, envs=envs, whole_episodes=whole)
        return Program(config, learner, Collector(env, learner, envs, ring.stride, whole), ring)

    def init_seed(self, seed: Int[Array, ""]) -> SeedState:
        """The state of one seed before its first step."""
        key = jax.random.key(seed)
        net_key, env_key, run_key = jax.random.split(key, 3)
        train = self.learner.init(net_key)
        actors = self.collector.init(env_key, train.online.agent)
        slot, start = jax.eval_shape(
            lambda: self.collect(run_key, actors, train, jnp.zeros(()))[1:3]
        )
        example = jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), slot)
        first = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), start)
        replay = self.replay.init(example, first)
        return SeedState(train, actors, replay, jnp.zeros(()), run_key)

    def init(self) -> RunState:
        """All seeds: ``seed, seed + 1, ...``."""
        seeds = self.config.seed + jnp.arange(self.config.seeds)
        states = jax.vmap(self.init_seed, out_axes=SEED_AXES)(seeds)
        return RunState(states, jnp.zeros((), jnp.int32))

    def collect(
        self, key: Key, actors: Actors, train: TrainState, epsilon: Float[Array, ""]
    ) -> tuple[Actors, Slots, SequenceStart, Tally]:
        """One rollout, as the replay stores it."""
        actors, slots, start, tally = self.collector.collect(
            key, actors, train.online.agent, train.stats, epsilon
        )
        if self.collector.whole_episodes:  # memory is zero there: store nothing
            start = start._replace(memory=start.memory[..., :0])
        return actors, slots, start, tally

    def sample(self, replay: ReplayState, key: Key, train: TrainState) -> Batch:
        """Sequences to learn from; whole episodes start from an empty memory."""
        batch = self.replay.sample(replay, key, self.config.replay.batch)
        if self.collector.whole_episodes:
            memory = train.online.agent.initial_memory(self.config.replay.batch)
            batch = batch._replace(start=batch.start._replace(memory=memory))
        return batch

    def iterate(self, state: SeedState, iteration: Int[Array, ""]) -> tuple[SeedState, Progress]:
        """Collect once, then learn as often as the experience has earned."""
        config, train = self.config, state.train
        collect_key, learn_key = jax.random.split(state.key)

        # A seed that has taken all its steps stands still while slower ones finish.
        active = train.env_steps < config.steps
        epsilon = epsilon_at(config.exploration, train.env_steps)
        actors, slots, start, tally = self.collect(
            jax.random.fold_in(collect_key, iteration), state.actors, train, epsilon
        )
        tally = jax.tree.map(lambda x: jnp.where(active, x, 0.0), tally)
        stats = jax.tree.map(
            lambda new, old: jnp.where(active, new, old),
            self.learner.observe(train.stats, slots),
            train.stats,
        )
        train = train._replace(
            env_steps=train.env_steps + tally.transitions.astype(jnp.int32), stats=stats
        )
        replay = self.replay.add(state.replay, slots, start)

        ready = self.replay.stored(replay) * self.collector.envs >= config.replay.warmup
        unit = tally.transitions if config.collect.update_unit == "step" else tally.episodes
        credit = state.credit + jnp.where(ready, unit * config.collect.update_ratio, 0.0)
        train, credit, learned, updates = self._learn(train, replay, learn_key, credit)
        return SeedState(train, actors, replay, credit, state.key), Progress(
            tally, learned, updates
        )

    def _learn(
        self, train: TrainState, replay: ReplayState, key: Key, credit: Float[Array, ""]
    ) -> tuple[TrainState, Array, dict[str, Array], Array]:
        """Spend the credit. The replay is only read, so under vmap a seed that has spent its
        credit waits without a copy of it.
        """

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            train, credit, sums = carry
            batch = self.sample(replay, jax.random.fold_in(key, train.updates), train)
            train, metrics = self.learner.update(train, batch)
            return train, credit - 1.0, {k: sums[k] + metrics[k] for k in LEARN_KEYS}

        before = train.updates
        zeros = {k: jnp.zeros(()) for k in LEARN_KEYS}
        train, credit, sums = jax.lax.while_loop(
            lambda carry: carry[1] >= 1.0, body, (train, credit, zeros)
        )
        return train, credit, sums, (train.updates - before).astype(jnp.float32)

    def chunk(self, state: RunState, until: Int[Array, ""]) -> tuple[RunState, Progress]:
        """Iterate until every seed has taken ``until`` steps; returns each seed's sums."""
        step = jax.vmap(self.iterate, in_axes=(SEED_AXES, None), out_axes=(SEED_AXES, 0))
        sums = jax.eval_shape(lambda s: step(s.seeds, s.iteration)[1], state)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)

        def unfinished(carry: tuple[RunState, Progress]) -> Array:
            return jnp.min(carry[0].seeds.train.env_steps) < until

        def body(carry: tuple[RunState, Progress]) -> tuple[RunState, Progress]:
            (seeds, iteration), sums = carry
            seeds, new = step(seeds, iteration)
            return RunState(seeds, iteration + 1), jax.tree.map(jnp.add, sums, new)

        return jax.lax.while_loop(unfinished, body, (state, sums))

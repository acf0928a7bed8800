"""Environments, exploration, replay and learning in one jitted program, several seeds at once,
spread over devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from qtot.config import TrainConfig
from qtot.core.compact import Codec, Stored
from qtot.core.learner import Learner, PolicyParams, TrainState
from qtot.core.methods import method
from qtot.core.replay import Replay, ReplayState
from qtot.core.shards import ALONE, Shards
from qtot.envs.base import JaxEnv
from qtot.envs.dice import hashed, root_key
from qtot.envs.spec import EnvSpec
from qtot.evaluation.episodes import evaluation_key, play_greedy, summarise
from qtot.training.collect import Actors, Collector, Tally
from qtot.training.devices import DATA, SEED, lay_out
from qtot.training.state import SEED_AXES, SEED_SPECS, Progress, Rollout, RunState, SeedState
from qtot.types import Batch, Key, PyTree, SequenceStart, Slots

CACHED = 170_000
"""numbers of a recurrent layer, over all slots of a piece, for which a core's cache (2 MB) is large
enough: measured, where half or twice as many are no faster"""


def make_learner(spec: EnvSpec, config: TrainConfig, shards: Shards = ALONE) -> Learner:
    """The learner of a configuration, sized for an environment."""
    return Learner(
        algo=config.algo,
        n_agents=spec.n_agents,
        n_actions=spec.max_actions,
        obs_size=spec.obs_size,
        obs_shape=spec.obs_shape,
        state_size=spec.state_size,
        total_steps=config.steps,
        agent=config.agent,
        mixer=config.mixer,
        target=config.target,
        optimiser=config.optimiser,
        scaling=config.scaling,
        critic=config.critic,
        exploration=config.exploration,
        loss=config.loss,
        burn_in=config.replay.burn_in,
        target_networks=config.data == "replay" or method(config.algo).on_policy,
        shards=shards,
    )


class Program(NamedTuple):
    """The in-graph training program of one configuration. ``init → chunk → chunk → ...``."""

    config: TrainConfig
    learner: Learner
    collector: Collector
    replay: Replay | None
    mesh: Mesh
    """devices ``[seed, data]``"""

    @staticmethod
    def make(env: JaxEnv, config: TrainConfig, devices: Sequence[Any] | None = None) -> Program:
        """The program for an environment, on ``devices`` or all there are; allocates nothing."""
        spec, replay = env.spec, config.replay
        mesh, shards = lay_out(config, devices)
        whole = replay.sequences == "episodes"
        length = spec.episode_limit if whole else replay.length
        envs = config.collect.envs
        learner = make_learner(spec, config, shards)
        collector = Collector(env, learner, envs, length + whole, whole)
        if config.data == "online":
            return Program(config, learner, collector, None, mesh)
        ring = Replay.make(
            capacity=replay.capacity,
            length=length,
            envs=envs,
            whole_episodes=whole,
            shards=shards,
        )
        return Program(config, learner, collector, ring, mesh)

    @property
    def axes(self) -> SeedState:
        """Where each part of a seed's state has its leading axis."""
        return SEED_AXES if self.replay is not None else SEED_AXES._replace(replay=None)

    @property
    def codec(self) -> Codec:
        """How slots are stored."""
        spec = self.collector.env.spec
        derived = spec.state_source == "concatenated observations"
        return Codec(spec.max_actions, self.config.replay.dtype, spec.obs_sizes if derived else ())

    @property
    def specs(self) -> RunState:
        """Where each part of the state lies on the mesh."""
        seeds = SEED_SPECS if self.replay is not None else SEED_SPECS._replace(replay=None)
        return RunState(seeds, P())  # pyright: ignore[reportArgumentType]

    def spread(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """``f`` on every device, each with its part."""
        return jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def init_seed(self, seed: Int[Array, ""]) -> SeedState:
        """The state of one seed before its first step."""
        key = root_key(seed)
        net_key, env_key, run_key = jax.random.split(key, 3)
        train = self.learner.init(net_key)
        actors = self.collector.init(env_key, train.online)
        if self.replay is None:
            return SeedState(train, actors, None, jnp.zeros(()), run_key)
        slot, start = jax.eval_shape(
            lambda: self._stored(
                self.collector.peek(run_key, actors, train.online, train.stats, jnp.zeros(())),
                SequenceStart(actors.memory, actors.prev_action),
            )
        )
        example = jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), slot)
        first = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), start)
        replay = self.replay.init(example, first)
        return SeedState(train, actors, replay, jnp.zeros(()), run_key)

    def init(self, seed: Int[Array, ""]) -> RunState:
        """All seeds: ``seed, seed + 1, ...``. An argument, so that one program serves them all."""

        def here(seeds: Array) -> RunState:
            states = self.side_by_side(self.init_seed, out_axes=self.axes)(seeds)
            return RunState(states, jnp.zeros((), jnp.int32))

        return self.spread(here, P(SEED), self.specs)(self._seeds(seed))

    def _seeds(self, seed: Int[Array, ""]) -> Int[Array, "seeds"]:
        return seed + jnp.arange(self.config.seeds)

    @property
    def on_cpu(self) -> bool:
        """Whether caches are what counts."""
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def abreast(self) -> int:
        """Seeds of a device that go on at the same time. A CPU's cache has room for one; but a
        replay is not to be carried through a loop over seeds, which would copy it.
        """
        here = self.config.seeds // self.mesh.shape[SEED]
        return 1 if self.on_cpu and self.replay is None else here

    def side_by_side(
        self, f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0
    ) -> Callable[..., Any]:
        """``f`` of one seed, for those of a device: under ``vmap``, or one after another. One alone
        needs neither, and ``vmap`` takes long to trace through loops.

        Args:
            f: of one seed.
            in_axes: as in ``vmap``; an argument is either whole the same for all, None, or not.
            out_axes: the same of the results.
        """
        alone = self.config.seeds == self.mesh.shape[SEED]
        if self.abreast > 1:
            return jax.vmap(f, in_axes, out_axes)

        def one_by_one(*args: Any) -> Any:
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
            if alone:
                result = f(*along(axes, args, lambda x: x[0]))
                return along(out_axes, result, lambda x: x[None])

            def one(own: tuple[Any, ...]) -> Any:
                rest = iter(own)
                given = zip(axes, args, strict=True)
                return f(*(x if axis is None else next(rest) for axis, x in given))

            each = zip(axes, args, strict=True)
            return jax.lax.map(one, tuple(x for axis, x in each if axis is not None))

        return one_by_one

    def collect(
        self, key: Key, actors: Actors, train: TrainState, epsilon: Float[Array, ""]
    ) -> tuple[Actors, Slots, SequenceStart, Tally]:
        """One rollout."""
        return self.collector.collect(key, actors, train.online, train.stats, epsilon)

    def _stored(self, slots: Slots, start: SequenceStart) -> tuple[Stored, SequenceStart]:
        """A rollout in the form in which the replay keeps it."""
        if self.collector.whole_episodes:  # memory is zero there: store nothing
            start = start._replace(memory=start.memory[..., :0])
        return self.codec.encode(slots), start

    def update(
        self, train: TrainState, replay: ReplayState, key: Key
    ) -> tuple[TrainState, dict[str, Array]]:
        """One learner update on sequences from the replay."""
        ring = self.replay
        assert ring is not None

        def read(picked: tuple[Array, Array]) -> Batch:
            batch = ring.read(replay, *picked)
            stored: Any = batch.slots
            batch = batch._replace(slots=self.codec.decode(stored))
            if self.collector.whole_episodes:  # they start from an empty memory
                memory = train.online.initial_memory(batch.start.prev_action.shape[0])
                batch = batch._replace(start=batch.start._replace(memory=memory))
            return batch

        picked = ring.pick(replay, key, self.config.replay.batch)
        return self.learner.update(train, self._pieces(picked), read)

    def _pieces(self, picked: PyTree) -> PyTree:
        """Arrays over the sequences of an update, cut into pieces ``[pieces, B, ...]`` that fit
        into a CPU's cache; elsewhere, all is one piece.
        """
        sequences, slots = len(jax.tree.leaves(picked)[0]), self.collector.slots + 1
        numbers = slots * self.learner.n_agents * max(self.learner.agent.hidden, 1)
        numbers *= self.abreast
        pieces = next(
            n
            for n in range(1, sequences + 1)
            if sequences % n == 0
            and (not self.on_cpu or n == sequences or numbers * sequences // n <= CACHED)
        )
        return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), picked)

    def rollout_batch(
        self, key: Key, after: Actors, train: TrainState, slots: Slots, start: SequenceStart
    ) -> Batch:
        """A rollout as it is, to be learned from once; a piece of a stream gets its slot T."""
        if self.collector.whole_episodes:
            memory = train.online.initial_memory(start.prev_action.shape[0])
            return Batch(slots, start._replace(memory=memory))
        epsilon = self.learner.epsilon(train.env_steps)
        last = self.collector.peek(key, after, train.online, train.stats, epsilon)
        return Batch(jax.tree.map(lambda x, y: jnp.concatenate([x, y]), slots, last), start)

    def iterate(self, state: SeedState, iteration: Int[Array, ""]) -> tuple[SeedState, Progress]:
        """Collect once, then learn as often as the experience has earned."""
        key = hashed(jax.random.fold_in(state.key, iteration))
        collect_key, learn_key = jax.random.split(key)

        # A seed that has taken all its steps stands still while slower ones finish; one alone
        # ends the run.
        alone = self.config.seeds == 1
        active = jnp.ones((), bool) if alone else state.train.env_steps < self.config.steps
        actors, slots, start, tally = self.collect(
            collect_key, state.actors, state.train, self.learner.epsilon(state.train.env_steps)
        )
        tally = jax.tree.map(lambda x: jnp.where(active, x, 0.0), tally)
        state, rollout = state._replace(actors=actors), Rollout(slots, start, tally, active)
        if state.replay is None:
            return self.learn_online(state, learn_key, rollout)
        return self._learn_from_replay(state, learn_key, rollout)

    def _count(self, state: SeedState, rollout: Rollout) -> TrainState:
        """With the steps taken, and what was seen in them."""
        train = state.train
        stats = jax.tree.map(
            lambda new, old: jnp.where(rollout.active, new, old),
            self.learner.observe(train.stats, rollout.slots),
            train.stats,
        )
        steps = train.env_steps + rollout.tally.transitions.astype(jnp.int32)
        return train._replace(env_steps=steps, stats=stats)

    def learn_online(
        self, state: SeedState, key: Key, rollout: Rollout
    ) -> tuple[SeedState, Progress]:
        """Go through the rollout for some epochs. Counters and what the agents see by move on
        only afterwards, so that a single update is by the very policy that played it.
        """
        active, online, counted = rollout.active, self.config.online, self._count(state, rollout)
        stats = counted.stats._replace(obs=state.train.stats.obs)
        train = state.train._replace(stats=stats)
        peek_key, deal_key = jax.random.split(key)
        batch = self.rollout_batch(peek_key, state.actors, train, rollout.slots, rollout.start)
        if not self.learner.target_networks:
            # What values the next state stays as it was when the rollout ended: valued anew by the
            # networks of every minibatch, Q_tot grows without bound.
            train = train._replace(target=train.online)
            batch = self.learner.foresee(train, batch)

        def read(chosen: Array) -> Batch:
            return Batch(
                slots=jax.tree.map(lambda x: x[:, chosen], batch.slots),
                start=jax.tree.map(lambda x: x[chosen], batch.start),
                slow=jax.tree.map(lambda x: x[:, chosen], batch.slow),
            )

        def update(train: TrainState, chosen: Array) -> tuple[TrainState, dict[str, Array]]:
            return self.learner.update(train, self._pieces(chosen), read)

        keys = jax.random.split(deal_key, online.epochs)
        dealt = jax.vmap(self._deal)(keys)
        learned, metrics = jax.lax.scan(update, train, dealt.reshape(-1, dealt.shape[-1]))
        train = jax.tree.map(lambda new, old: jnp.where(active, new, old), learned, train)
        metrics = {k: jnp.where(active, jnp.sum(v), 0.0) for k, v in metrics.items()}
        updates = jnp.where(active, float(online.epochs * online.minibatches), 0.0)
        train = train._replace(stats=counted.stats, env_steps=counted.env_steps)
        return state._replace(train=train), Progress(rollout.tally, metrics, updates)

    def _deal(self, key: Key) -> Int[Array, "parts E"]:
        """The environments in random order, dealt to minibatches: of every shard equally many."""
        shards, parts = self.collector.shards, self.config.online.minibatches
        each = self.collector.envs // shards.pieces

        def one(key: Key) -> Array:
            return jax.random.permutation(key, each).reshape(parts, -1)

        dealt = jax.vmap(one, out_axes=1)(shards.keys(key))  # [parts, shards, each / parts]
        dealt += (each * jnp.arange(shards.here))[:, None]
        return dealt.reshape(parts, -1)

    def _learn_from_replay(
        self, state: SeedState, key: Key, rollout: Rollout
    ) -> tuple[SeedState, Progress]:
        """Store the rollout, then spend the credit that it earns."""
        assert self.replay is not None
        assert state.replay is not None
        collect, tally = self.config.collect, rollout.tally
        train = self._count(state, rollout)
        replay = self.replay.add(state.replay, *self._stored(rollout.slots, rollout.start))
        ready = self.replay.stored(replay) * collect.envs >= self.config.replay.warmup
        unit = tally.transitions if collect.update_unit == "step" else tally.episodes
        credit = state.credit + jnp.where(ready, unit * collect.update_ratio, 0.0)
        train, credit, learned, updates = self._spend(train, replay, key, credit)
        state = state._replace(train=train, replay=replay, credit=credit)
        return state, Progress(tally, learned, updates)

    def _spend(
        self, train: TrainState, replay: ReplayState, key: Key, credit: Float[Array, ""]
    ) -> tuple[TrainState, Array, dict[str, Array], Array]:
        """Spend the credit. The replay is only read, so under vmap a seed that has spent its
        credit waits without a copy of it.
        """
        update = traced_once(self.update)

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            train, credit, sums = carry
            train, metrics = update(train, replay, jax.random.fold_in(key, train.updates))
            return train, credit - 1.0, jax.tree.map(jnp.add, sums, metrics)

        before = train.updates
        zeros = {k: jnp.zeros(()) for k in jax.eval_shape(update, train, replay, key)[1]}
        train, credit, sums = jax.lax.while_loop(
            lambda carry: carry[1] >= 1.0, body, (train, credit, zeros)
        )
        return train, credit, sums, (train.updates - before).astype(jnp.float32)

    def chunk(self, state: RunState, until: Int[Array, ""]) -> tuple[RunState, Progress]:
        """Iterate until every seed has taken ``until`` steps; returns each seed's sums."""
        step = traced_once(
            self.side_by_side(self.iterate, in_axes=(self.axes, None), out_axes=(self.axes, 0))
        )

        def least(seeds: SeedState) -> Array:
            """Steps of the seed that has taken fewest, on whatever device."""
            return jax.lax.pmin(jnp.min(seeds.train.env_steps), SEED)

        def here(state: RunState, until: Array) -> tuple[RunState, Progress]:
            sums = jax.eval_shape(step, state.seeds, state.iteration)[1]
            sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)

            def body(carry: tuple[RunState, Progress, Array]) -> tuple[RunState, Progress, Array]:
                (seeds, iteration), sums, _ = carry
                seeds, new = step(seeds, iteration)
                sums = jax.tree.map(jnp.add, sums, new)
                return RunState(seeds, iteration + 1), sums, least(seeds)

            start = (state, sums, least(state.seeds))
            return jax.lax.while_loop(lambda carry: carry[2] < until, body, start)[:2]

        return self.spread(here, (self.specs, P()), (self.specs, P(SEED)))(state, until)

    def greedy(
        self, train: TrainState, seed: Int[Array, ""], steps: Int[Array, ""], part: Int[Array, ""]
    ) -> dict[str, Float[Array, "seeds"]]:
        """Means over ``evaluation.episodes`` greedy episodes, one per seed; ``seed`` (that of
        ``init``), ``steps`` and ``part`` choose the episodes.
        """
        episodes, axis = self.config.evaluation.episodes, self.collector.shards.axis
        count = math.gcd(episodes, self.collector.shards.pieces)
        # Too few to share equally: every device plays them all.
        shards = Shards(count, axis if count % self.mesh.shape[DATA] == 0 else None)

        def one(train: TrainState, seed: Array) -> dict[str, Array]:
            env, policy = self.collector.env, PolicyParams.of(train)

            key = hashed(jax.random.fold_in(evaluation_key(seed, steps), part))
            keys = shards.draw(key, lambda k: jax.random.split(k, episodes // count))
            means = summarise(play_greedy(env, self.learner, policy, keys=keys))
            return jax.tree.map(lambda x: x * len(keys) / episodes, means)

        def here(train: TrainState, seeds: Array) -> dict[str, Array]:
            return shards.total(self.side_by_side(one)(train, seeds))

        return self.spread(here, (P(SEED), P(SEED)), P(SEED))(train, self._seeds(seed))


def along(axes: Any, tree: PyTree, f: Callable[[Array], Array]) -> PyTree:
    """``f`` of every array below an axis; what is below None stays. ``axes`` is a prefix."""
    return jax.tree.map(
        lambda axis, part: part if axis is None else jax.tree.map(f, part),
        axes,
        tree,
        is_leaf=lambda x: x is None,
    )


def traced_once(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f``, whose second trace (after one for its shapes) is taken from the first."""
    return jax.jit(f, inline=True)

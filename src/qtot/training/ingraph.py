"""Environments, exploration, replay and learning in one jitted program, several seeds at once,
spread over devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from qtot.config import TrainConfig
from qtot.core.learner import Learner, PolicyParams, TrainState
from qtot.core.methods import method
from qtot.core.replay import Replay
from qtot.core.shards import ALONE, Shards
from qtot.envs.base import JaxEnv
from qtot.envs.dice import hashed, root_key
from qtot.envs.spec import EnvSpec
from qtot.evaluation.episodes import evaluation_key, play_greedy, summarise
from qtot.training.collect import Actors, Collector, Tally
from qtot.training.devices import DATA, SEED, lay_out
from qtot.training.from_replay import FromReplay
from qtot.training.layout import Layout
from qtot.training.learning import Parts
from qtot.training.online import Online
from qtot.training.state import Progress, Rollout, RunState, SeedState
from qtot.types import Key, SequenceStart, Slots


def make_learner(spec: EnvSpec, config: TrainConfig, shards: Shards = ALONE) -> Learner:
    """The learner of a configuration, sized for an environment."""
    return Learner(
        algo=config.algo,
        n_agents=spec.n_agents,
        n_actions=spec.max_actions,
        obs_size=spec.obs_size,
        obs_shape=spec.obs_shape,
        state_size=spec.state_size,
        total_steps=config.optimiser.steps or config.steps,
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
            own_last=config.collectors == "ray",
            shards=shards,
        )
        return Program(config, learner, collector, ring, mesh)

    @property
    def layout(self) -> Layout:
        """Of its seeds, on the devices."""
        return Layout(self.config, self.mesh, self.replay is not None)

    @property
    def parts(self) -> Parts:
        """What learning needs of this program."""
        abreast = self.layout.abreast if self.layout.on_cpu else 0
        return Parts(self.config, self.learner, self.collector, abreast)

    @property
    def online(self) -> Online:
        """Learning from each rollout as it comes."""
        return Online(self.parts)

    @property
    def from_replay(self) -> FromReplay:
        """Learning from what is stored."""
        assert self.replay is not None
        return FromReplay(self.parts, self.replay)

    def init_seed(self, seed: Int[Array, ""]) -> SeedState:
        """The state of one seed before its first step."""
        key = root_key(seed)
        net_key, env_key, run_key = jax.random.split(key, 3)
        train = self.learner.init(net_key)
        actors = self.collector.init(env_key, train.online)
        if self.replay is None:
            return SeedState(train, actors, None, jnp.zeros(()), run_key)
        slot, start = jax.eval_shape(
            lambda: (
                self.collector.peek(run_key, actors, train.online, train.stats, jnp.zeros(())),
                SequenceStart(actors.memory, actors.prev_action),
            )
        )
        replay = self.from_replay.init(slot, start)
        return SeedState(train, actors, replay, jnp.zeros(()), run_key)

    def init(self, seed: Int[Array, ""]) -> RunState:
        """All seeds: ``seed, seed + 1, ...``. An argument, so that one program serves them all."""
        layout = self.layout

        def here(seeds: Array) -> RunState:
            states = layout.side_by_side(self.init_seed, out_axes=layout.axes)(seeds)
            none = jax.tree.map(lambda x: jnp.zeros((len(seeds), *x.shape)), self.no_progress())
            return RunState(states, jnp.zeros((), jnp.int32), none)

        return layout.spread(here, P(SEED), layout.specs)(self._seeds(seed))

    def no_progress(self) -> Progress:
        """Of one seed."""
        zero = jnp.zeros(())
        tally = Tally(zero, zero, zero, zero, dict.fromkeys(self.collector.env.spec.info, zero))
        return Progress(tally, dict.fromkeys(self.learner.quantities, zero), zero)

    def _seeds(self, seed: Int[Array, ""]) -> Int[Array, "seeds"]:
        return seed + jnp.arange(self.config.seeds)

    def collect(
        self, key: Key, actors: Actors, train: TrainState, epsilon: Float[Array, ""]
    ) -> tuple[Actors, Slots, SequenceStart, Tally]:
        """One rollout."""
        return self.collector.collect(key, actors, train.online, train.stats, epsilon)

    def keys(self, state: SeedState, iteration: Int[Array, ""]) -> tuple[Key, Key]:
        """What decides a collection, and what decides the learning after it."""
        collect_key, learn_key = jax.random.split(hashed(jax.random.fold_in(state.key, iteration)))
        return collect_key, learn_key

    def iterate(self, state: SeedState, iteration: Int[Array, ""]) -> tuple[SeedState, Progress]:
        """Collect once, then learn as often as the experience has earned."""
        collect_key, learn_key = self.keys(state, iteration)
        collected = self.collect(
            collect_key, state.actors, state.train, self.learner.epsilon(state.train.env_steps)
        )
        return self.learn(state, learn_key, collected)

    def learn(
        self,
        state: SeedState,
        key: Key,
        collected: tuple[Actors, Slots, SequenceStart, Tally],
    ) -> tuple[SeedState, Progress]:
        """Learn from what a collection brought."""
        actors, slots, start, tally = collected
        # A seed that has taken all its steps stands still while slower ones finish; one alone
        # ends the run.
        alone = self.config.seeds == 1
        active = jnp.ones((), bool) if alone else state.train.env_steps < self.config.steps
        tally = jax.tree.map(lambda x: jnp.where(active, x, 0.0), tally)
        state, rollout = state._replace(actors=actors), Rollout(slots, start, tally, active)
        learning = self.online if state.replay is None else self.from_replay
        return learning.learn(state, key, rollout)

    def chunk(
        self, state: RunState, until: Int[Array, ""], afresh: Bool[Array, ""] | bool = True
    ) -> RunState:
        """Iterate until every seed has taken ``until`` steps; ``afresh`` begins new sums."""
        layout = self.layout
        axes, specs = layout.axes, layout.specs
        step = layout.side_by_side(self.iterate, (axes, None), (axes, 0))

        def least(seeds: SeedState) -> Array:
            """Steps of the seed that has taken fewest, on whatever device."""
            return jax.lax.pmin(jnp.min(seeds.train.env_steps), SEED)

        def here(state: RunState, until: Array, afresh: Array) -> RunState:
            def body(carry: tuple[RunState, Array, Array]) -> tuple[RunState, Array, Array]:
                state, _, afresh = carry
                seeds, new = step(state.seeds, state.iteration)
                state = state.plus(seeds, new, afresh)
                return state, least(state.seeds), jnp.zeros_like(afresh)

            start = (state, least(state.seeds), afresh)
            return jax.lax.while_loop(lambda carry: carry[1] < until, body, start)[0]

        return layout.spread(here, (specs, P(), P()), specs)(state, until, jnp.asarray(afresh))

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
            return shards.total(self.layout.side_by_side(one)(train, seeds))

        return self.layout.spread(here, (P(SEED), P(SEED)), P(SEED))(train, self._seeds(seed))

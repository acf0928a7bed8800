"""Training on environments that Python steps: rollouts come from worker processes, and what is
learned from them is the in-graph program's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from qtot.config import products
from qtot.core.learner import PolicyParams, TrainState
from qtot.envs.host.base import HostEnv
from qtot.envs.host.pool import Pool, make_pool, worker_count
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.evaluation.episodes import summarise
from qtot.evaluation.onhost import greedy_pool, play_on_host
from qtot.evaluation.teams import Together, greedy_program
from qtot.training.acting import Leaves, act_program, acting
from qtot.training.compile import Compiled, compiling, no_collections, placed
from qtot.training.devices import DATA, SEED
from qtot.training.engine import lost
from qtot.training.failures import Failures
from qtot.training.gather import Gatherer
from qtot.training.gathered import Gathered, zeros
from qtot.training.ingraph import Program
from qtot.training.keeping import Resumed
from qtot.training.nans import explained
from qtot.training.resources import check_bytes, check_program
from qtot.training.state import Progress, RunState, SeedState


class OnHost:
    """An ``Engine`` whose environments are worker processes'."""

    def __init__(
        self,
        program: Program,
        init: Any,
        make: Callable[[], HostEnv],
        spec: EnvSpec,
        *,
        nans: bool = False,
    ):
        self.program, self.init, self.make, self.spec = program, init, make, spec
        self.nans = nans
        self.before: tuple[RunState, Gathered] | None = None
        """what the last iteration began with, where NaNs are looked for"""
        self.compile_s = 0.0
        config = program.config
        self.groups = 2 if config.collect.envs % 2 == 0 else 1
        self.steps = np.zeros(config.seeds, np.int32)
        self.failures = Failures()
        self.compiled: dict[str, Future[Compiled]] = {}
        self.pools: dict[str, Pool] = {}
        self.said = False
        self.broken: QtotError | None = None
        """what the next chunk raises"""
        self.learn_s = 0.0

    @property
    def workers(self) -> str:
        """Who steps the environments."""
        host, n = self.program.config.host, self.program.config.collect.envs
        many = worker_count(host, n * self.program.config.seeds)
        where = f"{many} worker process{'es' * (many > 1)}" if many else "this process"
        return f"{n} environments in {where} · episodes are cut after {self.spec.episode_limit}"

    @property
    def certainty(self) -> str:
        """The environments are not ours."""
        return (
            "the seed decides everything as far as the environments obey theirs, and none fails; a "
            "resumed run opens new episodes"
        )

    def begin(self, begun: int) -> None:
        """Begin the workers, which make their environments meanwhile.

        Args:
            begun: the step from which a run goes on; it plays other episodes than from the first.
        """
        program, config = self.program, self.program.config
        pool = self.pools["train"] = make_pool(
            self.make,
            self.spec,
            config.host,
            slots=program.collector.slots,
            n=config.seeds * config.collect.envs,
            groups=self.groups,
            whole=program.collector.whole_episodes,
        )
        memory = self.init.out_info.seeds.actors.memory
        self.gatherer = Gatherer(
            pool,
            program.collector,
            seeds=config.seeds,
            seed=config.seed,
            groups=self.groups,
            memory_size=memory.shape[-1],
        )
        pool.board.salt[:, 3] = begun

    def start(self, resumed: Resumed | None = None) -> RunState:
        """Begin the workers, and build the programs meanwhile."""
        began, program, config = time.perf_counter(), self.program, self.program.config
        self.begin(0 if resumed is None else resumed.step)
        with no_collections():
            shapes = placed(program, self.init.out_info)
            init = compiling(self.init.lower(), runs_once=True)
            rollout = jax.eval_shape(partial(zeros, program.collector), shapes.seeds.actors)
            flag = jax.ShapeDtypeStruct((), np.bool_)
            given = () if self.nans else (0,)
            learn = jax.jit(self.learn, donate_argnums=given).lower(shapes, rollout, flag)
            self.compiled["learn"] = compiling(learn)
            self.noise = jax.jit(self._noise)
            self.act = act_program(
                program.collector,
                PolicyParams.of(self.init.out_info.seeds.train),
                config.seeds,
                products(config),
            )
            state = init.result()(np.int32(config.seed))
            if resumed is not None:
                state = resumed.state(state)
                if program.replay is not None and program.replay.overlap:
                    state = jax.jit(self._severed, donate_argnums=0)(state)
            jax.block_until_ready(state)
        self.keys = jax.tree.map(jnp.copy, state.seeds.key)
        self.iteration = int(state.iteration)
        self.steps = np.array(state.seeds.train.env_steps, np.int32)
        self.warm(state)
        check_program(self.compiled["learn"].result())
        self.compile_s = time.perf_counter() - began
        return state

    def warm(self, state: RunState) -> None:
        """Compile what acting needs, while learning is compiled elsewhere."""
        noise = np.asarray(self.noise(self.keys, np.int32(0)))
        self.gatherer.warm(self.act, self._leaves(state), self.steps, noise[:, 0])

    def _severed(self, state: RunState) -> RunState:
        """The newest rows of the replay were to be followed by rows of episodes that were lost."""
        program, layout = self.program, self.program.layout

        def here(state: RunState) -> RunState:
            each = layout.side_by_side(program.from_replay.severed, (layout.axes,), layout.axes)
            return state._replace(seeds=each(state.seeds))

        return layout.spread(here, (layout.specs,), layout.specs)(state)

    def learn(self, state: RunState, rollout: Gathered, afresh: Array) -> RunState:
        """Learn from a rollout of all seeds; traced."""
        program, layout = self.program, self.program.layout
        axes, specs = layout.axes, layout.specs

        def one(seed: SeedState, iteration: Array, given: Gathered) -> tuple[SeedState, Progress]:
            return program.learn(seed, program.keys(seed, iteration)[1], given)

        def here(state: RunState, given: Gathered, afresh: Array) -> RunState:
            each = layout.side_by_side(one, (axes, None, 0), (axes, 0))
            seeds, new = each(state.seeds, state.iteration, given)
            return state.plus(seeds, new, afresh)

        where = Gathered(P(SEED, DATA), P(SEED, None, DATA), P(SEED, DATA), P(SEED))  # pyright: ignore[reportArgumentType]
        return layout.spread(here, (specs, where, P()), specs)(state, rollout, afresh)

    def _noise(self, keys: Array, iteration: Array) -> Float[Array, "seeds T 2 E N"]:
        """What exploration draws in a rollout: as much, and the same, as in the graph."""
        program = self.program

        def one(key: Array, iteration: Array) -> Array:
            seed = SeedState(None, None, None, None, key)  # pyright: ignore[reportArgumentType]
            act_key = jax.random.split(program.keys(seed, iteration)[0], 3)[1]
            return program.collector.noise(act_key, program.collector.slots)

        each = program.layout.side_by_side(one, (0, None))
        where = P(SEED, None, None, DATA)
        return program.layout.spread(each, (P(SEED), P()), where)(keys, iteration)

    def chunk(
        self,
        state: RunState,
        until: int,
        pause: Callable[[], bool] = lambda: False,
        *,
        afresh: bool = True,
    ) -> RunState:
        """Rollouts and learning in turns. What ends a run is raised while ``state`` is still whole:
        if something was learned before, that is returned, and the next call raises.
        """
        if self.broken is not None:
            raise self.broken
        learned = False
        while self.steps.min() < until and not (learned and pause()):
            try:
                gathered = self.collected(state)
            except QtotError as error:
                if not learned:
                    raise
                self.broken = error
                break
            if not self.iteration:
                check_bytes(self.program.config, gathered.slots)
            if self.nans:
                self.before = state, gathered
            began = time.perf_counter()
            state = self.compiled["learn"].result()(state, gathered, afresh and not learned)
            self.steps = np.array(state.seeds.train.env_steps)
            self.learn_s += time.perf_counter() - began
            self.iteration += 1
            learned = True
            if self.nans and lost(state):
                break
        return state

    def explain(self, seed: int) -> str:
        """From the last iteration, once more."""
        assert self.before is not None
        state, gathered = self.before
        one = jax.tree.map(lambda x: x[seed], gathered)
        return explained(self.program, state, seed, one)

    def collected(self, state: RunState) -> Gathered:
        """The next rollout.

        Raises:
            QtotError: the environments fail again and again.
        """
        noise = np.asarray(self.noise(self.keys, np.int32(self.iteration)))
        try:
            return self.gatherer.gather(self.act, self._leaves(state), self.steps, noise)
        finally:
            self.failures.hear(self.pools["train"].failures)

    def _leaves(self, state: RunState) -> Leaves:
        """Of the policies of all seeds, on one device, where acting is quick."""
        policies = acting(self.program.collector, PolicyParams.of(state.seeds.train))
        leaves = jax.tree.leaves(policies)
        if self.program.mesh.shape[SEED] == 1:
            return [x.addressable_data(0) for x in leaves]
        return jax.device_put(leaves, jax.local_devices()[0])

    def evaluate(self, train: TrainState, steps: int, part: int) -> dict[str, np.ndarray]:
        """One seed after another, in environments of their own."""
        config = self.program.config
        episodes = config.evaluation.episodes
        if "evaluate" not in self.pools:
            self.pools["evaluate"] = greedy_pool(self.make, self.spec, config, episodes)
            self.greedy = greedy_program([self.program.learner], products(config))
        pool, means = self.pools["evaluate"], []
        try:
            for i in range(config.seeds):
                policy = jax.tree.map(lambda x: np.asarray(x[i]), PolicyParams.of(train))  # noqa: B023
                policy = jax.device_put(policy)  # once, not at every slot
                played = play_on_host(
                    pool,
                    partial(Together, self.greedy, (policy,)),
                    episodes=episodes,
                    salt=(config.seed + i, steps, part),
                )
                means.append(summarise(played))
        finally:
            self.failures.hear(pool.failures)
        return {k: np.array([m[k] for m in means]) for k in means[0]}

    def split(self, state: RunState, left_s: float) -> dict[str, float] | None:
        """Since the beginning: what the training process waited for, or did; said again at the
        end.
        """
        if self.said and left_s > 0:
            return None
        self.said = True
        seconds = {**self.seconds, "learner": self.learn_s}
        names = ("environment", "policy", "transfer", "learner")
        return {k: seconds[k] / sum(seconds.values()) for k in names if k in seconds}

    @property
    def seconds(self) -> dict[str, float]:
        """By the part of collecting that was waited for."""
        return self.gatherer.seconds

    def told(self) -> list[str]:
        """Environments and workers that failed."""
        return self.failures.told()

    def counts(self) -> dict[str, int]:
        """How often they did."""
        return self.failures.counts()

    def counted(self, counts: dict[str, int]) -> None:
        """How often they had when a run that goes on was left."""
        self.failures.counted(counts)

    def close(self) -> None:
        """End the workers."""
        for pool in self.pools.values():
            pool.close()

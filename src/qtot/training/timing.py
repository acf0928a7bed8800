"""Timing the parts of an iteration apart, once, while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from qtot.envs.dice import hashed
from qtot.training.compile import Compiled, compiling
from qtot.training.devices import SEED
from qtot.training.ingraph import Program
from qtot.training.state import Rollout, RunState, SeedState

WORTH_IT = 60.0
"""seconds that a run must have left for its parts to be compiled beside it"""


class TimeSplit:
    """Shares of environment, policy and learner, from programs compiled while training goes on."""

    def __init__(self, program: Program):
        self.program = program
        self.jobs: dict[str, Future[Compiled]] | None = None
        self.done = False

    def when_known(self, state: RunState, left_s: float) -> dict[str, float] | None:
        """Between two chunks: begin, or measure if all is compiled (about a second); None else."""
        if self.done:
            return None
        if self.jobs is None:
            if left_s >= WORTH_IT:
                lowered = {k: jax.jit(f).lower(state) for k, f in parts(self.program).items()}
                self.jobs = {k: compiling(program) for k, program in lowered.items()}
            return None
        if not all(job.done() for job in self.jobs.values()):
            return None
        self.done = True
        return time_split(self.program, {k: job.result() for k, job in self.jobs.items()}, state)


def parts(program: Program) -> dict[str, Callable[[RunState], Any]]:
    """An iteration's pieces, each for all seeds: ``collect`` (environment and policy), ``policy``
    (as many slots of acting alone), ``update`` (sampling and one optimiser step; online, all that
    a rollout is learned from).
    """

    def collect(seed: SeedState) -> Any:
        return program.collect(seed.key, seed.actors, seed.train, jnp.ones(()))[1]

    def policy(seed: SeedState) -> Array:
        envs, agents = seed.actors.prev_action.shape
        obs = jnp.zeros((envs, agents, program.learner.obs_size))
        first = jnp.zeros(envs, bool)
        obs = program.learner.see(seed.train.stats, obs)

        def slot(memory: Array, _: Any) -> tuple[Array, Array]:
            q, memory = seed.train.online.step(obs, seed.actors.prev_action, first, memory)
            return memory, jnp.argmax(q, axis=-1)

        return jax.lax.scan(slot, seed.actors.memory, None, length=program.collector.slots)[1]

    def update(seed: SeedState) -> Any:
        if seed.replay is not None:
            return program.from_replay.update(seed.train, seed.replay, seed.key)[0].online
        shapes = jax.eval_shape(
            lambda: program.collect(seed.key, seed.actors, seed.train, jnp.ones(()))[1:]
        )
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        rollout = Rollout(*nothing, active=jnp.ones((), bool))
        return program.online.learn(seed, seed.key, rollout)[0].train.online

    return {
        name: over_seeds(program, f)
        for name, f in (("collect", collect), ("policy", policy), ("update", update))
    }


def over_seeds(
    program: Program, one: Callable[[SeedState], Any]
) -> Callable[[RunState], Float[Array, "seeds"]]:
    """A piece of every seed's iteration, on its devices; returns a number that needs all of it."""
    layout = program.layout

    def read(seed: SeedState) -> Array:
        seed = seed._replace(key=hashed(seed.key))  # as in an iteration
        arrays = (x.astype(jnp.float32) for x in jax.tree.leaves(one(seed)) if x.size)
        return sum((jnp.sum(x) for x in arrays), jnp.zeros(()))

    def here(state: RunState) -> Array:
        return layout.side_by_side(read, (layout.axes,))(state.seeds)

    return layout.spread(here, (layout.specs,), P(SEED))


def time_split(
    program: Program, compiled: dict[str, Callable[..., Any]], state: RunState
) -> dict[str, float]:
    """Shares of environment, policy and learner in an iteration; the median of five runs each."""

    def seconds(name: str) -> float:
        jax.block_until_ready(compiled[name](state))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(compiled[name](state))
            times.append(time.perf_counter() - began)
        return sorted(times)[2]

    config = program.config.collect
    if program.replay is None:
        updates = 1.0
    elif config.update_unit == "episode":
        updates = config.envs * config.update_ratio
    else:
        updates = config.envs * program.collector.slots * config.update_ratio
    policy = seconds("policy")
    times = {
        "environment": max(seconds("collect") - policy, 0.0),
        "policy": policy,
        "learner": seconds("update") * updates,
    }
    return {name: t / sum(times.values()) for name, t in times.items()}

"""Greedy episodes on demand, wherever the environment is stepped, and whoever acts."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import jax

from qtot.config import TrainConfig, products
from qtot.core.learner import Learner, PolicyParams
from qtot.envs import jax_env
from qtot.envs.base import JaxEnv
from qtot.envs.host.base import HostEnv
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotWarning
from qtot.evaluation.episodes import Episodes, evaluation_key, play_greedy, stepwise
from qtot.evaluation.onhost import greedy_pool, play_on_host
from qtot.evaluation.teams import Team, Together, greedy_program
from qtot.types import Key

Play = Callable[[PolicyParams, int, int], Episodes]
"""greedy episodes of a policy; a seed and a number choose them"""
Stage = Callable[[Callable[[int], Team], int, int], Episodes]
"""episodes of a team, which is made for so many side by side; a seed and a number choose them"""


@functools.lru_cache(maxsize=8)
def by_name(env: str, learner: Learner, episodes: int) -> Play:
    """One program for every call that asks for the same: a second evaluation compiles nothing."""
    return in_graph(jax_env(env), learner, episodes)


def in_graph(env: JaxEnv, learner: Learner, episodes: int) -> Play:
    """In as many copies of an environment written in JAX."""

    @jax.jit
    def play(params: PolicyParams, key: Key) -> Episodes:
        return play_greedy(env, learner, params, keys=jax.random.split(key, episodes))

    return lambda params, seed, index: play(params, evaluation_key(seed, index))


def stage_in_graph(env: JaxEnv, episodes: int) -> Stage:
    """The same episodes for whoever acts outside of the graph."""
    run = stepwise(env)
    return lambda team, seed, index: run(team(episodes), evaluation_key(seed, index), episodes)


@contextlib.contextmanager
def stage_on_host(
    make: Callable[[], HostEnv],
    spec: EnvSpec,
    config: TrainConfig,
    episodes: int,
    *,
    depth: int = 4,
) -> Iterator[Stage]:
    """In environments that Python steps, and that are closed in the end; warns of their failures.

    Args:
        make: one environment.
        spec: what it is.
        config: of the run.
        episodes: of each team.
        depth: calls between whoever is warned and here.
    """
    pool = greedy_pool(make, spec, config, episodes)
    try:
        yield lambda team, seed, index: play_on_host(
            pool, team, episodes=episodes, salt=(seed, index, 0)
        )
        if pool.failures:
            warnings.warn(
                f"the environments failed {len(pool.failures)} times, and these episodes do not "
                f"count; the last: {pool.failures[-1].what}",
                QtotWarning,
                stacklevel=depth,
            )
    finally:
        pool.close()


@contextlib.contextmanager
def on_host(
    make: Callable[[], HostEnv],
    spec: EnvSpec,
    learner: Learner,
    config: TrainConfig,
    episodes: int,
) -> Iterator[Play]:
    """Greedy episodes there, of a learner's policies."""
    program = greedy_program([learner], products(config))
    with stage_on_host(make, spec, config, episodes, depth=6) as stage:
        yield lambda params, seed, index: stage(partial(Together, program, (params,)), seed, index)

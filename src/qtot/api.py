"""The Python API: ``train``, ``evaluate``, ``load``."""

from __future__ import annotations

import contextlib
import functools
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtot.config import TrainConfig, nested_replace, products
from qtot.core.learner import Learner, PolicyParams
from qtot.envs import OWN, family_of, is_in_graph, jax_env, make_env
from qtot.envs.base import JaxEnv
from qtot.envs.check_any import check_any
from qtot.envs.host.config import HostConfig
from qtot.envs.host.own import own_name
from qtot.envs.host.pool import make_pool
from qtot.envs.report import Report
from qtot.errors import QtotError
from qtot.evaluation.episodes import Episodes, evaluation_key, play_greedy, summarise
from qtot.evaluation.onhost import SLOTS, greedy_program, play_on_host
from qtot.evaluation.policy import Memory, Policy
from qtot.presets import preset_config
from qtot.process import prepare
from qtot.store.run_folder import RunFolder, Which
from qtot.training.ingraph import make_learner
from qtot.training.loop import run_training
from qtot.training.world import World
from qtot.types import Key

__all__ = [
    "Memory",
    "Policy",
    "QtotError",
    "Run",
    "check_env",
    "evaluate",
    "load",
    "make_env",
    "train",
    "train_config",
]


prepare()  # before the first array; the command has done it by now, with what its flags said

FRESH = 2**31  # evaluation indices that training does not use


class Run:
    """A finished (or stopped) run: its configuration, metrics, results and agents."""

    def __init__(self, folder: RunFolder, which: Which = "last", env: Any = None):
        self._folder, self._env = folder, env
        self.which: Which = which
        self.path = folder.path
        self.config, self.spec = folder.facts()
        self.learner = make_learner(self.spec, self.config)
        self.seeds = tuple(range(self.config.seed, self.config.seed + self.config.seeds))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``, one dict per seed and log."""
        return self._folder.metrics()

    def result(self) -> list[dict[str, Any]]:
        """The closing table, one row per seed; empty when the run was stopped early."""
        return self._folder.result()

    def params(self, seed: int | None = None) -> PolicyParams:
        """Networks (agents and mixer) and statistics of one seed.

        Raises:
            QtotError: no such seed here, or its file is missing or damaged.
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds:
            raise QtotError(f"run {self.path} has no seed {seed}; it has {list(self.seeds)}")
        template = jax.eval_shape(lambda: PolicyParams.of(self.learner.init(jax.random.key(0))))
        return jax.device_put(self._folder.load(self.which, seed, template))

    def agent(self, name: str, seed: int | None = None) -> Policy:
        """One agent of one seed (the first unless said otherwise), to act alone."""
        params = self.params(seed)
        return Policy(self.spec, self.learner, params.online.agent, params.stats, name)

    def world_of(self, env: Any = None) -> Any:
        """What to open as this run's environment: ``env``, or what was trained on.

        Raises:
            QtotError: that is code of the user's own, which a run folder may only name.
        """
        env = self._env if env is None else env
        if env is None and family_of(self.config.env) == OWN:
            raise QtotError(
                f"run {self.path} was trained on {self.config.env!r}, an environment of your own, "
                "which is imported only if you name it again: with --env, or evaluate(run, env=...)"
            )
        return self.config.env if env is None else env

    def world(self, target: Any) -> World:
        """An environment, opened, that this run's agents can act in.

        Raises:
            QtotError: it has other sizes.
        """
        world = World.open(target, self.config.host)
        for size in ("n_agents", "obs_size", "max_actions", "obs_shape"):
            got, expected = getattr(world.spec, size), getattr(self.spec, size)
            if got != expected:
                raise QtotError(
                    f"environment {world.spec.name} has {size} {got}, but run {self.path} was "
                    f"trained with {expected}"
                )
        return world

    def __repr__(self) -> str:
        c = self.config
        return f"Run({str(self.path)!r}, {c.algo} on {c.env}, seeds {list(self.seeds)})"


def train(
    env: Any = "smax/3m",
    algo: str = "qmix",
    *,
    steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    preset: str = "default",
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train a team and return its run.

    Args:
        env: ``family/task``, such as ``smax/3m``; ``package.module:factory``; or an environment of
            your own, or a function that makes one (PettingZoo, Gymnasium with tuple spaces, the
            SMAC API, a ``JaxEnv`` or a ``HostEnv``).
        algo: a method, such as ``qmix``, ``vdn``, ``iql``.
        steps: environment steps of each seed; None takes the preset's.
        seeds: how many independent seeds to train at once.
        seed: the first of them.
        preset: ``default`` or ``paper``.
        out: a new folder for the run; None makes one under ``runs/``.
        quiet: print nothing.
        **options: parts of the configuration, such as ``agent={"hidden": 128}``.

    Raises:
        QtotError: something here is misspelt, impossible, or does not fit in memory.
    """
    name = env if isinstance(env, str) else own_name(env)
    config = preset_config(name, algo, preset, options.get("data"))
    changes = {"seeds": seeds, "seed": seed, **options}
    if steps is not None:
        changes["steps"] = steps
    given = None if isinstance(env, str) else env
    return train_config(nested_replace(config, changes), out, env=given, quiet=quiet)


def train_config(
    config: TrainConfig, out: str | Path | None = None, *, env: Any = None, quiet: bool = False
) -> Run:
    """Train what a complete configuration says, on ``env`` where that is no name."""
    path = Path(out) if out else new_folder(config)
    return Run(run_training(config, path, env=env, quiet=quiet), env=env)


def new_folder(config: TrainConfig) -> Path:
    """A folder of its own below ``runs/``, named after task, method and time."""
    env = re.sub(r"[^\w.-]+", "-", config.env)
    name = f"{env}-{config.algo}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, n = Path("runs") / name, 1
    while path.exists():
        path, n = Path("runs") / f"{name}-{n}", n + 1
    return path


def load(path: str | Path, which: Which = "last") -> Run:
    """A run from its folder, with its last or its best parameters.

    Raises:
        QtotError: that is no run folder, or it is damaged.
    """
    if which not in ("last", "best"):
        raise QtotError(f"which must be 'last' or 'best', got {which!r}")
    return Run(RunFolder.open(Path(path)), which)


def evaluate(
    run: Run | str | Path, episodes: int = 256, *, seed: int = 0, env: Any = None
) -> list[dict[str, float]]:
    """Greedy episodes, the mixer out of sight, on keys that training never used.

    Args:
        run: a run or its folder.
        episodes: episodes per seed of the run, each in an environment of its own (in Python, as
            many at once as the run collected from).
        seed: another number plays other episodes.
        env: the environment, or a factory of it, where it is code of your own: what a run folder
            names is imported only if you name it again.

    Returns:
        One dict per seed of the run: ``seed``, ``episodes``, ``return`` (mean), ``return_std``,
        ``length``, and ``win_rate`` or the task's other scalars.

    Raises:
        QtotError: no run there, no positive number of episodes, or another environment.
    """
    run = run if isinstance(run, Run) else load(run)
    if not isinstance(seed, int) or not 0 <= seed < FRESH:
        raise QtotError(f"seed must be a whole number from 0 to 2**31 - 1, got {seed!r}")
    if not isinstance(episodes, int) or episodes < 1:
        raise QtotError(f"episodes must be a whole number of at least 1, got {episodes!r}")
    target = run.world_of(env)
    named = isinstance(target, str) and is_in_graph(target)
    # Opening it checks the sizes, which those of the run's own environment fit.
    world = None if named and target == run.config.env else run.world(target)
    rows = []
    with contextlib.ExitStack() as stack:
        if world is None:
            play = _player(target, run.learner, episodes)
        elif world.make is None:
            play = _program(world.in_graph, run.learner, episodes)
        else:
            play = stack.enter_context(_on_host(world, run, episodes))
        for s in run.seeds:
            with jax.default_matmul_precision(products(run.config)):
                played = play(run.params(s), s, FRESH + seed)
            means = {k: float(v) for k, v in summarise(played).items()}
            spread = float(np.std(played.episode_return))
            rows.append({"seed": s, "episodes": episodes, **means, "return_std": spread})
    return rows


Play = Callable[[PolicyParams, int, int], Episodes]
"""greedy episodes of a policy; a seed and a number choose them"""


@functools.lru_cache(maxsize=8)
def _player(env: str, learner: Learner, episodes: int) -> Play:
    """One program for every call that asks for the same: a second evaluation compiles nothing."""
    return _program(jax_env(env), learner, episodes)


def _program(env: JaxEnv, learner: Learner, episodes: int) -> Play:
    @jax.jit
    def play(params: PolicyParams, key: Key) -> Episodes:
        return play_greedy(env, learner, params, keys=jax.random.split(key, episodes))

    return lambda params, seed, index: play(params, evaluation_key(seed, index))


@contextlib.contextmanager
def _on_host(world: World, run: Run, episodes: int) -> Iterator[Play]:
    assert world.make is not None
    act, config = greedy_program(run.learner, products(run.config)), run.config
    pool = make_pool(
        world.make,
        world.spec,
        config.host_here,
        slots=SLOTS,
        n=min(episodes, config.collect.envs),
        groups=1,
        whole=False,
    )
    try:
        yield lambda params, seed, index: play_on_host(
            pool, act, params, episodes=episodes, salt=(seed, index, 0)
        )
        if pool.failures:
            warnings.warn(
                f"the environments failed {len(pool.failures)} times, and these episodes do not "
                f"count; the last: {pool.failures[-1].what}",
                stacklevel=4,
            )
    finally:
        pool.close()


def check_env(
    env: Any,
    *,
    steps: int | None = None,
    envs: int = 8,
    seed: int = 0,
    host: HostConfig | None = None,
) -> Report:
    """Plays an environment at random legal actions, and says all that is wrong with it.

    Args:
        env: a JaxEnv, a HostEnv, a name such as ``smax/3m``, or what makes an environment.
        steps: to play; None: some episodes' worth.
        envs: copies of a JaxEnv, played side by side.
        seed: decides episodes and actions.
        host: how one in Python is made, where it is named.

    Returns:
        A report to print; ``report.ok`` if training would not break, ``report.problems``.

    Raises:
        QtotError: there is no such environment.
    """
    return check_any(env, steps=steps, seed=seed, config=host, envs=envs)


def print_evaluation(rows: Sequence[dict[str, float]]) -> None:
    """A table of what ``evaluate`` returned."""
    from qtot.training.display import evaluation_table

    evaluation_table(rows)

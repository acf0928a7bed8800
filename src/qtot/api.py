"""The Python API: ``train``, ``evaluate``, ``load``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from qtot.config import TrainConfig, nested_replace, products
from qtot.envs import make_env
from qtot.envs.check_any import check_any
from qtot.envs.host.config import HostConfig
from qtot.envs.host.own import own_name
from qtot.envs.report import Report
from qtot.errors import QtotError
from qtot.evaluation.episodes import FRESH, summarise
from qtot.evaluation.policy import Memory, Policy
from qtot.exporting.folder import Weights
from qtot.playing import Played, play_run
from qtot.presets import preset_config
from qtot.process import prepare
from qtot.pymarl.convert import Asked, import_run
from qtot.recording import Recorded, record_run
from qtot.reporting.files import check_page, write_report
from qtot.reporting.page import make_report
from qtot.reporting.sweeps import read_all
from qtot.runs import Run
from qtot.shipping import Parity, export_run
from qtot.store.run_folder import RunFolder, Which, new_folder
from qtot.training.hosts import together
from qtot.training.launch import resume_training, run_training

__all__ = [
    "Memory",
    "Policy",
    "QtotError",
    "Run",
    "check_env",
    "evaluate",
    "export",
    "import_pymarl",
    "load",
    "make_env",
    "play",
    "record",
    "render",
    "report",
    "resume",
    "train",
    "train_config",
]


prepare()  # before the first array; the command has done it by now, with what its flags said


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
    track: Sequence[str] = (),
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
        track: trackers that get the metrics as well: ``tensorboard``, ``wandb``, ``mlflow``.
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
    config = nested_replace(config, changes)
    return train_config(config, out, env=given, quiet=quiet, track=track)


def train_config(
    config: TrainConfig,
    out: str | Path | None = None,
    *,
    env: Any = None,
    quiet: bool = False,
    debug_nans: bool = False,
    track: Sequence[str] = (),
) -> Run:
    """Train what a complete configuration says, on ``env`` where that is no name."""
    path = Path(out) if out else new_folder(config)
    folder = run_training(config, path, env=env, quiet=quiet, nans=debug_nans, trackers=track)
    return Run(folder, env=env, trust=True)


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    reschedule: bool = False,
    env: Any = None,
    trust: bool = False,
    quiet: bool = False,
    debug_nans: bool = False,
    track: Sequence[str] = (),
) -> Run:
    """Go on with a run that was stopped, or take a finished one further.

    Args:
        path: its folder.
        steps: environment steps of each seed at the end; None: as many as were asked for. Schedules
            stay as they were.
        reschedule: let the learning rate's schedule end with the new steps.
        env: the environment, or a factory of it, where it is code of your own.
        trust: import the code that the run folder names.
        quiet: print nothing.
        debug_nans: look for the operation that makes the first number that is none; slow.
        track: trackers besides those that the run has; one that sends what it gets is to be named
            again.

    Raises:
        QtotError: no run there, no whole checkpoint in it, nothing left to do, or another
            environment.
    """
    with together():
        folder = RunFolder.open(Path(path))
        run = Run(folder, env=env, trust=trust)
        run.check_module()
        run.check_cluster()
        target = run.world_of(env)
    given = None if isinstance(target, str) and target == run.config.env else target
    resume_training(
        folder,
        steps=steps,
        reschedule=reschedule,
        env=given,
        quiet=quiet,
        nans=debug_nans,
        trackers=track,
    )
    return Run(folder, env=env, trust=True)


def load(path: str | Path, which: Which = "last", *, trust: bool = False) -> Run:
    """A run from its folder, with its last or its best parameters.

    Args:
        path: its folder.
        which: parameters.
        trust: import the code that the folder names, where the environment or a part of the
            agents' network is code of your own.

    Raises:
        QtotError: that is no run folder, or it is damaged.
    """
    if which not in ("last", "best"):
        raise QtotError(f"which must be 'last' or 'best', got {which!r}")
    return Run(RunFolder.open(Path(path)), which, trust=trust)


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
    _check_episodes(episodes, seed)
    rows = []
    with run.playing(episodes, env) as play:
        for s in run.seeds:
            with jax.default_matmul_precision(products(run.config)):
                played = play(run.params(s), s, FRESH + seed)
            means = {k: float(v) for k, v in summarise(played).items()}
            spread = float(np.std(played.episode_return))
            rows.append({"seed": s, "episodes": episodes, **means, "return_std": spread})
    return rows


def _check_episodes(episodes: Any, seed: Any) -> None:
    if not isinstance(seed, int) or not 0 <= seed < FRESH:
        raise QtotError(f"seed must be a whole number from 0 to 2**31 - 1, got {seed!r}")
    if not isinstance(episodes, int) or episodes < 1:
        raise QtotError(f"episodes must be a whole number of at least 1, got {episodes!r}")


def record(
    run: Run | str | Path, episodes: int = 4, *, seed: int = 0, env: Any = None
) -> list[Recorded]:
    """Greedy episodes with all that the networks say of them, into the run folder, for reports.

    Args:
        run: a run or its folder.
        episodes: how many of each seed of the run: the first that ``evaluate`` plays.
        seed: another number plays other episodes.
        env: the environment, or a factory of it, where it is code of your own.

    Returns:
        Of each seed, whether its decentralised greedy actions are jointly greedy, and how large the
        mixer's slopes are.

    Raises:
        QtotError: no run there, another environment, or they cannot be written.
    """
    run = run if isinstance(run, Run) else load(run)
    _check_episodes(episodes, seed)
    return record_run(run, episodes, env=env, index=seed)


def report(
    runs: Run | str | Path | Sequence[Run | str | Path],
    out: str | Path = "report.html",
    *,
    episodes: int = 2,
) -> list[Path]:
    """One page of runs: curves, tables, episodes; and its numbers in files beside it.

    Args:
        runs: runs or their folders, or folders in which run folders lie.
        out: the page.
        episodes: recorded now of the first seed of every method on a task of which none were; 0
            records none.

    Returns:
        What was written: the page, ``.csv``, ``.tables.json`` and ``.marl-eval.json``.

    Raises:
        QtotError: a run is missing or damaged, or the page cannot be written.
    """
    if not isinstance(episodes, int) or episodes < 0:
        raise QtotError(f"episodes must be a whole number of at least 0, got {episodes!r}")
    check_page(Path(out))
    several = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    paths = [one.path if isinstance(one, Run) else Path(one) for one in several]
    known = {one.path: one for one in several if isinstance(one, Run)}
    notes = []
    for group in read_all(paths)[0] if episodes else ():
        if any(r.folder.has_record(s.seed) for r in group.runs for s in r.seeds):
            continue
        first = group.runs[0]
        try:
            run = known.get(first.path) or load(first.path)
            record_run(run, episodes, seeds=[first.seeds[0].seed])
        except QtotError as error:
            notes.append(f"No episodes of {first.path} were recorded: {error}")
    return write_report(make_report(paths, notes), Path(out))


def render(
    run: Run | str | Path,
    out: str | Path,
    *,
    episode: int = 0,
    policy_seed: int | None = None,
    fps: float = 8.0,
    env: Any = None,
) -> int:
    """One greedy episode as a moving picture, drawn without a screen.

    Args:
        run: a run or its folder.
        out: ``.gif``, or ``.mp4`` with ``qtot[video]``.
        episode: of those that ``record`` wrote; it records now where none were, or those of other
            parameters.
        policy_seed: of the run; None: the first.
        fps: steps per second.
        env: the environment to record in, where it is code of your own.

    Returns:
        The number of frames.

    Raises:
        QtotError: no run there, no such episode, or it cannot be written.
    """
    from qtot.reporting.episodes import read_checked
    from qtot.reporting.film import check_film, write_film
    from qtot.reporting.read import read_run

    run = run if isinstance(run, Run) else load(run)
    seed = run.seed_or_first(policy_seed)
    if not isinstance(fps, int | float) or not isinstance(episode, int) or episode < 0:
        raise QtotError(f"expected numbers, got fps {fps!r} and episode {episode!r}")
    check_film(Path(out), fps)
    read = read_run(run.path)
    facts = read.folder.read_record(seed)[0] if read.folder.has_record(seed) else {}
    fresh = facts.get("which") == run.which and facts.get("params") == run.digest(seed)
    if not fresh or env is not None:
        record_run(run, max(4, episode + 1), env=env, seeds=[seed])
    return write_film(read, read_checked(read, seed), episode, Path(out), fps)


def play(
    run: Run | str | Path,
    episodes: int = 8,
    *,
    agents: Mapping[str, Run | str | Path] | None = None,
    decentralised: bool = False,
    env: Any = None,
    policy_seed: int | None = None,
    seed: int = 0,
) -> Played:
    """Greedy episodes, one by one; the mixer out of sight.

    Args:
        run: a run or its folder.
        episodes: how many.
        agents: other runs, or their folders, whose agents play for those of these names.
        decentralised: each agent in an operating-system process of its own, which is sent nothing
            but its own observation; needs ``qtot[onnx]``.
        env: another environment of the same shape, or one of your own.
        policy_seed: of the run, whose policies play; None: the first.
        seed: another number plays other episodes.

    Returns:
        ``episodes``, one dict each, and with ``decentralised`` the ``agreement`` with the joint
        actions that the same agents choose together.

    Raises:
        QtotError: no run there, agents that do not fit, or another environment.
    """
    run = run if isinstance(run, Run) else load(run)
    _check_episodes(episodes, seed)
    given = agents or {}
    loaded = {one: load(one) for one in given.values() if not isinstance(one, Run)}
    others = {n: one if isinstance(one, Run) else loaded[one] for n, one in given.items()}
    return play_run(
        run,
        episodes,
        others=others,
        decentralised=decentralised,
        env=env,
        seed=policy_seed,
        index=seed,
    )


def agents_of(said: str | None, *, which: Which = "last", trust: bool = False) -> dict[str, Run]:
    """``A=RUN1,B=RUN2`` as runs by the names of agents; one run that is named twice is one.

    Raises:
        QtotError: that is no such list, or there is no such run.
    """
    named: dict[str, str] = {}
    for part in said.split(",") if said else ():
        name, equals, path = (x.strip() for x in part.partition("="))
        if not (name and equals and path) or name in named:
            raise QtotError(f"--agents must look like A=RUN1,B=RUN2, got {said!r}")
        named[name] = path
    runs = {path: load(path, which, trust=trust) for path in dict.fromkeys(named.values())}
    return {name: runs[path] for name, path in named.items()}


def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    weights: Weights = "float32",
    policy_seed: int | None = None,
    env: Any = None,
) -> Parity:
    """Write each agent of a run as a policy that acts alone, for ``qtot.deploy``.

    Args:
        run: a run or its folder.
        out: a new folder.
        weights: ``float32`` is exact; ``float16`` and ``int8`` are smaller, and are measured in
            greedy episodes.
        policy_seed: of the run, whose policies they are; None: the first.
        env: the environment to measure in, where it is code of your own.

    Returns:
        How the exported networks' answers compare with those of training's.

    Raises:
        QtotError: no run there, packages are missing (``qtot[onnx]``), or it cannot be written.
    """
    run = run if isinstance(run, Run) else load(run)
    if weights not in get_args(Weights):
        raise QtotError(f"weights must be one of {', '.join(get_args(Weights))}, got {weights!r}")
    return export_run(run, Path(out), seed=policy_seed, weights=weights, env=env)


def import_pymarl(
    models: str | Path,
    out: str | Path,
    *,
    env: str | None = None,
    algo: str | None = None,
    n_agents: int | None = None,
    inputs: str | None = None,
) -> Run:
    """A run made of what PyMARL or EPyMARL saved, without torch.

    Args:
        models: a folder with ``agent.th``; beside it ``mixer.th`` (QMIX, VDN) or ``critic.th``
            (COMA).
        out: the new run folder.
        env: the environment's name; None leaves it unknown, to be named when it is played.
        algo: the method, where that is not what the files say.
        n_agents: of the team, where neither a mixer nor ``env`` says it.
        inputs: what the agents were fed, such as ``obs+last_action+agent_id``, where ``env`` does
            not say it.

    Raises:
        QtotError: the files are damaged or hold something else, or do not fit what is asked.
    """
    import_run(Path(models), Path(out), Asked(env, algo, n_agents, inputs))
    return load(out)


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

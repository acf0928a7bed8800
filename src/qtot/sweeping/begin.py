"""A sweep as it is asked for: begun, or gone on with if it is the one that lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtot.config import TrainConfig
from qtot.errors import QtotError
from qtot.space import Space, differences
from qtot.store.files import make_folder
from qtot.store.run_folder import is_run
from qtot.store.sweep_folder import Goal, Sweep, held, is_sweep, read_sweep, write_sweep
from qtot.sweeping.search import Search, Settings
from qtot.sweeping.suggest import optuna
from qtot.sweeping.value import check_metric
from qtot.tracking.base import asked_for


def sweep(
    path: Path,
    config: TrainConfig,
    space: Space,
    settings: Settings,
    *,
    metric: str | None = None,
    goal: Goal = "max",
    prune: bool = False,
) -> Sweep:
    """Begin a sweep, or go on with it, until it has all its trials.

    Args:
        path: its folder.
        config: of every trial but for what is searched.
        space: what is searched.
        settings: how many trials, how many at once, and who gets their metrics.
        metric: what is optimised; None: the win rate where the task has one, else the return.
        goal: whether more of it is better, or less.
        prune: stop trials that are worse than most.

    Raises:
        QtotError: something here is impossible, or needs a package that is missing; ``path`` holds
            a run or another sweep, or cannot be written; or trial after trial fails.
        KeyboardInterrupt: after every trial has been saved.
    """
    for name, count in (("trials", settings.trials), ("jobs", settings.jobs)):
        if count is not None and count < 1:
            raise QtotError(f"--{name} must be a whole number of at least 1, got {count}")
    check_metric(metric)
    optuna()
    asked_for(settings.track)
    if is_run(path) and not is_sweep(path):
        raise QtotError(f"{path} holds a run; choose another --out")
    asked = Sweep(make_folder(path), config, space, metric, goal, prune)
    with held(path):
        if is_sweep(path):
            asked = _same(read_sweep(path), asked)
        else:
            write_sweep(asked)
        return Search(asked, settings).run()


def _same(found: Sweep, asked: Sweep) -> Sweep:
    """The one that was found, if it is the one that is asked for.

    Raises:
        QtotError: it is another; says the first difference.
    """
    changed = differences(found.config, asked.config)
    was = {name: _at(found.config, name) for name in changed}
    for name, then, now in (
        *((name, was[name], changed[name]) for name in changed),
        ("space", _words(found.space), _words(asked.space)),
        ("metric", found.metric, asked.metric or found.metric),
        ("goal", found.goal, asked.goal),
        ("prune", found.prune, asked.prune),
    ):
        if then != now:
            raise QtotError(
                f"{found.path} holds a sweep with {name} {then}, not {now}; go on with the flags "
                "that it was begun with, or choose another --out"
            )
    return found


def _at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _words(space: Space) -> str:
    return " ".join(f"{name}={dimension}" for name, dimension in sorted(space.items()))

"""The folder of a sweep. Only this file knows its names; none of it needs JAX to be read.

sweep.json       what is searched, around which configuration, for what; and every trial
trial-0007/      its run folder (store/run_folder.py)
trial-0007.log   what its process said, if it said anything
lock             held by the process that searches
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from qtot.config import TrainConfig, nested_replace
from qtot.errors import QtotError
from qtot.space import Params, Space, parse_space, trial_config
from qtot.store.files import write_json
from qtot.store.lock import only_writer

SCHEMA = 1
LARGEST = 2**24
"""bytes of a sweep.json that is read"""
LAST = 3
"""evaluations at a trial's end whose mean is its value"""
WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""what values of other kinds than expected raise"""
State = Literal["running", "finished", "pruned", "impossible", "failed"]
Goal = Literal["max", "min"]


@dataclass(frozen=True)
class Trial:
    """One combination, and what came of it."""

    number: int
    params: Params
    state: State = "running"
    """running, or interrupted; finished; pruned: stopped as worse than most; impossible: fields
    that exclude each other; failed: its process ended without a result"""
    value: float | None = None
    """mean over seeds of the mean of the last evaluations (``LAST``)"""
    seconds: float = 0.0
    """training, evaluation and compilation"""
    reason: str = ""
    """why it is impossible, or failed"""

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"trial-{self.number:04d}"


@dataclass(frozen=True)
class Sweep:
    """What is searched, and how far it is."""

    path: Path
    config: TrainConfig
    """of every trial but for what is searched"""
    space: Space
    metric: str | None = None
    """of ``metrics.jsonl``; None until the first trial shows what there is"""
    goal: Goal = "max"
    prune: bool = False
    """whether trials that are worse than most are stopped early"""
    trials: tuple[Trial, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)
    """each field's share of what makes values differ; empty while there are too few trials"""

    def run_path(self, trial: Trial) -> Path:
        """Its run folder.

        Raises:
            QtotError: a link leads elsewhere.
        """
        path = self.path / trial.name
        if path.is_symlink():
            raise QtotError(f"{path} is a link; a sweep writes none")
        return path

    def config_of(self, trial: Trial) -> TrainConfig:
        """What it trains; perhaps impossible."""
        return trial_config(self.config, trial.params)

    @property
    def sign(self) -> float:
        """1 where more is better."""
        return 1.0 if self.goal == "max" else -1.0

    def ranked(self) -> list[Trial]:
        """The finished trials, the best first; of equals the earlier."""
        finished = [(t.value, t) for t in self.trials if t.state == "finished"]
        return [t for _, t in sorted(finished, key=lambda one: -self.sign * (one[0] or 0.0))]


def held(path: Path) -> AbstractContextManager[None]:
    """The folder by this process alone; made where it is missing.

    Raises:
        QtotError: another one writes it, or it cannot be written.
    """
    return only_writer(path / "lock")


def write_sweep(sweep: Sweep) -> None:
    """``sweep.json``, atomically.

    Raises:
        QtotError: it cannot be written.
    """
    trials = [
        {
            "params": dict(t.params),
            "state": t.state,
            "value": t.value,
            "seconds": t.seconds,
            "reason": t.reason,
        }
        for t in sweep.trials
    ]
    facts = {
        "schema": SCHEMA,
        "space": {name: str(dimension) for name, dimension in sweep.space.items()},
        "metric": sweep.metric,
        "goal": sweep.goal,
        "prune": sweep.prune,
        "config": sweep.config.to_dict(),
        "importance": dict(sweep.importance),
        "trials": trials,
    }
    try:
        write_json(sweep.path / "sweep.json", facts)
    except OSError as error:
        raise QtotError(f"cannot write the sweep {sweep.path} ({error.strerror})") from None


def is_sweep(path: Path) -> bool:
    """Whether a sweep lies there.

    Raises:
        QtotError: it cannot be looked at.
    """
    try:
        return (path / "sweep.json").is_file()
    except OSError as error:
        raise QtotError(f"cannot read the sweep {path} ({error.strerror})") from None


def read_sweep(path: str | Path) -> Sweep:
    """A sweep from its folder, whoever wrote it.

    Raises:
        QtotError: there is none, it is damaged, or of another version.
    """
    file = Path(path) / "sweep.json"
    if not is_sweep(Path(path)):
        raise QtotError(f"{path} is not a sweep: it has no sweep.json")
    try:
        if file.stat().st_size > LARGEST:
            raise QtotError(f"{file} is larger than any sweep's")
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            raise QtotError(
                f"{file} has schema {str(facts['schema'])[:80]}, this version reads {SCHEMA}; use "
                "the version that wrote it"
            )
        return _sweep(Path(path), facts)
    except QtotError as error:
        raise error if str(file) in str(error) else QtotError(f"{file}: {error}") from None
    except OSError as error:
        raise QtotError(f"{file} cannot be read ({error.strerror})") from None
    except WRONG as error:
        raise QtotError(f"{file} is damaged, or no sweep ({str(error)[:80]!r})") from None


def _sweep(path: Path, facts: Mapping[str, Any]) -> Sweep:
    config = nested_replace(TrainConfig(), facts["config"])
    space = parse_space([f"{name}={text}" for name, text in facts["space"].items()], config)
    metric, goal, prune = facts["metric"], facts["goal"], facts["prune"]
    if not (metric is None or isinstance(metric, str)) or goal not in get_args(Goal):
        raise QtotError(f"no metric {str(metric)[:80]!r} to be {str(goal)[:80]!r}")
    if not isinstance(prune, bool):
        raise QtotError(f"prune must be true or false, got {str(prune)[:80]}")
    trials = tuple(_trial(i, one, space) for i, one in enumerate(facts["trials"]))
    shares = {name: _number(share) for name, share in facts["importance"].items()}
    if not shares.keys() <= space.keys():
        raise QtotError("importance of what is not searched")
    return Sweep(path, config, space, metric, goal, prune, trials, shares)


def _trial(number: int, facts: Mapping[str, Any], space: Space) -> Trial:
    """Values as JSON has them, checked against what may be tried."""
    params = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in facts["params"].items()
    }
    if params.keys() != space.keys() or any(v not in space[k] for k, v in params.items()):
        raise QtotError(f"trial {number} has values that are not of the space: {str(params)[:80]}")
    state, value, reason = facts["state"], facts["value"], facts["reason"]
    if state not in get_args(State) or not isinstance(reason, str):
        raise QtotError(f"trial {number} has no state {str(state)[:80]!r}")
    if value is not None:
        value = _number(value)
    elif state == "finished":
        raise QtotError(f"trial {number} is finished, and has no value")
    return Trial(number, params, state, value, _number(facts["seconds"]), reason)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise QtotError(f"expected a finite number, got {str(value)[:80]}")
    return float(value)

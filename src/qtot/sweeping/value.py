"""What a trial is worth, from the rows of its metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qtot.errors import QtotError, unknown
from qtot.store.run_folder import METRICS
from qtot.store.sweep_folder import LAST

Rows = Sequence[Mapping[str, Any]]
OTHERS = 4
"""trials that must have come as far before one is stopped as worse than most"""


def check_metric(metric: str | None) -> None:
    """Refuses what no metrics hold.

    Raises:
        QtotError: names the nearest one.
    """
    if metric is not None and metric not in METRICS and not metric.startswith(("eval/", "train/")):
        raise unknown("metric", metric, METRICS)


def metric_of(rows: Rows) -> str:
    """The win rate where the task has one, else the return."""
    won = any("eval/win_rate" in row for row in rows)
    return "eval/win_rate" if won else "eval/return"


def _by_seed(rows: Rows, metric: str) -> dict[int, list[float]]:
    """The metric whenever a seed reported it after the first step.

    Raises:
        QtotError: it was not a number.
    """
    seeds: dict[int, list[float]] = {row["seed"]: [] for row in rows}
    for row in rows:
        steps = row.get("env_steps") or 0
        if metric in row and steps > 0:
            if row[metric] is None:
                raise QtotError(f"{metric} is not finite at step {steps:,}")
            seeds[row["seed"]].append(row[metric])
    return seeds


def curve(rows: Rows, metric: str) -> list[float]:
    """The metric whenever all seeds have reported it once more, their mean.

    Raises:
        QtotError: it was not a number.
    """
    # while a run is stopped, the last rows may be of some seeds only
    seeds = _by_seed(rows, metric).values()
    return [statistics.fmean(values) for values in zip(*seeds, strict=False)]


def worth(rows: Rows, metric: str) -> float:
    """The mean over seeds of the mean of the last ``LAST`` evaluations.

    Raises:
        QtotError: a seed has none, or one is not finite.
    """
    seeds = _by_seed(rows, metric)
    if not any(seeds.values()):
        known = dict.fromkeys(key for row in rows for key in row)
        raise unknown("metric of this run", metric, known) if known else QtotError("no metrics")
    for seed, values in seeds.items():
        if not values:
            raise QtotError(f"seed {seed} never reported {metric}")
    return statistics.fmean(statistics.fmean(values[-LAST:]) for values in seeds.values())


def lags(own: Sequence[float], others: Iterable[Sequence[float]], sign: float) -> bool:
    """Whether the best of a trial so far is worse than the median of what others had when they had
    come as far (the median rule of Golovin et al. 2017, as Optuna has it).

    Args:
        own: the trial's curve.
        others: those of trials before it.
        sign: 1 where more is better, -1 where less is.
    """
    then = [sign * other[len(own) - 1] for other in others if len(other) >= len(own) > 0]
    if len(then) < OTHERS:
        return False
    return max(sign * value for value in own) < statistics.median(then)


def seconds(rows: Rows) -> float:
    """Training, evaluation and compilation so far."""
    last = rows[-1] if rows else {}
    return round((last.get("wall_s") or 0.0) + (last.get("compile_s") or 0.0), 3)

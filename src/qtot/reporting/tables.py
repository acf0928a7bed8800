"""Numbers of a report: where seeds ended, how soon they got there, and which method is better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qtot.evaluation import comparison
from qtot.reporting.curves import points, rounded
from qtot.reporting.read import Group, Seed

THRESHOLDS = (0.25, 0.5, 0.75, 0.9)
"""win rates; of returns, the way from the worst beginning to the best end"""
PROFILE = np.linspace(0.0, 1.0, 51)
REPETITIONS = 1_000


def main_metric(groups: Sequence[Group]) -> str:
    """What a task is judged by: its win rate, or the return."""
    won = any("eval/win_rate" in row for group in groups for s in group.seeds for row in s.rows)
    return "eval/win_rate" if won else "eval/return"


def last(seed: Seed, metric: str) -> float | None:
    """Of the last evaluation."""
    values = points(seed, metric, "env_steps")[1]
    return float(values[-1]) if len(values) else None


class Final(NamedTuple):
    """Where a group's seeds ended."""

    group: Group
    metric: str
    iqm: float
    low: float
    high: float
    values: list[float]
    """of the seeds"""
    steps: int
    """that the shortest of them took"""


def finals(groups: Sequence[Group]) -> list[Final]:
    """Of every group and what its evaluation measures."""
    out = []
    for group in groups:
        names = dict.fromkeys(
            name for s in group.seeds for row in s.rows for name in row if name.startswith("eval/")
        )
        order = ("eval/win_rate", "eval/return")
        for name in sorted(names, key=lambda n: (order.index(n) if n in order else 2, n)):
            values = [v for s in group.seeds if (v := last(s, name)) is not None]
            if name == "eval/episodes" or not values:
                continue
            scores = [np.array(values)]
            low, high = comparison.iqm_interval(scores, comparison.drawn(scores))
            steps = min(s.steps for s in group.seeds if last(s, name) is not None)
            out.append(
                Final(
                    group,
                    name,
                    float(comparison.iqm(scores)),
                    float(low),
                    float(high),
                    values,
                    steps,
                )
            )
    return out


class Reached(NamedTuple):
    """How soon the seeds of a group got somewhere."""

    threshold: float
    seeds: int
    """that got there"""
    of: int
    steps: float
    """median over all seeds; infinite where most did not"""
    seconds: float


def thresholds_of(groups: Sequence[Group], metric: str) -> list[float]:
    """Of one task: win rates as they are; returns by share of the way that anyone made."""
    if metric == "eval/win_rate":
        return list(THRESHOLDS)
    lines = [points(s, metric, "env_steps")[1] for group in groups for s in group.seeds]
    lines = [line for line in lines if len(line)]
    if not lines:
        return []
    start, end = min(line[0] for line in lines), max(line[-1] for line in lines)
    if end <= start:
        return []
    digits = max(0, 2 - math.floor(math.log10(end - start)))
    return [round(float(start + share * (end - start)), digits) for share in THRESHOLDS]


def reached(group: Group, metric: str, thresholds: Sequence[float]) -> list[Reached]:
    """The first evaluation at which each seed was there."""
    out = []
    for threshold in thresholds:
        at: dict[str, list[float]] = {"env_steps": [], "wall_s": []}
        for seed in group.seeds:
            for axis, firsts in at.items():
                x, y = points(seed, metric, axis)
                there = np.flatnonzero(y >= threshold)
                firsts.append(float(x[there[0]]) if len(there) else math.inf)
        steps, seconds = (float(np.median(firsts)) for firsts in at.values())
        got = sum(math.isfinite(x) for x in at["env_steps"])
        out.append(Reached(threshold, got, len(group.seeds), steps, seconds))
    return out


def tasks_of(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """The groups of every task."""
    return {
        task: [group for group in groups if group.task == task]
        for task in dict.fromkeys(group.task for group in groups)
    }


def scores(groups: Sequence[Group]) -> dict[str, dict[str, np.ndarray]]:
    """By method and task: the seeds' last values, win rates as they are, returns between the worst
    (0) and the best seed (1) of the task.
    """
    out: dict[str, dict[str, np.ndarray]] = {}
    for task, its in tasks_of(groups).items():
        metric = main_metric(its)
        ends = {g.label: [v for s in g.seeds if (v := last(s, metric)) is not None] for g in its}
        ends = {label: np.array(values) for label, values in ends.items() if values}
        if not ends:
            continue
        together = np.concatenate(list(ends.values()))
        low, high = (0.0, 1.0) if metric == "eval/win_rate" else (together.min(), together.max())
        for label, values in ends.items():
            scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
            out.setdefault(label, {})[task] = scaled
    return out


class Improvement(NamedTuple):
    """That one method is better than another."""

    method: str
    than: str
    tasks: int
    probability: float
    low: float | None
    """of its interval; None where a task has but one seed"""
    high: float | None


def improvements(by_method: dict[str, dict[str, np.ndarray]]) -> list[Improvement]:
    """Of every pair, over the tasks that both have."""
    out = []
    for one, other in itertools.combinations(by_method, 2):
        shared = [task for task in by_method[one] if task in by_method[other]]
        if not shared:
            continue
        x, y = ([by_method[name][task] for task in shared] for name in (one, other))
        probability = comparison.improvement(x, y)
        low = high = None
        if several([*x, *y]):
            low, high = comparison.improvement_interval(
                x, y, comparison.drawn(x, seed=0), comparison.drawn(y, seed=1)
            )
        out.append(Improvement(one, other, len(shared), probability, low, high))
    return out


def several(scores: Sequence[np.ndarray]) -> bool:
    """Whether every task has two seeds at least, without which nothing is known of chance."""
    return all(len(x) > 1 for x in scores)


def _on_shared_tasks(
    by_method: dict[str, dict[str, np.ndarray]],
) -> list[tuple[str, list[np.ndarray]]]:
    """Every method with its scores on the tasks that all have; none where they share none."""
    shared = [
        task
        for task in dict.fromkeys(itertools.chain(*by_method.values()))
        if all(task in by_task for by_task in by_method.values())
    ]
    return [(m, [by_task[t] for t in shared]) for m, by_task in by_method.items() if shared]


def profiles(by_method: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Of every method, over the tasks that all have."""
    out = []
    for label, its in _on_shared_tasks(by_method):
        low = high = None
        if several(its):
            draws = comparison.drawn(its, REPETITIONS)
            low, high = map(rounded, comparison.profile_interval(its, PROFILE.tolist(), draws))
        out.append(
            {
                "label": label,
                "x": rounded(PROFILE),
                "share": rounded(comparison.profile(its, PROFILE.tolist())),
                "low": low,
                "high": high,
                "runs": sum(map(len, its)),
                "tasks": len(its),
            }
        )
    return out


class Overall(NamedTuple):
    """A method over several tasks."""

    label: str
    tasks: int
    iqm: float
    low: float | None
    high: float | None


def overall(by_method: dict[str, dict[str, np.ndarray]]) -> list[Overall]:
    """Interquartile mean over all runs of the tasks that every method has."""
    out = []
    for label, its in _on_shared_tasks(by_method):
        low = high = None
        if several(its):
            low, high = map(float, comparison.iqm_interval(its, comparison.drawn(its)))
        out.append(Overall(label, len(its), float(comparison.iqm(its)), low, high))
    return out

"""Learning curves over seeds: interquartile mean, and its bootstrap interval at every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qtot.evaluation.comparison import drawn, iqm, iqm_interval
from qtot.reporting.read import Group, Seed
from qtot.store.run_folder import METRICS

POINTS = 120
"""of a curve at most; between them it is averaged"""
REPETITIONS = 1_000
ALIKE = 0.02
"""of the whole, by which the seeds' steps may differ and still be the same point"""
AXES = {"env_steps": "environment steps", "wall_s": "seconds of training"}
FIRST = ("eval/win_rate", "eval/return", "loss", "q_tot", "train/return")
NEVER = ("seed", "env_steps", "wall_s", "compile_s", "episodes", "updates", "eval/episodes")


def metric_names(groups: Sequence[Group]) -> list[str]:
    """What can be drawn: first what everyone asks for."""
    there = dict.fromkeys(
        name for group in groups for seed in group.seeds for row in seed.rows for name in row
    )
    rest = sorted(name for name in there if name not in FIRST and name not in NEVER)
    return [name for name in FIRST if name in there] + rest


def title(metric: str) -> str:
    """A metric's name for readers."""
    where, _, name = metric.rpartition("/")
    said = {"eval": ", greedy", "train": ", exploring", "best": ", best"}.get(where, "")
    return {"q_tot": "Q_tot"}.get(name, name.replace("_", " ")) + said


def about(metric: str) -> str:
    """What it means."""
    return METRICS.get(metric, "")


def points(seed: Seed, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a seed has it, and what it was there; what was not finite is left out."""
    pairs = [
        (row[axis], row[metric])
        for row in seed.rows
        if row.get(metric) is not None and row.get(axis) is not None
    ]
    both = np.array(pairs, float).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def curve(seeds: Sequence[Seed], metric: str, axis: str) -> dict[str, Any] | None:
    """``x``, ``iqm``, ``low``, ``high`` and ``seeds``, one list each of values at ``x``; None where
    there is nothing. It ends where the first seed does.
    """
    lines = [points(seed, metric, axis) for seed in seeds]
    lines = [(x, y) for x, y in lines if len(x)]
    if not lines:
        return None
    x, values = aligned(lines)
    scores = [values]
    low, high = iqm_interval(scores, drawn(scores, REPETITIONS))
    return {
        "x": rounded(x, 6),
        "iqm": rounded(iqm(scores)),
        "low": rounded(low),
        "high": rounded(high),
        "seeds": [rounded(line) for line in values],
    }


def aligned(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One x for all, and values ``[seeds, points]``. Seeds that were logged at the same steps, or
    nearly, keep their numbers; others are interpolated.
    """
    reach = max(x[-1] - x[0] for x, _ in lines)
    shortest = min(len(x) for x, _ in lines)
    first = np.array([x[:shortest] for x, _ in lines])
    spread = (first.max(axis=0) - first.min(axis=0)).max(initial=0.0)
    if spread <= ALIKE * max(reach, 1.0):
        x, values = first.mean(axis=0), np.array([y[:shortest] for _, y in lines])
    else:
        start, end = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
        x = np.linspace(start, max(start, end), min(max(shortest, 2), POINTS))
        values = np.array([np.interp(x, *line) for line in lines])
    if len(x) <= POINTS:
        return x, values
    parts = np.array_split(np.arange(len(x)), POINTS)
    return (
        np.array([x[part].mean() for part in parts]),
        np.stack([values[:, part].mean(axis=1) for part in parts], axis=1),
    )


def rounded(values: np.ndarray, digits: int = 4) -> list[float]:
    """So many significant digits, for a page."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, float).tolist()]


def curves(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Those of every group, metric and axis."""
    names = metric_names(groups)
    out = []
    for group in groups:
        lines: dict[str, dict[str, Any]] = {}
        for name in names:
            by_axis = {axis: curve(group.seeds, name, axis) for axis in AXES}
            if by_axis["env_steps"] is not None:
                lines[name] = by_axis
        out.append({"task": group.task, "label": group.label, "lines": lines})
    return out

"""Rows of the metrics: what they hold, and what 'best' means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qtot.evaluation.episodes import metric_name
from qtot.training.state import Progress


def means_of(progress: Progress) -> dict[str, Any]:
    """Means since the last log, of one seed; what did not happen has no mean, and no key."""
    collected, means = progress.collected, {}
    if collected.episodes:
        means["train/return"] = collected.episode_return / collected.episodes
        means["train/length"] = collected.episode_length / collected.episodes
        for name, total in collected.info.items():
            means[f"train/{metric_name(name)}"] = total / collected.episodes
    if progress.updates:
        means |= {key: total / progress.updates for key, total in progress.learned.items()}
    return means


def number(value: Any) -> int | float | None:
    """A JSON number; what is not finite becomes null, which JSON has and NaN is not."""
    value = np.asarray(value).item()
    return value if math.isfinite(value) else None


def score(row: dict[str, Any]) -> tuple[float, float]:
    """What 'best' means: the win rate where the task has one, then the return."""
    rate, mean = row.get("eval/win_rate", 0.0), row["eval/return"]
    return (-math.inf if rate is None else rate), (-math.inf if mean is None else mean)


def closing(
    rows: list[dict[str, Any]], best: dict[int, dict[str, Any]], peak: dict[str, float]
) -> list[dict[str, Any]]:
    """The closing table, a row per seed.

    Args:
        rows: the last log.
        best: the row of every seed's best evaluation.
        peak: what the run needed of memory and time.
    """
    result = []
    for row in rows:
        its = best.get(row["seed"], row)
        found = {f"best/{k[5:]}": v for k, v in its.items() if k.startswith("eval/")}
        result.append({**row, **found, "best/env_steps": its["env_steps"], **peak})
    return result

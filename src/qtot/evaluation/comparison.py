"""Comparing methods over seeds and tasks (Agarwal et al. 2021; numbers as rliable's): interquartile
means, performance profiles and the probability of improvement, with stratified bootstrap intervals.

Scores of a method are a list with an array ``[R, ...]`` for each task, R its runs, which may differ
from task to task. Seeds are drawn anew within each task, whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

Scores = Sequence[np.ndarray]
Draws = Sequence[np.ndarray]
"""for each task, which runs make up each resample: ``[B, R]``"""
LEVEL = 0.95
REPETITIONS = 2_000


def drawn(scores: Scores, repetitions: int = REPETITIONS, seed: int = 0) -> Draws:
    """Resamples of the runs of each task."""
    rng = np.random.default_rng(seed)
    return [rng.integers(len(x), size=(repetitions, len(x))) for x in scores]


def pooled(scores: Scores, draws: Draws) -> np.ndarray:
    """``[B, runs of all tasks, ...]``"""
    return np.concatenate(
        [np.asarray(x)[index] for x, index in zip(scores, draws, strict=True)], axis=1
    )


def iqm(scores: Scores) -> np.ndarray:
    """Mean of the middle half of all runs of all tasks."""
    return stats.trim_mean(np.concatenate([np.asarray(x) for x in scores]), 0.25, axis=0)


def iqm_interval(scores: Scores, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of ``iqm``."""
    return _interval(stats.trim_mean(pooled(scores, draws), 0.25, axis=1))


def profile(scores: Scores, thresholds: Sequence[float]) -> np.ndarray:
    """Share of runs whose score is above each threshold."""
    return _above(np.concatenate([np.asarray(x) for x in scores])[None], thresholds)[0]


def profile_interval(
    scores: Scores, thresholds: Sequence[float], draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of ``profile``."""
    return _interval(_above(pooled(scores, draws), thresholds))


def _above(runs: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    return (runs[..., None] > np.asarray(thresholds)).mean(axis=1)


def improvement(x: Scores, y: Scores) -> float:
    """Probability that a run of x scores higher than one of y on the same task, over all tasks; a
    tie counts half (Mann-Whitney's U).
    """
    return float(_improvement([a[None] for a in x], [b[None] for b in y])[0])


def improvement_interval(
    x: Scores, y: Scores, draws_x: Draws, draws_y: Draws
) -> tuple[float, float]:
    """Percentile interval of ``improvement``."""
    values = _improvement(
        [np.asarray(a)[index] for a, index in zip(x, draws_x, strict=True)],
        [np.asarray(b)[index] for b, index in zip(y, draws_y, strict=True)],
    )
    low, high = _interval(values)
    return float(low), float(high)


def _improvement(x: Scores, y: Scores) -> np.ndarray:
    """``[B]`` from ``[B, R]`` for each task."""

    def task(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        higher = (a[:, :, None] > b[:, None]) + 0.5 * (a[:, :, None] == b[:, None])
        return higher.mean(axis=(1, 2))

    return np.mean([task(a, b) for a, b in zip(x, y, strict=True)], axis=0)


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return low, high

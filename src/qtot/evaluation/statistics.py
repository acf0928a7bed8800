"""Statistics over seeds (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats


def iqm(values: Sequence[float]) -> float:
    """Interquartile mean: the mean of the middle half, which one lucky seed cannot move."""
    return float(stats.trim_mean(np.asarray(values, float), 0.25))


def iqm_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean; a point for a single seed."""
    return _interval(values, lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), level)


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the median; a point for a single value."""
    return _interval(values, lambda x, axis: np.median(x, axis=axis), level)


def _interval(
    values: Sequence[float], statistic: Callable[..., Any], level: float
) -> tuple[float, float]:
    if len(values) < 2:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (np.asarray(values, float),),
        statistic,
        confidence_level=level,
        n_resamples=2_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)

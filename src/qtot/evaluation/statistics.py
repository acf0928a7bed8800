"""Statistics over seeds (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from qtot.evaluation import comparison


def iqm(values: Sequence[float]) -> float:
    """Interquartile mean: the mean of the middle half, which one lucky seed cannot move."""
    return float(comparison.iqm([np.asarray(values, float)]))


def iqm_interval(values: Sequence[float]) -> tuple[float, float]:
    """Its percentile bootstrap interval, as in reports; a point for a single seed."""
    scores = [np.asarray(values, float)]
    low, high = comparison.iqm_interval(scores, comparison.drawn(scores))
    return float(low), float(high)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median; a point for a single value."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (np.asarray(values, float),),
        np.median,
        n_resamples=2_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)

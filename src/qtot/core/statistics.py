"""Running mean and deviation, by merging batches (Chan et al. 1979)."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qtot.core.shards import ALONE, Shards


class RunningStats(NamedTuple):
    """Moments of what has been counted so far; every feature has its own."""

    n: Float[Array, ""]
    """entries counted"""
    mean: Float[Array, "*f"]
    m2: Float[Array, "*f"]
    """sum of squared distances from the mean"""


def init_stats(shape: tuple[int, ...]) -> RunningStats:
    """Nothing counted yet."""
    return RunningStats(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def merge(
    stats: RunningStats,
    x: Float[Array, "..."],
    counts: Bool[Array, "*b"],
    shards: Shards = ALONE,
) -> RunningStats:
    """Add the entries of ``x`` that count, on all devices; padding changes nothing."""
    axes = tuple(range(counts.ndim))
    mask = counts.reshape(counts.shape + (1,) * (x.ndim - counts.ndim))
    new = jnp.sum(counts, dtype=jnp.float32)
    new, summed = shards.total((new, jnp.sum(jnp.where(mask, x, 0.0), axis=axes)))
    mean = summed / jnp.maximum(new, 1)
    m2 = shards.total(jnp.sum(jnp.where(mask, (x - mean) ** 2, 0.0), axis=axes))
    total = stats.n + new
    weight = new / jnp.maximum(total, 1)
    delta = mean - stats.mean
    return RunningStats(
        total,
        stats.mean + delta * weight,
        stats.m2 + m2 + delta**2 * stats.n * weight,
    )


CLIP = 10.0  # a feature that has hardly ever varied would else be hundreds of deviations away


def standardise(stats: RunningStats, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """(x − mean) / deviation, within ±10; features that never vary stay at zero. Before
    anything is counted, values are left as they are.
    """
    variance = jnp.where(stats.n > 0, stats.m2 / jnp.maximum(stats.n, 1), 1.0)
    return jnp.clip((x - stats.mean) / jnp.sqrt(variance + 1e-6), -CLIP, CLIP)

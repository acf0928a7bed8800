"""Running moments against NumPy on everything that was counted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import builders
from qtot.core.config import ScalingConfig
from qtot.core.learner import Statistics
from qtot.core.statistics import RunningStats, init_stats, merge, standardise

merge_of = jax.jit(merge)
SHAPE = (6, 4)  # leading axes of a piece: always the same, so that it compiles once


def pieces(
    rng: np.random.Generator, features: tuple[int, ...], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values far from zero, each feature with its own scale, and what counts of them."""
    size = 10.0 ** rng.uniform(-2, 2, features)
    offset = 10.0 * size * rng.normal(size=features)
    return [
        (
            (offset + size * rng.normal(size=SHAPE + features)).astype(np.float32),
            rng.random(SHAPE) < rng.random(),
        )
        for _ in range(count)
    ]


def merged(parts: list[tuple[np.ndarray, np.ndarray]], features: tuple[int, ...]) -> RunningStats:
    stats = init_stats(features)
    for x, counts in parts:
        stats = merge_of(stats, jnp.asarray(x), jnp.asarray(counts))
    return stats


@pytest.mark.parametrize("features", [(), (3,), (2, 3)])
@given(seed=st.integers(0, 2**31 - 1), count=st.integers(1, 8))
def test_merged_moments_equal_numpy_on_all_that_was_counted(
    features: tuple[int, ...], seed: int, count: int
):
    parts = pieces(np.random.default_rng(seed), features, count)
    stats = merged(parts, features)
    everything = np.concatenate([x[counts] for x, counts in parts]).astype(np.float64)
    assert float(stats.n) == len(everything)
    if len(everything):
        np.testing.assert_allclose(stats.mean, everything.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(stats.m2 / stats.n, everything.var(axis=0), rtol=1e-3, atol=1e-6)


def test_padding_changes_no_bit():
    rng = np.random.default_rng(0)
    parts = pieces(rng, (3,), 4)
    nasty = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32)
    spoilt = [
        (np.where(counts[..., None], x, rng.choice(nasty, x.shape)), counts) for x, counts in parts
    ]
    for a, b in zip(merged(parts, (3,)), merged(spoilt, (3,)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


def test_a_piece_that_counts_nothing_changes_nothing():
    parts = pieces(np.random.default_rng(0), (3,), 2)
    nothing = (parts[0][0], np.zeros(SHAPE, bool))
    for a, b in zip(merged(parts, (3,)), merged([nothing, *parts, nothing], (3,)), strict=True):
        np.testing.assert_array_equal(a, b)
    for x in merged([nothing], (3,)):
        np.testing.assert_array_equal(x, np.zeros_like(x))


def test_standardised_values_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(*SHAPE, 2)) * [5.0, 0.2] + [3.0, -1.0]).astype(np.float32)
    stats = merged([(x, np.ones(SHAPE, bool))], (2,))
    y = np.asarray(standardise(stats, jnp.asarray(x)))
    expected = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


def test_a_feature_that_never_varies_stays_at_zero():
    x = np.zeros((*SHAPE, 2), np.float32)
    x[..., 0], x[..., 1] = 7.0, 0.0  # a constant, and padding
    stats = merged([(x, np.ones(SHAPE, bool))] * 3, (2,))
    np.testing.assert_allclose(standardise(stats, jnp.asarray(x)), 0.0, atol=1e-3)


def test_before_anything_is_counted_values_are_left_as_they_are():
    """The first collection of a run is acted on before its observations are counted."""
    x = jnp.array([[1.0, -8.0], [0.0, 0.5]])
    np.testing.assert_allclose(standardise(init_stats((2,)), x), x, rtol=1e-5)


def test_moments_stay_exact_over_many_pieces():
    """A thousand merges far from zero: deviation 1 at mean 1000."""
    rng = np.random.default_rng(0)
    x = (1_000 + rng.normal(size=(1_000, *SHAPE))).astype(np.float32)

    @jax.jit
    def run(x: jax.Array) -> RunningStats:
        counts = jnp.ones(SHAPE, bool)
        return jax.lax.scan(lambda s, y: (merge(s, y, counts), None), init_stats(()), x)[0]

    stats = run(jnp.asarray(x))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(stats.mean, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(stats.m2 / stats.n, exact.var(), rtol=1e-2)


@pytest.mark.parametrize("used", ["standardise_rewards", "normalise_obs", "normalise_state"])
def test_the_learner_counts_valid_transitions_of_what_is_in_use(used: str):
    learner = builders.make_learner(scaling=ScalingConfig(**{used: True}))
    slots = builders.random_batch(0, whole=True).slots
    sizes = builders.SIZES
    empty = Statistics(init_stats(()), init_stats((sizes.N, sizes.O)), init_stats((sizes.S,)))
    stats = jax.jit(learner.observe)(empty, slots)
    counted = {
        "standardise_rewards": (stats.reward, slots.reward),
        "normalise_obs": (stats.obs, slots.obs),
        "normalise_state": (stats.state, slots.state),
    }
    for name, (moments, x) in counted.items():
        if name == used:
            assert float(moments.n) == slots.valid.sum()
            np.testing.assert_allclose(
                moments.mean, x[slots.valid].mean(axis=0), rtol=1e-4, atol=1e-6
            )
        else:
            assert float(moments.n) == 0


def test_the_learner_scales_rewards_observations_and_states():
    learner = builders.make_learner(
        scaling=ScalingConfig(
            reward_scale=0.5, standardise_rewards=True, normalise_obs=True, normalise_state=True
        )
    )
    sizes, rng = builders.SIZES, np.random.default_rng(0)

    def moments(*shape: int) -> RunningStats:
        count = np.float32(10)
        return RunningStats(
            jnp.asarray(count),
            jnp.asarray(rng.normal(size=shape), jnp.float32),
            jnp.asarray(count * rng.uniform(1, 4, shape), jnp.float32),
        )

    stats = Statistics(moments(), moments(sizes.N, sizes.O), moments(sizes.S))
    slots = builders.random_batch(0).slots
    scaled = jax.jit(learner.scale)(stats, slots)

    def expected(x: np.ndarray, m: RunningStats) -> np.ndarray:
        return (x - np.asarray(m.mean)) / np.sqrt(np.asarray(m.m2) / 10)

    np.testing.assert_allclose(scaled.reward, 0.5 * expected(slots.reward, stats.reward), rtol=1e-4)
    np.testing.assert_allclose(scaled.obs, expected(slots.obs, stats.obs), rtol=1e-4)
    np.testing.assert_allclose(scaled.state, expected(slots.state, stats.state), rtol=1e-4)
    np.testing.assert_array_equal(scaled.action, slots.action)


def test_without_scaling_the_learner_sees_what_is_there():
    learner, slots = builders.make_learner(), builders.random_batch(0).slots
    stats = builders.randomised(
        np.random.default_rng(0), jax.eval_shape(learner.init, jax.random.key(0)).stats
    )
    for a, b in zip(jax.jit(learner.scale)(stats, slots), slots, strict=True):
        np.testing.assert_array_equal(a, b)

"""Layers in PyTorch's parametrisation, and what they begin with."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import builders
import oracle
from qtot.core.gru import GRU
from qtot.core.nn import LayerNorm, Linear

call = jax.jit(lambda module, *args: module(*args))


def test_gru_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: GRU(key, 5, 4, "torch"), jax.random.key(0))
    gru = builders.randomised(rng, shapes, 1.0)
    x, memory = rng.normal(size=(6, 3, 5)), rng.normal(size=(3, 4))
    first = rng.random((6, 3)) < 0.3
    hidden, last = call(gru, np.float32(x), first, np.float32(memory))
    for b in range(3):
        h = memory[b]
        for t in range(6):
            h = oracle.gru_cell(gru, x[t, b], np.zeros(4) if first[t, b] else h)
            np.testing.assert_allclose(hidden[t, b], h, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(last[b], hidden[-1, b])


def test_layer_norm_has_mean_0_and_deviation_1_before_its_scale_and_shift():
    rng = np.random.default_rng(0)
    norm = builders.randomised(rng, jax.eval_shape(lambda: LayerNorm(7)))
    x = (3 + 5 * rng.normal(size=(4, 2, 7))).astype(np.float32)
    plain = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
    np.testing.assert_allclose(call(norm, x), plain * norm.weight + norm.bias, rtol=1e-4, atol=1e-5)


def uniform(x: Any, bound: float) -> None:
    """Fills [−bound, bound]: within it, near its edges, and with its deviation, bound / √3."""
    x = np.asarray(x)
    assert np.abs(x).max() <= bound
    assert np.abs(x).max() > 0.9 * bound
    assert abs(x.mean()) < 0.4 * bound
    assert x.std() == pytest.approx(bound / 3**0.5, rel=0.25)


def test_torch_initialisation_is_pytorchs():
    """Linear layers within 1/√(fan in); a GRU cell within 1/√H, its input weights too."""
    build = jax.jit(lambda key: (Linear(key, 25, 64, "torch"), GRU(key, 25, 100, "torch")))
    linear, gru = build(jax.random.key(0))
    uniform(linear.weight, 0.2)
    uniform(linear.bias, 0.2)
    for x in (gru.weight_ih, gru.weight_hh, gru.bias_ih, gru.bias_hh):
        uniform(x, 0.1)
    assert not np.array_equal(gru.bias_ih, gru.bias_hh)

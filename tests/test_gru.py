"""The unroll's implementations agree with the plain scan, in values and in gradients."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from qtot.core.gru import Implementation, plain, unroll_gru
from qtot.core.gru_xla import Weights

FAST: list[Implementation] = ["xla", "pallas"]
Case = tuple[jax.Array, Weights, jax.Array, jax.Array]


def case(seed: int, time: int, batch: int, inputs: int, hidden: int) -> Case:
    """Inputs, weights, where episodes begin, memory; the arrays with leading axes if asked."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    weights = Weights(
        normal(3 * hidden, inputs) / inputs**0.5,
        normal(3 * hidden, hidden) / hidden**0.5,
        normal(3 * hidden),
        normal(3 * hidden),
    )
    first = rng.random((time, batch)) < 0.2
    arrays = (normal(time, batch, inputs), weights, first, normal(batch, hidden))
    return jax.tree.map(jnp.asarray, arrays)


def stacked(*cases: Case) -> Case:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *cases)


def loss(unroll: partial, x, weights, first, memory):
    hidden = unroll(x, weights, first, memory)
    # every hidden state matters, and each in its own way
    return jnp.sum(jnp.sin(3.0 * hidden) * jnp.cos(jnp.arange(hidden.size)).reshape(hidden.shape))


def values_and_grads(unroll, axes=None):
    """Of a case; or of stacked ones, with ``axes`` as vmap's in_axes."""

    def both(*given):
        return unroll(*given), jax.grad(partial(loss, unroll), (0, 1, 3), allow_int=True)(*given)

    return jax.jit(both if axes is None else jax.vmap(both, axes))


def agree(got, wanted) -> None:
    values, grads = got
    np.testing.assert_allclose(values, wanted[0], rtol=1e-5, atol=1e-5)
    for g, w in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4 * float(np.abs(w).max()))


SIZES = {
    "typical": (9, 16, 12, 64),
    "odd": (7, 5, 3, 11),
    "one slot": (1, 3, 4, 16),
    "two slots": (2, 3, 4, 16),
    "one sequence": (6, 1, 5, 8),
    "blocks and a rest": (4, 37, 6, 20),
}


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("name", SIZES)
def test_values_and_gradients_are_the_plain_scans(name: str, implementation: Implementation):
    given = case(0, *SIZES[name])
    unroll = partial(unroll_gru, implementation=implementation)
    agree(values_and_grads(unroll)(*given), values_and_grads(plain)(*given))


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("own_weights", [True, False])
def test_it_maps_over_seeds_and_over_agents(own_weights: bool, implementation: Implementation):
    cases = [case(seed, 5, 3, 4, 8) for seed in range(3)]
    x, weights, first, memory = stacked(*cases)
    weights, axis = (weights, 0) if own_weights else (cases[0][1], None)
    given, axes = (x, weights, first, memory), (0, axis, 0, 0)
    unroll = partial(unroll_gru, implementation=implementation)
    agree(values_and_grads(unroll, axes)(*given), values_and_grads(plain, axes)(*given))


@pytest.mark.parametrize("implementation", FAST)
def test_an_episodes_beginning_clears_even_what_is_no_number(implementation: Implementation):
    x, weights, first, memory = case(0, 4, 3, 5, 8)
    first = first.at[0].set(True)
    spoilt = jnp.full_like(memory, jnp.nan)
    run = values_and_grads(partial(unroll_gru, implementation=implementation))
    values, grads = run(x, weights, first, spoilt)
    agree((values, grads), values_and_grads(plain)(x, weights, first, memory))
    np.testing.assert_array_equal(grads[2], 0.0)


def test_gradients_are_finite_differences():
    with jax.enable_x64(True):
        given = jax.tree.map(
            lambda v: v if v.dtype == bool else v.astype(jnp.float64), case(3, 4, 2, 3, 4)
        )
        x, weights, first, memory = given
        f = jax.jit(lambda x, w, m: loss(unroll_gru, x, w, first, m))
        check_grads(f, (x, weights, memory), order=1, modes=["rev"])


def test_by_default_the_device_decides():
    given = case(1, 6, 4, 3, 8)
    chosen = values_and_grads(unroll_gru)(*given)
    expected = values_and_grads(partial(unroll_gru, implementation="xla"))(*given)
    jax.tree.map(np.testing.assert_array_equal, chosen, expected)


def test_the_kernels_are_lowered_for_a_gpu():
    """As far as a machine without one can tell: Triton's code is made, not compiled."""
    kernels = values_and_grads(partial(unroll_gru, implementation="pallas"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        traced = kernels.trace(*case(2, 5, 3, 4, 20))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("gpu.triton") == 3  # values alone, values with what is kept, gradients

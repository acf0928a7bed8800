"""The losses and the unroll, compiled, and how their results are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from qtot.core.agent import Agent
from qtot.core.config import LossConfig, TargetConfig
from qtot.core.losses.base import Loss, Objective
from qtot.core.methods import loss_function
from qtot.core.networks import Networks
from qtot.core.unroll import unroll
from qtot.types import Batch

ONE_STEP = TargetConfig(gamma=0.9)
LAMBDA = TargetConfig(gamma=0.9, td_lambda=0.7)
N_STEP = TargetConfig(gamma=0.9, n_step=3)
OWN_MAX = TargetConfig(gamma=0.9, double_q=False)

# Different from 1 and from each other, so that none can be left out or confused.
TERMS = LossConfig(alpha=0.3, opt=0.8, nopt=0.4)
EPSILON = 0.2


def objective_of(config: TargetConfig, burn_in: int = 0) -> Objective:
    return Objective(config, TERMS, burn_in, EPSILON)


def differentiated(config: TargetConfig, burn_in: int = 0, algo: str = "qmix") -> Any:
    """``(online, target, batch) -> ((loss, metrics), gradient of online)``, compiled."""
    return _differentiated(loss_function(algo), objective_of(config, burn_in))


def forward(config: TargetConfig, burn_in: int = 0, algo: str = "qmix") -> Any:
    """``(online, target, batch) -> loss and metrics``, compiled."""
    return _forward(loss_function(algo), objective_of(config, burn_in))


@functools.cache
def _differentiated(loss: Loss, objective: Objective) -> Any:
    def of(online: Networks, target: Networks, batch: Batch) -> Any:
        return loss(online, target, batch, objective)

    return jax.jit(jax.value_and_grad(of, has_aux=True))


@functools.cache
def _forward(loss: Loss, objective: Objective) -> Any:
    def of(online: Networks, target: Networks, batch: Batch) -> dict[str, Any]:
        value, metrics = loss(online, target, batch, objective)
        return {"loss": value, **metrics}

    return jax.jit(of)


unrolled = jax.jit(unroll, static_argnames=("burn_in", "after"))


def unroll_of(
    agent: Agent, batch: Batch, burn_in: int = 0, after: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Q-values and hidden states at every slot."""
    q, hidden = unrolled(agent, batch, burn_in=burn_in, after=after)
    return np.asarray(q), np.asarray(hidden)


def same_bits(one: Any, other: Any) -> None:
    paths = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(paths, jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
        assert np.isfinite(a).all()


def close(one: Any, other: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    paths = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(paths, jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def double(tree: Any) -> Any:
    """The same in float64."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)


def frozen(f: Callable[..., Any], values: list[Any] | None = None) -> Callable[..., Any]:
    """``f`` that also returns all that passed through ``stop_gradient``, in order; with ``values``,
    these stand there instead. A gradient is that of the function in which they are constants.
    """

    def of(*args: Any) -> tuple[Any, list[Any]]:
        seen: list[Any] = []
        plain = jax.lax.stop_gradient

        def stop(x: Any) -> Any:
            seen.append(plain(x))
            return seen[-1] if values is None else values[len(seen) - 1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.lax, "stop_gradient", stop)
            out = f(*args)
        assert values is None or len(values) == len(seen)
        return out, seen

    return of


def gradient_equals_differences(
    f: Callable[..., Any], at: Any, *args: Any, directions: int = 5, rtol: float = 1e-6
) -> None:
    """Central differences of ``f(at, *args)`` in float64, along random directions, with all that
    passes through ``stop_gradient`` held at what it is there.
    """
    grads, stopped = jax.jit(jax.grad(frozen(f), has_aux=True))(at, *args)
    assert all(g.dtype == np.float64 for g in jax.tree.leaves(grads))
    held = jax.jit(lambda at, stopped, *args: frozen(f, stopped)(at, *args)[0])
    rng, step = np.random.default_rng(0), 1e-6
    for _ in range(directions):
        along = jax.tree.map(lambda y: rng.normal(size=y.shape), at)

        def moved(by: float, along: Any = along) -> Any:
            return jax.tree.map(lambda y, d: y + by * d, at, along)

        ahead, behind = (float(held(moved(by), stopped, *args)) for by in (step, -step))
        dots = jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), grads, along))
        np.testing.assert_allclose(sum(dots), (ahead - behind) / (2 * step), rtol=rtol, atol=1e-6)

"""The loss and the unroll, compiled, and how their results are compared."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from qtot.core.agent import Agent
from qtot.core.config import TargetConfig
from qtot.core.losses.td import td_loss
from qtot.core.networks import Networks
from qtot.core.unroll import unroll
from qtot.types import Batch

ONE_STEP = TargetConfig(gamma=0.9)
LAMBDA = TargetConfig(gamma=0.9, td_lambda=0.7)
N_STEP = TargetConfig(gamma=0.9, n_step=3)
OWN_MAX = TargetConfig(gamma=0.9, double_q=False)


@functools.cache
def differentiated(config: TargetConfig, burn_in: int = 0) -> Any:
    """``(online, target, batch) -> ((loss, metrics), gradient of online)``, compiled."""

    def loss(online: Networks, target: Networks, batch: Batch) -> Any:
        return td_loss(online, target, batch, config=config, burn_in=burn_in)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def forward(config: TargetConfig, burn_in: int = 0) -> Any:
    """``(online, target, batch) -> loss and metrics``, compiled."""
    return jax.jit(functools.partial(_forward, config=config, burn_in=burn_in))


def _forward(online: Networks, target: Networks, batch: Batch, **knobs: Any) -> dict[str, Any]:
    loss, metrics = td_loss(online, target, batch, **knobs)
    return {"loss": loss, **metrics}


unrolled = jax.jit(unroll, static_argnames="burn_in")


def unroll_of(agent: Agent, batch: Batch, burn_in: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Q-values and hidden states at every slot."""
    q, hidden = unrolled(agent, batch, burn_in=burn_in)
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

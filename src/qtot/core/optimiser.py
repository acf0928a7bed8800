"""Optimisers whose learning rate follows environment steps, not updates."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from qtot.core.config import OptimiserConfig

T = TypeVar("T")

SCALE_BY = {
    "adam": lambda eps: optax.scale_by_adam(eps=eps),
    "radam": lambda eps: optax.scale_by_radam(eps=eps),
    # PyTorch's RMSprop, as PyMARL uses it: eps is added to the root, not under it.
    "rmsprop": lambda eps: optax.scale_by_rms(decay=0.99, eps=eps, eps_in_sqrt=False),
}


def make_optimiser(config: OptimiserConfig) -> optax.GradientTransformation:
    """Preconditions; the caller clips before it and applies ``-learning_rate`` after it."""
    return SCALE_BY[config.name](config.eps)


def clip(grads: T, largest: float) -> T:
    """Scaled down to the global norm ``largest`` where it is larger."""
    norm = optax.tree.norm(grads)
    scale = jnp.where(norm < largest, 1.0, largest / norm)
    return jax.tree.map(lambda g: g * scale, grads)


def learning_rate(
    config: OptimiserConfig, env_steps: Int[Array, ""], total_steps: int
) -> Float[Array, ""]:
    """Linear from ``lr`` to ``lr * lr_end`` over ``total_steps`` environment steps."""
    progress = jnp.clip(env_steps / max(total_steps, 1), 0.0, 1.0)
    return config.lr * (1.0 + progress * (config.lr_end - 1.0))

"""Masked choices, the one place where a mask meets a value. Masks are True where legal.

Where an agent has no legal action, its action is 0 and its value 0. The environment contract
allows that only after a true end and in padding, where neither is ever read.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def masked_argmax(q: Float[Array, "*b A"], avail_actions: Bool[Array, "*b A"]) -> Int[Array, "*b"]:
    """The legal action of largest value; the first of equals; 0 where none is legal."""
    return jnp.argmax(jnp.where(avail_actions, q, -jnp.inf), axis=-1)


def masked_max(q: Float[Array, "*b A"], avail_actions: Bool[Array, "*b A"]) -> Float[Array, "*b"]:
    """The largest legal value; 0 where none is legal."""
    largest = jnp.max(jnp.where(avail_actions, q, -jnp.inf), axis=-1)
    return jnp.where(jnp.any(avail_actions, axis=-1), largest, 0.0)


def pick(q: Float[Array, "*b A"], action: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """The values of the actions taken."""
    return jnp.take_along_axis(q, action[..., None].astype(jnp.int32), axis=-1)[..., 0]

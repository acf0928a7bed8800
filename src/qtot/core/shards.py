"""Logical shards: pieces of a seed's environments, spread over however many devices there are.

What an environment draws, and which sequences are sampled, depends on its shard's key alone, and
so never on the number of devices; what is computed from it agrees up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int

from qtot.types import Key, Keys

T = TypeVar("T")


class Shards(NamedTuple):
    """As many as ``pieces``, equally many on each device along a mesh's ``axis``."""

    pieces: int = 1
    axis: str | None = None
    """None: one device has them all"""

    @property
    def here(self) -> int:
        """Shards on this device."""
        return self.pieces if self.axis is None else self.pieces // jax.lax.axis_size(self.axis)

    def keys(self, key: Key) -> Keys:
        """Every shard's own key, ``[shards here]``."""
        ids: Int[Array, "L"] = jnp.arange(self.here)
        if self.axis is not None:
            ids += jax.lax.axis_index(self.axis) * self.here
        return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)

    def draw(self, key: Key, one: Callable[[Key], Any], axis: int = 0) -> Any:
        """What ``one`` draws for the environments of a shard, which lie along ``axis``; those of
        all shards here side by side.
        """
        drawn = jax.vmap(one, out_axes=axis)(self.keys(key))
        merged = lambda s: (*s[:axis], s[axis] * s[axis + 1], *s[axis + 2 :])  # noqa: E731
        return jax.tree.map(lambda x: x.reshape(merged(x.shape)), drawn)

    def total(self, tree: T) -> T:
        """The sum over all devices, in one message."""
        if self.axis is None:
            return tree
        flat, unravel = ravel_pytree(tree)
        return unravel(jax.lax.psum(flat, self.axis))

    def largest(self, x: Array) -> Array:
        """Over all devices."""
        return x if self.axis is None else jax.lax.pmax(x, self.axis)


ALONE = Shards()

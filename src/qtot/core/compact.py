"""Slots as the replay stores them: masks and flags as bits, numbers in the type that was asked for,
and nothing that follows from the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, UInt8

from qtot.types import Slots


class Stored(NamedTuple):
    """What is kept of slots."""

    obs: Num[Array, "*b N O"]
    state: Num[Array, "*b S"] | None
    bits: UInt8[Array, "*b bytes"]
    """legal actions and who is alive, agent by agent; terminated, first, valid"""
    action: Int[Array, "*b N"]
    reward: Float[Array, "*b"]


class Codec(NamedTuple):
    """``decode(encode(slots))`` is ``slots``, exactly so with float32."""

    n_actions: int
    dtype: str = "float32"
    """of observations and states: float32; float16, off by at most 1 in 2048 within ±65504 (and
    cut there); bfloat16, off by at most 1 in 256; uint8, whole numbers from 0 to 255 (others are
    rounded, and cut there)"""
    obs_sizes: tuple[int, ...] = ()
    """given where the state is nothing but the agents' observations side by side: their sizes
    without padding"""

    def encode(self, slots: Slots) -> Stored:
        """Smaller."""
        lead, n = slots.reward.shape, slots.action.shape[-1]
        flags = jnp.stack([slots.terminated, slots.first, slots.valid], axis=-1)
        masks = slots.avail_actions.reshape(*lead, n * self.n_actions)
        return Stored(
            obs=self._store(slots.obs),
            state=None if self.obs_sizes else self._store(slots.state),
            bits=jnp.packbits(jnp.concatenate([masks, slots.alive, flags], axis=-1), axis=-1),
            action=slots.action,
            reward=slots.reward,
        )

    def decode(self, stored: Stored) -> Slots:
        """As it was."""
        lead, n = stored.reward.shape, stored.action.shape[-1]
        masks = n * self.n_actions
        bits = jnp.unpackbits(stored.bits, axis=-1).astype(bool)
        obs = stored.obs.astype(jnp.float32)
        if stored.state is not None:
            state = stored.state.astype(jnp.float32)
        else:
            parts = [obs[..., i, :size] for i, size in enumerate(self.obs_sizes)]
            state = jnp.concatenate(parts, axis=-1)
        return Slots(
            obs=obs,
            state=state,
            avail_actions=bits[..., :masks].reshape(*lead, n, self.n_actions),
            alive=bits[..., masks : masks + n],
            action=stored.action,
            reward=stored.reward,
            terminated=bits[..., masks + n],
            first=bits[..., masks + n + 1],
            valid=bits[..., masks + n + 2],
        )

    def _store(self, x: Float[Array, "*b f"]) -> Num[Array, "*b f"]:
        if self.dtype == "uint8":
            return jnp.clip(jnp.round(x), 0, 255).astype(self.dtype)
        largest = float(jnp.finfo(self.dtype).max)
        return jnp.clip(x, -largest, largest).astype(self.dtype)

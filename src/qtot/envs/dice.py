"""Cheap randomness for games, which draw many small numbers at every step.

JAX's own generator, Threefry, is a loop of many rounds on a CPU, and a battle of SMAX draws from
dozens of keys per step. These keys are of other kinds that a package's program takes as well:
its own ``split`` and ``uniform`` then draw by the kind of the key. What an iteration of training
draws for itself comes from such keys, too, the environments' keys among it: as code, each use of
Threefry takes XLA a tenth of a second to compile. Networks begin by Threefry, every iteration's key
is made by it, and so is whatever an environment draws that does not ask for less.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt32

from qtot.types import Key

Word = UInt32[Array, "..."]


def _mix(word: Word) -> Word:
    """A bijection of 32 bits in which every bit depends on every other (C. Wellons, *Prospecting
    for hash functions*, 2018: constants of the smallest known bias).
    """
    word = (word ^ (word >> 16)) * jnp.uint32(0x21F0AAAD)
    word = (word ^ (word >> 15)) * jnp.uint32(0x735A2D97)
    return word ^ (word >> 15)


def _hash(key: UInt32[Array, "2"], shape: tuple[int, ...], use: int) -> Word:
    """One word per place in ``shape``; ``use`` tells words for one purpose from another's."""
    places = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    places = _mix(places * jnp.uint32(0x9E3779B9) ^ key[0])
    return _mix(places + _mix(key[1] ^ jnp.uint32(use)))


def _seed(seed: Array) -> UInt32[Array, "2"]:
    return jnp.stack([_mix(jnp.asarray(seed).astype(jnp.uint32)), jnp.uint32(0)])


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> Word:
    return jnp.stack([_hash(key, shape, use) for use in (0x85EBCA6B, 0xC2B2AE35)], axis=-1)


def _fold_in(key: UInt32[Array, "2"], data: Array | int) -> UInt32[Array, "2"]:
    number = jnp.asarray(data).astype(jnp.uint32)
    return _split(jnp.stack([key[0], key[1] ^ _mix(number + jnp.uint32(0x27D4EB2F))]), ())


def _bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> Array:
    if bit_width == 64:
        high, low = (_hash(key, shape, use).astype(jnp.uint64) for use in (0x1B873593, 0))
        return (high << 32) | low
    return _hash(key, shape, 0).astype(jnp.dtype(f"uint{bit_width}"))


HASH = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="qtot_hash",
    tag="hash",
)

ZERO = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=lambda key, shape: jnp.zeros((*shape, 2), jnp.uint32),
    random_bits=lambda key, bit_width, shape: jnp.zeros(shape, jnp.dtype(f"uint{bit_width}")),
    fold_in=lambda key, data: key,
    name="qtot_zero",
    tag="zero",
)


def root_key(seed: Array | int) -> Key:
    """What a seed stands for, whatever generator JAX is set to."""
    return jax.random.key(seed, impl="threefry2x32")


def hashed(key: Key) -> Key:
    """The same key, from which numbers are drawn by a short hash."""
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., -2:], impl=HASH)


def plain(key: Key) -> Key:
    """The same key of the kind that programs expect: JAX's own."""
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., -2:], impl="threefry2x32")


def unused(key: Key) -> Key:
    """A key for a program whose draws do not matter: it draws constants, at no cost."""
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., -2:], impl=ZERO)

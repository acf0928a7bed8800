"""Many environments as one stream of slots, without a wasted reset or observation.

An episode's final observation is a slot of its own; the reset happens on the slot after it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.envs.base import JaxEnv
from qtot.types import Keys, Observation, PyTree


class Stream(NamedTuple):
    """E environments at one slot."""

    env: PyTree
    """states of the environments, ``[E, ...]``"""
    first: Bool[Array, "E"]
    """this slot opens an episode"""
    final: Bool[Array, "E"]
    """this slot shows an episode's final observation"""
    over: Bool[Array, "E"]
    """this slot is padding after a finished episode (only where streams do not restart)"""
    episode_return: Float[Array, "E"]
    """raw team reward since the episode opened"""
    episode_length: Int[Array, "E"]
    """transitions since the episode opened"""


class Outcome(NamedTuple):
    """What followed the joint actions of one slot."""

    reward: Float[Array, "E"]
    terminated: Bool[Array, "E"]
    valid: Bool[Array, "E"]
    """a transition happened here"""
    ended: Bool[Array, "E"]
    """it was an episode's last; the fields below are read there"""
    episode_return: Float[Array, "E"]
    episode_length: Int[Array, "E"]
    info: dict[str, Float[Array, "E"]]


def open_stream(env: JaxEnv, keys: Keys) -> Stream:
    """E fresh episodes, ``keys [E]``."""
    n_envs = keys.shape[0]
    no = jnp.zeros(n_envs, bool)
    return Stream(
        env=jax.vmap(env.reset)(keys),
        first=~no,
        final=no,
        over=no,
        episode_return=jnp.zeros(n_envs),
        episode_length=jnp.zeros(n_envs, jnp.int32),
    )


def see(env: JaxEnv, stream: Stream) -> Observation:
    """What every environment shows at this slot."""
    return jax.vmap(env.observe)(stream.env)


def advance(
    env: JaxEnv, keys: Keys, stream: Stream, actions: Int[Array, "E N"], *, restart: bool
) -> tuple[Stream, Outcome]:
    """Take the joint actions where an episode runs; after a final observation, reset
    (``restart``) or pad. ``keys [E]``.
    """
    running = ~(stream.final | stream.over)
    after, result = jax.vmap(env.step)(keys, stream.env, actions.astype(jnp.int32))

    # The same key serves step and reset: an environment uses the one or the other.
    other = jax.vmap(env.reset)(keys) if restart else stream.env

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(running.reshape(running.shape + (1,) * (a.ndim - 1)), a, b)

    reward = jnp.where(running, result.reward, 0.0)
    ended = running & (result.terminated | result.truncated)
    episode_return = stream.episode_return + reward
    episode_length = stream.episode_length + running
    outcome = Outcome(
        reward=reward,
        terminated=running & result.terminated,
        valid=running,
        ended=ended,
        episode_return=episode_return,
        episode_length=episode_length,
        info=result.info,
    )
    fresh = ~running & restart
    return Stream(
        env=jax.tree.map(choose, after, other),
        first=fresh,
        final=ended,
        over=~running & (not restart),
        episode_return=jnp.where(fresh, 0.0, episode_return),
        episode_length=jnp.where(fresh, 0, episode_length),
    ), outcome

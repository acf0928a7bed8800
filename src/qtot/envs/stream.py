"""Many environments as one stream of slots, without a wasted reset or observation.

An episode's final observation is a slot of its own; the reset happens on the slot after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.envs.base import JaxEnv
from qtot.envs.lanes.vmap import vmap_last
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


class Draws(NamedTuple):
    """What chance decides: at one slot, or in a stretch of them, drawn at once."""

    keys: Keys
    """one for every environment's step, ``[E]`` or ``[slots, E]``"""
    fresh: PyTree
    """the states in which episodes open, ``[E, ...]`` or ``[windows, E, ...]``; None where streams
    do not restart"""


def chances(env: JaxEnv, slots: int, *, restart: bool) -> int:
    """Keys that an environment needs for a stretch of slots: one for every step, and with
    ``restart`` one for every reset that there can be. A window is as many slots as the shortest
    episode has, its final observation included, so that none restarts twice within a window and
    every episode opens from a draw of its own.
    """
    return slots + (-(-slots // window(env)) if restart else 0)


def draw(env: JaxEnv, keys: Keys, slots: int) -> Draws:
    """The chance of a stretch of slots, from ``keys [chances, E]``."""
    keys, resets = keys[:slots], keys[slots:]
    if not len(resets):
        return Draws(keys, None)
    fresh = over_envs(env, env.reset)(resets.reshape(-1))
    return Draws(keys, jax.tree.map(lambda x: x.reshape(*resets.shape, *x.shape[1:]), fresh))


def draws_at(env: JaxEnv, draws: Draws, t: Int[Array, ""]) -> Draws:
    """Those of slot ``t`` of a stretch."""
    return Draws(draws.keys[t], jax.tree.map(lambda x: x[t // window(env)], draws.fresh))


def window(env: JaxEnv) -> int:
    """Slots in which at most one episode opens."""
    return env.spec.shortest_episode + 1


def over_envs(env: JaxEnv, f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A function of one environment, for many: arrays ``[E, ...]``."""
    return vmap_last(f) if env.spec.lanes else jax.vmap(f)


def open_stream(env: JaxEnv, keys: Keys) -> Stream:
    """E fresh episodes, ``keys [E]``."""
    n_envs = keys.shape[0]
    no = jnp.zeros(n_envs, bool)
    return Stream(
        env=over_envs(env, env.reset)(keys),
        first=~no,
        final=no,
        over=no,
        episode_return=jnp.zeros(n_envs),
        episode_length=jnp.zeros(n_envs, jnp.int32),
    )


def see(env: JaxEnv, stream: Stream) -> Observation:
    """What every environment shows at this slot."""
    return over_envs(env, env.observe)(stream.env)


def play(
    env: JaxEnv, draws: Draws, stream: Stream, actions: Int[Array, "E N"]
) -> tuple[Stream, Outcome]:
    """One slot: take the joint actions where an episode runs; after a final observation, open an
    episode, or pad where ``draws.fresh`` is None.
    """
    restart = draws.fresh is not None
    running = ~(stream.final | stream.over)
    step = over_envs(env, env.step)
    after, result = step(draws.keys, stream.env, actions.astype(jnp.int32))
    other = draws.fresh if restart else stream.env

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

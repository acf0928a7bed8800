"""Greedy episodes: each environment plays exactly one, so short episodes are not favoured."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qtot.core.learner import Learner, PolicyParams
from qtot.core.masks import masked_argmax
from qtot.envs.base import JaxEnv
from qtot.envs.dice import hashed, plain, root_key
from qtot.envs.stream import Draws, open_stream, play, see
from qtot.types import Key, Keys

EVALUATION = 0x45564C  # folded into a seed's key; training splits it instead


class Episodes(NamedTuple):
    """What came of E episodes."""

    episode_return: Float[Array, "E"]
    """raw team reward, summed"""
    length: Int[Array, "E"]
    info: dict[str, Float[Array, "E"]]
    ended: Bool[Array, "E"]


def play_greedy(env: JaxEnv, learner: Learner, policy: PolicyParams, *, keys: Keys) -> Episodes:
    """Every agent takes the argmax of its own Q_a, without the mixer. An episode's key alone
    decides what chance brings there.
    """
    agent, stats, episodes = policy.online.agent, policy.stats, len(keys)

    def chance(t: Array | int) -> Keys:
        return plain(jax.vmap(jax.random.fold_in, (0, None))(hashed(keys), t))

    stream = open_stream(env, chance(0))
    zero = jnp.zeros(episodes)
    results = Episodes(
        zero,
        jnp.zeros(episodes, jnp.int32),
        dict.fromkeys(env.spec.info, zero),
        jnp.zeros(episodes, bool),
    )
    memory = agent.initial_memory(episodes)
    previous = jnp.full((episodes, agent.n_agents), -1, jnp.int32)

    def playing(carry: tuple[Any, ...]) -> Array:
        t, *_, results = carry
        return ~jnp.all(results.ended) & (t < env.spec.episode_limit)

    def slot(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        t, stream, memory, previous, results = carry
        seen = see(env, stream)
        q, _, memory = agent.unroll(
            learner.see(stats, seen.obs)[None], previous[None], stream.first[None], memory
        )
        action = masked_argmax(q[0], seen.avail_actions).astype(jnp.int32)
        stream, outcome = play(env, Draws(chance(t + 1), None), stream, action)

        def at_end(new: Array, old: Array) -> Array:
            return jnp.where(outcome.ended, new, old)

        results = Episodes(
            at_end(outcome.episode_return, results.episode_return),
            at_end(outcome.episode_length, results.length),
            {k: at_end(outcome.info[k], results.info[k]) for k in results.info},
            results.ended | outcome.ended,
        )
        return t + 1, stream, memory, action, results

    start = (jnp.zeros((), jnp.int32), stream, memory, previous, results)
    return jax.lax.while_loop(playing, slot, start)[-1]


def evaluation_key(seed: Array | int, index: Array | int) -> Key:
    """Keys that training never uses: one for every ``index``. Training evaluates at environment
    steps, which are below 2**31; larger indices are free for later evaluations.
    """
    return jax.random.fold_in(jax.random.fold_in(root_key(seed), EVALUATION), index)


def summarise(played: Episodes) -> dict[str, Array]:
    """Means over the last axis: ``return``, ``length`` and the task's own scalars."""
    return {
        "return": played.episode_return.mean(-1),
        "length": played.length.mean(-1),
        **{metric_name(k): v.mean(-1) for k, v in played.info.items()},
    }


def metric_name(scalar: str) -> str:
    """How an environment's scalar is called in metrics: the mean of ``won`` is a rate."""
    return "win_rate" if scalar == "won" else scalar

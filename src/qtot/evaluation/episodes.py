"""Greedy episodes: each environment plays exactly one, so short episodes are not favoured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qtot.core.learner import Learner, PolicyParams
from qtot.core.masks import masked_argmax
from qtot.envs.base import JaxEnv
from qtot.envs.dice import hashed, plain, root_key
from qtot.envs.stream import Draws, Outcome, Stream, open_stream, play, see
from qtot.evaluation.teams import Seen, Team, margin_of
from qtot.types import Key, Keys, PyTree, Slots

EVALUATION = 0x45564C  # folded into a seed's key; training splits it instead
FRESH = 2**31  # indices of evaluations that training does not use


class Episodes(NamedTuple):
    """What came of E episodes."""

    episode_return: Float[Array, "E"]
    """raw team reward, summed"""
    length: Int[Array, "E"]
    info: dict[str, Float[Array, "E"]]
    ended: Bool[Array, "E"]


class _Stage(NamedTuple):
    """E episodes under way."""

    stream: Stream
    results: Episodes


def _opened(env: JaxEnv, keys: Keys) -> _Stage:
    zero = jnp.zeros(len(keys))
    results = Episodes(
        zero,
        jnp.zeros(len(keys), jnp.int32),
        dict.fromkeys(env.spec.info, zero),
        jnp.zeros(len(keys), bool),
    )
    return _Stage(open_stream(env, _chance(keys, 0)), results)


def _chance(keys: Keys, t: Array | int) -> Keys:
    """An episode's key alone decides what chance brings there."""
    return plain(jax.vmap(jax.random.fold_in, (0, None))(hashed(keys), t))


def _played(
    env: JaxEnv, keys: Keys, t: Array, stage: _Stage, action: Array
) -> tuple[_Stage, Outcome]:
    stream, outcome = play(env, Draws(_chance(keys, t + 1), None), stage.stream, action)
    results = stage.results

    def at_end(new: Array, old: Array) -> Array:
        return jnp.where(outcome.ended, new, old)

    results = Episodes(
        at_end(outcome.episode_return, results.episode_return),
        at_end(outcome.episode_length, results.length),
        {k: at_end(outcome.info[k], results.info[k]) for k in results.info},
        results.ended | outcome.ended,
    )
    return _Stage(stream, results), outcome


class _Player(NamedTuple):
    """What the agents remember."""

    memory: Float[Array, "E N K"]
    prev_action: Int[Array, "E N"]


def _begun(policy: PolicyParams, episodes: int) -> _Player:
    agent = policy.online.agent
    none = jnp.full((episodes, agent.n_agents), -1, jnp.int32)
    return _Player(agent.initial_memory(episodes), none)


class Slot(NamedTuple):
    """What was seen and chosen at one slot of E episodes."""

    obs: Float[Array, "E N O"]
    avail_actions: Bool[Array, "E N A"]
    first: Bool[Array, "E"]
    running: Bool[Array, "E"]
    prev_action: Int[Array, "E N"]
    memory: Float[Array, "E N K"]
    """before it"""
    q: Float[Array, "E N A"]
    action: Int[Array, "E N"]
    margin: Float[Array, "E N"]


def _slot(
    env: JaxEnv, learner: Learner, policy: PolicyParams, stage: _Stage, player: _Player
) -> tuple[_Player, Slot]:
    """Every agent takes the argmax of its own Q_a, without the mixer."""
    seen, stream = see(env, stage.stream), stage.stream
    memory, previous = player
    q, _, after = policy.online.agent.unroll(
        learner.see(policy.stats, seen.obs)[None], previous[None], stream.first[None], memory
    )
    action = masked_argmax(q[0], seen.avail_actions).astype(jnp.int32)
    slot = Slot(
        obs=seen.obs,
        avail_actions=seen.avail_actions,
        first=stream.first,
        running=~(stream.final | stream.over),
        prev_action=previous,
        memory=memory,
        q=q[0],
        action=action,
        margin=margin_of(q[0], seen.avail_actions),
    )
    return _Player(after, action), slot


def play_greedy(env: JaxEnv, learner: Learner, policy: PolicyParams, *, keys: Keys) -> Episodes:
    """Greedy episodes, one for every key, until the last has ended."""

    def playing(carry: tuple[Array, _Stage, _Player]) -> Array:
        t, stage, _ = carry
        return ~jnp.all(stage.results.ended) & (t < env.spec.episode_limit)

    def slot(carry: tuple[Array, _Stage, _Player]) -> tuple[Array, _Stage, _Player]:
        t, stage, player = carry
        player, shown = _slot(env, learner, policy, stage, player)
        return t + 1, _played(env, keys, t, stage, shown.action)[0], player

    start = (jnp.zeros((), jnp.int32), _opened(env, keys), _begun(policy, len(keys)))
    return jax.lax.while_loop(playing, slot, start)[1].results


def trace_greedy(
    env: JaxEnv, learner: Learner, policy: PolicyParams, *, keys: Keys
) -> tuple[Episodes, Slot]:
    """The same, and all slots ``[T, E, ...]``, T the episode limit."""

    def slot(carry: tuple[_Stage, _Player], t: Array) -> tuple[tuple[_Stage, _Player], Slot]:
        stage, player = carry
        player, shown = _slot(env, learner, policy, stage, player)
        return (_played(env, keys, t, stage, shown.action)[0], player), shown

    start = (_opened(env, keys), _begun(policy, len(keys)))
    (stage, _), slots = jax.lax.scan(slot, start, jnp.arange(env.spec.episode_limit))
    return stage.results, slots


def witness(
    env: JaxEnv,
    learner: Learner,
    policy: PolicyParams,
    *,
    keys: Keys,
    look: Callable[[PyTree], dict[str, Array]],
) -> tuple[Episodes, Slots, dict[str, Array]]:
    """The same episodes with all that there is to see: slots as training has them, final
    observations included, and what ``look`` sees in every state; ``[L+1, E, ...]``, L the episode
    limit.
    """

    def slot(carry: tuple[_Stage, _Player], t: Array) -> tuple[tuple[_Stage, _Player], Any]:
        stage, player = carry
        seen, looks = see(env, stage.stream), jax.vmap(look)(stage.stream.env)
        player, shown = _slot(env, learner, policy, stage, player)
        after, outcome = _played(env, keys, t, stage, shown.action)
        told = Slots(
            *seen,
            action=shown.action,
            reward=outcome.reward,
            terminated=outcome.terminated,
            first=stage.stream.first,
            valid=outcome.valid,
        )
        return (after, player), (told, looks)

    start = (_opened(env, keys), _begun(policy, len(keys)))
    (stage, _), told = jax.lax.scan(slot, start, jnp.arange(env.spec.episode_limit + 1))
    return stage.results, *told


Stepwise = Callable[[Team, Key, int], Episodes]


def stepwise(env: JaxEnv) -> Stepwise:
    """``(team, key, episodes) -> Episodes``: those of ``play_greedy``, for a team that acts outside
    of the graph.
    """

    @jax.jit
    def opened(keys: Keys) -> tuple[_Stage, Seen]:
        return _with_seen(_opened(env, keys))

    @jax.jit
    def played(keys: Keys, t: Array, stage: _Stage, action: Array) -> tuple[_Stage, Seen]:
        return _with_seen(_played(env, keys, t, stage, action)[0])

    def _with_seen(stage: _Stage) -> tuple[_Stage, Seen]:
        seen, stream = see(env, stage.stream), stage.stream
        running = ~(stream.final | stream.over)
        return stage, Seen(seen.obs, seen.avail_actions, stream.first, running)

    def run(team: Team, key: Key, episodes: int) -> Episodes:
        keys = jax.random.split(key, episodes)
        stage, seen = opened(keys)
        for t in range(env.spec.episode_limit):
            if not np.asarray(seen.running).any():
                break
            action = jnp.asarray(team.act(seen).action)
            stage, seen = played(keys, jnp.int32(t), stage, action)
        return stage.results

    return run


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

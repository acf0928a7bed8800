"""The values that ``KNOWN`` states, against a solver that only looks at what the probes do."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtot.envs import probes
from qtot.envs.matrix import MarkovGame, Place

KEY = jax.random.key(0)
GAMMA = 0.9
GAMES = [task for task in probes.tasks() if task != "distinct"]


class Model(NamedTuple):
    """What every legal joint action does in each position, found by playing it."""

    joint: list[list[tuple[int, ...]]]
    reward: dict[tuple, float]
    after: dict[tuple, int]
    terminated: dict[tuple, bool]


@functools.cache
def game(task: str) -> MarkovGame:
    made = probes.make(task)
    assert isinstance(made, MarkovGame)
    return made


@functools.cache
def model_of(task: str) -> Model:
    env = game(task)
    positions = len(env.payoffs)
    avail = np.asarray(see(env)[2])
    legal = [[np.flatnonzero(row).tolist() for row in avail[k]] for k in range(positions)]
    joint = [list(itertools.product(*choices)) for choices in legal]
    pairs = [(k, u) for k in range(positions) for u in joint[k]]
    place = Place(jnp.array([k for k, _ in pairs]), jnp.zeros(len(pairs), jnp.int32))
    play = jax.jit(jax.vmap(env.step, (None, 0, 0)))
    after, result = play(KEY, place, jnp.array([u for _, u in pairs]))
    columns = (result.reward, after.position, result.terminated)
    return Model(joint, *(dict(zip(pairs, np.asarray(x).tolist(), strict=True)) for x in columns))


def see(env: MarkovGame):
    """The observations of every position."""
    positions = jnp.arange(len(env.payoffs))
    return jax.vmap(env.observe)(Place(positions, jnp.zeros_like(positions)))


def values(task: str, past_the_end: Callable[[list[float], int], float] | None = None):
    """Value iteration; ``past_the_end`` stands for a fault: what a true end bootstraps from."""
    model = model_of(task)
    v = [0.0] * len(model.joint)

    def following(k: int, u: tuple[int, ...]) -> float:
        after = model.after[k, u]
        if not model.terminated[k, u]:
            return v[after]
        return past_the_end(v, after) if past_the_end else 0.0

    for _ in range(300):
        v = [
            max(model.reward[k, u] + GAMMA * following(k, u) for u in joint)
            for k, joint in enumerate(model.joint)
        ]
    return v


@functools.cache
def best_return(task: str, k: int, left: int) -> float:
    """The undiscounted return of the best team from position k with ``left`` steps to go."""
    model = model_of(task)

    def following(u: tuple[int, ...]) -> float:
        ends = model.terminated[k, u] or left == 1
        return 0.0 if ends else best_return(task, model.after[k, u], left - 1)

    return max(model.reward[k, u] + following(u) for u in model.joint[k])


def episode(env, key, policy, steps: int):
    """What ``steps`` steps pay from a reset, never reset in between."""

    def step(state, _):
        seen = env.observe(state)
        after, result = env.step(key, state, policy(seen))
        return after, (seen, result)

    return jax.lax.scan(step, env.reset(key), length=steps)[1]


def zeros(seen):
    return jnp.zeros(seen.alive.shape[0], jnp.int32)


@pytest.mark.parametrize("task", GAMES)
def test_values_are_those_of_the_best_team(task):
    v = np.array(values(task))
    if task == "masks":  # the two doors look alike and are drawn evenly
        v[:2] = v[:2].mean()
    np.testing.assert_allclose(v, probes.KNOWN[task].values, rtol=1e-6)


@pytest.mark.parametrize("task", GAMES)
def test_best_returns(task):
    env = game(task)
    limit = env.spec.episode_limit
    returns = [best_return(task, k, limit) for k in range(env.starts)]
    assert np.mean(returns) == pytest.approx(probes.KNOWN[task].best_return)


@pytest.mark.parametrize("task", GAMES)
def test_every_start_is_drawn_and_no_other(task):
    env = game(task)
    starts = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 400)).position
    share = np.bincount(starts, minlength=len(env.payoffs)) / 400
    np.testing.assert_allclose(share[: env.starts], 1 / env.starts, atol=0.1)
    assert not share[env.starts :].any()


def test_every_probe_can_be_made_and_is_known():
    assert set(probes.KNOWN) == set(probes.tasks())
    assert all(probes.make(task).spec.name == f"probe/{task}" for task in probes.tasks())
    with pytest.raises(KeyError):
        probes.make("chains")


@pytest.mark.parametrize("task", ["chain", "chain_truncated", "long", "dead"])
def test_an_episode_ends_once_and_as_declared(task):
    env = game(task)
    limit = env.spec.episode_limit
    _, result = jax.jit(lambda key: episode(env, key, zeros, limit))(KEY)
    last = np.arange(limit) == limit - 1
    np.testing.assert_array_equal(result.terminated, last & (task != "chain_truncated"))
    np.testing.assert_array_equal(result.truncated, last & (task == "chain_truncated"))
    if task != "dead":
        np.testing.assert_array_equal(result.reward, last)


def test_what_faults_make_of_the_chain():
    assert values("chain", lambda v, after: v[after]) == pytest.approx([8.1, 9, 10])
    next_episode = values("chain", lambda v, after: v[0])
    assert next_episode == pytest.approx([2.99, 3.32, 3.69], abs=0.005)
    # The same positions and payments: only the kind of end tells the two chains apart.
    chains = model_of("chain"), model_of("chain_truncated")
    assert chains[0].reward == chains[1].reward
    for model in chains:
        assert [model.after[k, (0, 0)] for k in range(3)] == [1, 2, 2]


def test_one_is_one_everywhere():
    env = game("one")
    seen = env.observe(env.reset(KEY))
    assert (seen.obs.shape, seen.state.shape) == ((1, 1), (1,))
    assert (seen.avail_actions.shape, seen.alive.shape) == ((1, 1), (1,))
    assert env.spec.episode_limit == 1


def test_masks_tempt_one_step_later():
    env, model = game("masks"), model_of("masks")
    obs, state, avail, _ = jax.tree.map(np.asarray, see(env))
    for one, other in ((0, 1), (2, 3)):
        np.testing.assert_array_equal(obs[one], obs[other])
        np.testing.assert_array_equal(state[one], state[other])
    assert (state[0] != state[2]).any()
    assert [avail[k, 0].tolist() for k in range(4)] == [[1, 0], [1, 0], [0, 1], [1, 1]]
    assert [model.after[k, (0, 0)] for k in (0, 1)] == [2, 3]
    # The room's values, and what the door is worth if its own mask is put on them.
    room = {u: model.reward[3, u] for u in model.joint[3]}
    assert room == {(0, 0): 10, (0, 1): 5.5, (1, 0): 5.5, (1, 1): 1}
    assert model.reward[2, (1, 1)] == room[1, 1]
    assert GAMMA * room[0, 0] == 9


def test_coordination_pays_one_joint_action_per_bit_pattern():
    env, model = game("coordination"), model_of("coordination")
    paid = {k: [u for u in model.joint[k] if model.reward[k, u]] for k in range(4)}
    assert paid == {0: [(0, 1, 2)], 1: [(1, 2, 0)], 2: [(2, 0, 1)], 3: [(1, 1, 1)]}
    bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_array_equal(see(env).obs, [[row] * 3 for row in bits])
    assert np.mean([model.reward[0, u] for u in model.joint[0]]) == pytest.approx(1 / 27)


def test_memory_needs_memory():
    env, model = game("memory"), model_of("memory")
    obs = np.asarray(see(env).obs)
    assert (obs[0] != obs[1]).any()
    for time in (1, 2, 3):
        np.testing.assert_array_equal(obs[2 * time], obs[2 * time + 1])
    assert all(model.joint[k] == [(0, 0)] for k in range(6)), "the previous action tells nothing"
    # What does not remember plays one mixture for both cues, so at best one joint action.
    blind = max((model.reward[6, u] + model.reward[7, u]) / 2 for u in model.joint[6])
    assert blind == 0.5
    for cue in (0, 1):
        k = cue
        for _ in range(3):
            k = model.after[k, (0, 0)]
        assert model.reward[k, (cue, cue)] == 1
        assert model.reward[k, (1 - cue, 1 - cue)] == 0


def test_the_team_outlives_a_dead_agent():
    env = game("dead")
    seen, result = episode(env, KEY, lambda seen: seen.avail_actions[:, 1].astype(jnp.int32), 4)
    assert seen.alive.tolist() == [[True, True], [True, True], [True, False], [True, False]]
    np.testing.assert_array_equal(seen.avail_actions.sum(-1), [[2, 2], [2, 2], [2, 1], [2, 1]])
    assert seen.avail_actions[:, :, 0].all()
    assert result.reward.tolist() == [1, 1, 1, 1]
    assert result.terminated.tolist() == [False, False, False, True]


def test_own_obs_pads_what_is_smaller():
    env, model = game("own_obs"), model_of("own_obs")
    assert (env.spec.obs_sizes, env.spec.n_actions) == ((1, 3), (2, 4))
    obs, _, avail, _ = see(env)
    assert not np.asarray(obs)[:, 0, 1:].any()
    assert avail.tolist() == [[[True, True, False, False], [True] * 4]] * 2
    for bit in (0, 1):
        assert obs[bit].tolist() == [[bit, 0, 0], [1 - bit, bit, 1]]
        for u in model.joint[bit]:
            assert model.reward[bit, u] == (u[0] == bit) + (u[1] == 2 + bit)


def test_distinct_tells_episodes_apart():
    env = probes.make("distinct")
    keys = jax.random.split(KEY, 64)
    seen, result = jax.jit(jax.vmap(lambda key: episode(env, key, zeros, 3)))(keys)
    ids = np.asarray(seen.state)[:, 0, 0]
    assert len(set(ids.tolist())) == 64
    assert ids.min() >= 0 and ids.max() < 1 and abs(ids.mean() - 0.5) < 0.15
    np.testing.assert_array_equal(result.reward, np.tile(ids[:, None], 3))
    for agent in (0, 1):
        np.testing.assert_array_equal(seen.obs[:, :, agent], seen.state)
    np.testing.assert_allclose(seen.state[0, :, 1], [0, 1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(result.terminated, [[False, False, True]] * 64)
    assert not result.truncated.any()
    np.testing.assert_array_equal(result.info["id"][:, :2], -1)
    np.testing.assert_array_equal(result.info["id"][:, 2], ids)
    assert probes.KNOWN["distinct"] == (pytest.approx((1 + 0.9 + 0.81, 1 + 0.9, 1)), 3 * 0.5)

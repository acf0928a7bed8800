"""Payoffs worked out by hand from the papers' tables."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtot.envs import make_env, matrix
from qtot.envs.base import JaxEnv
from qtot.errors import QtotError

KEY = jax.random.key(0)
CLIMBING = [[11, -30, 0], [-30, 7, 0], [0, 6, 5]]
QTRAN = [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]
QPLEX = [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]]


def penalty(k: float) -> list[list[float]]:
    return [[-k, 0, 10], [0, 2, 0], [10, 0, -k]]


REPEATED = {
    "climbing": (CLIMBING, 275),
    "penalty-0": (penalty(0), 250),
    "penalty-25": (penalty(25), 250),
    "penalty-100": (penalty(100), 250),
    "penalty-0.5": (penalty(0.5), 250),
}


def step_all(env: JaxEnv, state, n: int):
    """Every joint action from one state: results as an ``[n, n]`` table."""
    joint = jnp.array(list(itertools.product(range(n), repeat=2)))
    after, result = jax.jit(jax.vmap(env.step, (None, None, 0)))(KEY, state, joint)
    return jax.tree.map(lambda x: np.asarray(x).reshape(n, n), (after, result))


def additive_fit(payoff: np.ndarray) -> np.ndarray:
    """The least-squares fit of a sum of the agents' own values: what VDN learns."""
    return payoff.mean(1, keepdims=True) + payoff.mean(0, keepdims=True) - payoff.mean()


def test_two_step_pays_as_in_the_paper():
    env = matrix.make("two_step")
    start = env.reset(KEY)
    middle, first = step_all(env, start, 2)
    assert not first.reward.any() and not first.terminated.any() and not first.truncated.any()
    for a in (0, 1):
        for b in (0, 1):
            place = jax.tree.map(lambda x, a=a, b=b: jnp.asarray(x[a, b]), middle)
            _, second = step_all(env, place, 2)
            # Agent 0 alone chooses the second matrix.
            expected = [[7, 7], [7, 7]] if a == 0 else [[0, 1], [1, 8]]
            np.testing.assert_array_equal(second.reward, expected)
            assert second.terminated.all() and not second.truncated.any()


def test_two_step_shows_every_agent_which_matrix_is_played():
    env = matrix.make("two_step")
    start = env.reset(KEY)
    after = [env.step(KEY, start, jnp.array([a, 1 - a]))[0] for a in (0, 1)]
    for position, place in enumerate([start, *after]):
        obs, state, avail_actions, alive = env.observe(place)
        one_hot = np.eye(3)[position]
        np.testing.assert_array_equal(state, one_hot)
        np.testing.assert_array_equal(obs, [one_hot, one_hot])
        assert avail_actions.all() and alive.all()


@pytest.mark.parametrize(("task", "payoff"), [("qtran", QTRAN), ("qplex", QPLEX)])
def test_games_played_once_end_truly(task, payoff):
    env = matrix.make(task)
    _, result = step_all(env, env.reset(KEY), 3)
    np.testing.assert_array_equal(result.reward, payoff)
    np.testing.assert_array_equal(env.payoffs, [payoff])
    assert result.terminated.all() and not result.truncated.any()
    assert env.spec.episode_limit == 1


@pytest.mark.parametrize("task", REPEATED)
def test_repeated_games_are_stopped_by_time_after_25_steps(task):
    payoff, best_return = REPEATED[task]
    env = matrix.make(task)
    _, result = step_all(env, env.reset(KEY), 3)
    np.testing.assert_array_equal(result.reward, payoff)
    np.testing.assert_array_equal(env.payoffs, [payoff])

    best = jnp.array(np.unravel_index(np.argmax(payoff), (3, 3)))
    _, episode = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: env.step(KEY, s, best), state, length=25)
    )(env.reset(KEY))
    assert episode.reward.sum() == best_return
    assert not episode.terminated.any()
    np.testing.assert_array_equal(episode.truncated, np.arange(25) == 24)


def test_what_vdn_learns_on_the_payoffs_is_what_was_published():
    qtran = matrix.make("qtran").payoffs[0]
    expected = [[-6.22, -4.89, -4.89], [-4.89, -3.56, -3.56], [-4.89, -3.56, -3.56]]
    np.testing.assert_allclose(additive_fit(qtran), expected, atol=0.005)
    last = matrix.make("two_step").payoffs[2]
    np.testing.assert_allclose(additive_fit(last), [[-1.5, 2.5], [2.5, 6.5]], atol=1e-6)


def test_tasks_can_all_be_made_and_are_named():
    assert matrix.tasks() == (
        "two_step",
        "climbing",
        "penalty-0",
        "penalty-25",
        "penalty-50",
        "penalty-75",
        "penalty-100",
        "qtran",
        "qplex",
        "random-2x3-0",
        "random-3x4-7",
    )
    for task in matrix.tasks():
        env = make_env(f"matrix/{task}")
        assert isinstance(env, JaxEnv)
        assert env.spec.name == f"matrix/{task}"
        assert env.spec.about
        assert (env.spec.team_reward, env.spec.masks) == ("given", "all legal")


@pytest.mark.parametrize(
    "task", ["", "climb", "penalty", "penalty-", "penalty--5", "penalty-x", "penalty-nan", "qtran "]
)
def test_an_unknown_task_is_a_key_error(task):
    with pytest.raises(KeyError):
        matrix.make(task)


@pytest.mark.parametrize(("n", "k"), [(1, 5), (2, 3), (3, 4), (20, 2)])
def test_a_random_game_pays_its_table_once(n: int, k: int):
    env = matrix.make(f"random-{n}x{k}-7")
    assert env.payoffs.shape == (1, *(k,) * n)
    assert env.spec.n_actions == (k,) * n and env.spec.episode_limit == 1
    best = np.unravel_index(np.argmax(env.payoffs[0]), env.payoffs[0].shape)
    joint = np.concatenate([np.random.default_rng(0).integers(0, k, (50, n)), [best]])
    _, result = jax.jit(jax.vmap(env.step, (None, None, 0)))(KEY, env.reset(KEY), jnp.array(joint))
    np.testing.assert_array_equal(result.reward, [env.payoffs[(0, *u)] for u in joint])
    assert result.reward[-1] == env.payoffs.max()
    assert result.terminated.all() and not result.truncated.any()


def test_a_random_game_is_fixed_by_its_name():
    # Pinned: results on a game would not mean the same after a change of its numbers.
    pinned = [[5.084177, 8.506347], [2.4418569, 8.427539]]
    np.testing.assert_allclose(matrix.make("random-2x2-0").payoffs[0], pinned, rtol=1e-6)
    games = [f"random-{form}-{game}" for form in ("2x4", "4x2") for game in (0, 1)]
    tables = [matrix.make(game).payoffs.ravel() for game in games]
    for game, table in zip(games, tables, strict=True):
        np.testing.assert_array_equal(matrix.make(game).payoffs.ravel(), table)
    assert len({x for table in tables for x in table.tolist()}) == 4 * 16


def test_random_payoffs_are_uniform_from_0_to_10():
    payoffs = matrix.make("random-2x200-0").payoffs
    assert payoffs.min() >= 0 and payoffs.max() < 10
    share = np.histogram(payoffs, bins=10, range=(0, 10))[0] / payoffs.size
    np.testing.assert_allclose(share, 0.1, atol=0.008)  # five standard errors


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("random", "expected random-AGENTSxACTIONS-GAME.*such as 'random-3x4-7'"),
        ("random-2x3", "three whole numbers"),
        ("random-2x3--1", "three whole numbers"),
        ("random-2x3-0.5", "three whole numbers"),
        ("random-0x3-0", "an agent or more.*got 0 agents of 3 actions"),
        ("random-2x1-0", "2 actions or more.*got 2 agents of 1 actions"),
        ("random-21x2-0", "at most 2\\*\\*20 joint actions; got 21 agents of 2 actions"),
        ("random-999999999x999999999-0", "at most"),
    ],
)
def test_a_random_game_that_cannot_be_says_what_was_expected(task: str, hint: str):
    with pytest.raises(QtotError, match=hint):
        make_env(f"matrix/{task}")


def test_a_misspelt_task_gets_the_nearest_name():
    with pytest.raises(QtotError, match="did you mean 'two_step'"):
        make_env("matrix/two_steps")


def test_an_illegal_action_pays_nan():
    game = matrix.MarkovGame("test/game", [[[1, 2], [3, 4]]], n_actions=(2, 1))
    _, result = step_all(game, game.reset(KEY), 2)
    np.testing.assert_array_equal(result.reward, [[1, np.nan], [3, np.nan]])
    assert game.observe(game.reset(KEY)).avail_actions.tolist() == [[True, True], [True, False]]

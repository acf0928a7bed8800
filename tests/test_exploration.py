"""Epsilon-greedy and softmax policies: the schedule, and who explores what how often. All keys are
fixed.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from qtot.core.config import ExplorationConfig
from qtot.core.exploration import epsilon_at, epsilon_greedy, policy, sample_policy
from qtot.core.masks import masked_argmax, masked_max, pick

DRAWS = 4_000


def noise(key: jax.Array, values: jax.Array) -> jax.Array:
    """What exploration is given for every agent of every environment."""
    return jax.random.uniform(key, (2, *values.shape[:-1]))


@jax.jit
def act(key: jax.Array, q: jax.Array, avail: jax.Array, epsilon: jax.Array) -> jax.Array:
    return epsilon_greedy(noise(key, q), q, avail, epsilon)


@jax.jit
def draws(q: jax.Array, avail: jax.Array, epsilon: jax.Array, seed: int = 0) -> jax.Array:
    """Joint actions for many keys, ``[DRAWS, *b, N]``."""
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    return jax.vmap(lambda key: epsilon_greedy(noise(key, q), q, avail, epsilon))(keys)


def chi_square(counts: np.ndarray, expected: np.ndarray | float) -> bool:
    """Whether the counts fit, within six deviations of the statistic."""
    freedom = counts.size - 1
    return bool(((counts - expected) ** 2 / expected).sum() < freedom + 6 * (2 * freedom) ** 0.5)


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [(0, 1.0), (1, 0.99905), (500, 0.525), (999, 0.05095), (1_000, 0.05), (2**31 - 1, 0.05)],
)
def test_epsilon_falls_linearly_with_environment_steps(env_steps: int, expected: float):
    # 1 + n / 1000 · (.05 − 1)
    config = ExplorationConfig(start=1.0, end=0.05, steps=1_000)
    assert float(epsilon_at(config, jnp.asarray(env_steps))) == pytest.approx(expected, rel=1e-5)


def test_epsilon_without_a_decay_is_its_end_after_the_first_step():
    config = ExplorationConfig(start=0.5, end=0.1, steps=0)
    assert float(epsilon_at(config, jnp.asarray(1))) == pytest.approx(0.1)


E, N, A = 3, 2, 4
ALL = jnp.ones((E, N, A), bool)
Q = jnp.zeros((E, N, A)).at[..., 0].set(1.0)  # action 0 is greedy


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_every_agent_explores_as_often_as_epsilon_says_and_uniformly(epsilon: float):
    actions = np.asarray(draws(Q, ALL, jnp.asarray(epsilon)))
    for e, n in np.ndindex(E, N):
        counts = np.bincount(actions[:, e, n], minlength=A)
        share = np.full(A, epsilon / A)
        share[0] += 1 - epsilon
        assert chi_square(counts, DRAWS * share), (e, n, counts)


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_agents_and_environments_explore_independently(epsilon: float):
    """The joint actions of any two agents, of one environment or of two, occur as often as the
    product of their own frequencies says.
    """
    actions = np.asarray(draws(Q, ALL, jnp.asarray(epsilon))).reshape(DRAWS, E * N)
    own = np.full(A, epsilon / A)
    own[0] += 1 - epsilon
    for i, j in itertools.combinations(range(E * N), 2):
        joint = np.bincount(actions[:, i] * A + actions[:, j], minlength=A * A)
        assert chi_square(joint, DRAWS * np.outer(own, own).ravel()), (i, j)


def test_exploration_differs_from_step_to_step():
    actions = np.asarray(draws(Q, ALL, jnp.asarray(1.0))).reshape(DRAWS, E * N)
    joint = np.bincount(actions[:-1, 0] * A + actions[1:, 0], minlength=A * A)
    assert chi_square(joint, (DRAWS - 1) / A**2)


def test_without_epsilon_everyone_is_greedy_among_legal_actions():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(E, N, A)).astype(np.float32)
    avail = rng.random((E, N, A)) < 0.5
    avail[..., 1] = True
    expected = np.where(avail, q, -np.inf).argmax(axis=-1)
    actions = draws(jnp.asarray(q), jnp.asarray(avail), jnp.asarray(0.0))
    np.testing.assert_array_equal(actions, np.broadcast_to(expected, actions.shape))


@pytest.mark.parametrize("greedy", [0, 3])
def test_random_actions_are_uniform_over_legal_actions_only(greedy: int):
    masks = [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]]
    avail = np.array(masks, bool).reshape(E, N, A)
    q = np.zeros((E, N, A), np.float32)
    q[..., greedy] = 1e9  # the values do not matter to a random action
    actions = np.asarray(draws(jnp.asarray(q), jnp.asarray(avail), jnp.asarray(1.0)))
    for e, n in np.ndindex(E, N):
        counts = np.bincount(actions[:, e, n], minlength=A)
        legal = avail[e, n]
        assert (counts[~legal] == 0).all()
        assert legal.sum() == 1 or chi_square(counts[legal], DRAWS / legal.sum())


@given(
    seed=st.integers(0, 2**31 - 1),
    epsilon=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 1e30, np.inf]),
)
def test_no_illegal_action_is_ever_taken(seed: int, epsilon: float, scale: float):
    """Whatever illegal actions are worth; and action 0 where nothing is legal."""
    rng = np.random.default_rng(seed)
    shape = (40, 5, 6)
    avail = rng.random(shape) < rng.random()
    q = np.where(avail, rng.normal(size=shape), scale).astype(np.float32)
    actions = np.asarray(
        act(jax.random.key(seed), jnp.asarray(q), jnp.asarray(avail), jnp.asarray(epsilon))
    )
    legal = np.take_along_axis(avail, actions[..., None], axis=-1)[..., 0]
    some = avail.any(axis=-1)
    assert legal[some].all()
    assert (actions[~some] == 0).all()


# Policies (COMA) ------------------------------------------------------------------------------

probabilities = jax.jit(policy)


def some_logits(rng: np.random.Generator, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and masks; the last agent of the last environment has no legal action."""
    legal = rng.random((E, N, A)) < 0.6
    legal[..., 1], legal[-1, -1] = True, False
    return (scale * rng.normal(size=(E, N, A))).astype(np.float32), legal


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_a_policy_is_a_masked_mixture_of_softmax_and_uniform_choice(epsilon: float):
    logits, legal = some_logits(np.random.default_rng(0))
    pi = np.asarray(probabilities(logits, legal, epsilon))
    for at in np.ndindex(E, N):
        expected = oracle.policy(oracle.f64(logits[at]), legal[at], epsilon)
        np.testing.assert_allclose(pi[at], expected, rtol=1e-5, atol=1e-7)
    some = legal.any(axis=-1)
    np.testing.assert_allclose(pi.sum(axis=-1), some, rtol=1e-6)
    assert (pi[~legal] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_no_legal_action_is_less_likely_than_epsilon_over_all_actions(scale: float):
    logits, legal = some_logits(np.random.default_rng(1), scale)
    pi = np.asarray(probabilities(logits, legal, 0.2))
    assert np.isfinite(pi).all()
    assert (pi[legal] >= 0.2 / A * (1 - 1e-6)).all()
    assert pi[legal].min() < 0.2  # and that is not because all are alike
    np.testing.assert_allclose(pi.sum(axis=-1), legal.any(axis=-1), rtol=1e-6)


def test_a_policy_has_a_finite_gradient_even_where_nothing_is_legal():
    logits, legal = some_logits(np.random.default_rng(2))
    probe = np.random.default_rng(3).normal(size=logits.shape)

    def total(logits: jax.Array, legal: jax.Array) -> jax.Array:
        return jnp.sum(policy(logits, legal, 0.1) * probe)

    gradient = jax.jit(jax.grad(total))(logits, jnp.asarray(legal))
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[-1, -1] == 0).all()
    assert (np.asarray(gradient)[0] != 0).any()


@jax.jit
def policy_draws(logits: jax.Array, avail: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Joint actions for many keys, ``[DRAWS, *b, N]``."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.vmap(lambda key: sample_policy(noise(key, logits), logits, avail, epsilon))(keys)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_actions_are_drawn_as_often_as_the_policy_says(epsilon: float):
    logits, legal = some_logits(np.random.default_rng(4), 1.0)
    actions = np.asarray(policy_draws(logits, legal, jnp.asarray(epsilon)))
    for e, n in np.ndindex(E, N):
        counts = np.bincount(actions[:, e, n], minlength=A)
        if not legal[e, n].any():
            assert counts[0] == DRAWS
            continue
        expected = DRAWS * oracle.policy(oracle.f64(logits[e, n]), legal[e, n], epsilon)
        assert (counts[~legal[e, n]] == 0).all()
        mine = legal[e, n]
        assert mine.sum() == 1 or chi_square(counts[mine], expected[mine]), (e, n, counts)


def test_agents_and_environments_draw_from_their_policies_independently():
    actions = np.asarray(policy_draws(Q, ALL, jnp.asarray(0.2))).reshape(DRAWS, E * N)
    own = oracle.policy(oracle.f64(Q[0, 0]), np.ones(A, bool), 0.2)
    for i, j in itertools.combinations(range(E * N), 2):
        joint = np.bincount(actions[:, i] * A + actions[:, j], minlength=A * A)
        assert chi_square(joint, DRAWS * np.outer(own, own).ravel()), (i, j)


@jax.jit
def draw(key: jax.Array, logits: jax.Array, avail: jax.Array, epsilon: jax.Array) -> jax.Array:
    return sample_policy(noise(key, logits), logits, avail, epsilon)


@given(
    seed=st.integers(0, 2**31 - 1),
    epsilon=st.sampled_from([0.0, 1e-6, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_no_illegal_action_is_ever_drawn(seed: int, epsilon: float, scale: float):
    rng = np.random.default_rng(seed)
    shape = (40, 5, 6)
    avail = rng.random(shape) < rng.random()
    logits = (scale * rng.normal(size=shape)).astype(np.float32)
    actions = np.asarray(draw(jax.random.key(seed), logits, avail, jnp.asarray(epsilon)))
    legal = np.take_along_axis(avail, actions[..., None], axis=-1)[..., 0]
    some = avail.any(axis=-1)
    assert legal[some].all()
    assert (actions[~some] == 0).all()


@pytest.mark.parametrize("worth", [50.0, 1e4])
def test_an_illegal_action_hides_no_legal_one(worth: float):
    """Without epsilon, nothing but the logits of legal actions matters to what is drawn."""
    logits = np.array([[[worth, 0.0, 1.0]]], np.float32)
    legal = np.array([[[False, True, True]]])
    pi = np.asarray(probabilities(logits, legal, 0.0))[0, 0]
    np.testing.assert_allclose(
        pi, [0.0, *oracle.policy(np.array([0.0, 1.0]), [True] * 2, 0.0)], rtol=1e-4
    )
    assert set(np.asarray(policy_draws(logits, legal, jnp.asarray(0.0))).ravel()) == {1, 2}


def test_masked_choices_on_small_tables():
    q = jnp.array([[1.0, 5.0, 5.0], [1.0, 5.0, 2.0], [-7.0, -8.0, -9.0], [3.0, 2.0, 1.0]])
    avail = jnp.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    # the first of equals; not the illegal 5; all negative; nothing legal: action 0, value 0
    np.testing.assert_array_equal(masked_argmax(q, avail), [1, 2, 1, 0])
    np.testing.assert_array_equal(masked_max(q, avail), [5.0, 2.0, -8.0, 0.0])
    np.testing.assert_array_equal(pick(q, jnp.array([0, 1, 2, 0], jnp.int8)), [1.0, 5.0, -9.0, 3.0])

"""Every registered mixer: shapes, gradients, monotonicity (QMIX eq. 4), plain loops."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import builders
import oracle
from builders import SIZES, Sizes, mixer_inputs, random_inputs, random_mixer
from losses import double, gradient_equals_differences
from qtot.core.config import MixerConfig
from qtot.core.methods import METHODS, mixer_class
from qtot.core.mixers.base import MixerInputs, Shapes
from qtot.errors import QtotError

pytestmark = pytest.mark.usefixtures("quick_compile")

# One method for every mixer; the others differ by their losses.
MIXED = list({m.mixer: algo for algo, m in reversed(METHODS.items()) if m.mixer}.values())[::-1]
MONOTONE = [algo for algo in MIXED if mixer_class(algo).monotone]
call = jax.jit(lambda mixer, x: mixer(x))


def rng_of(algo: str) -> np.random.Generator:
    return np.random.default_rng(sorted(METHODS).index(algo))


def heads(algo: str, sizes: Sizes) -> int:
    """M: one value per agent without a mixer, else one."""
    return sizes.N if algo == "iql" else 1


ONES = [Sizes(), *(Sizes()._replace(**{axis: 1}) for axis in "TBNAS"), Sizes(1, 1, 1, 1, 1, 1, 1)]


@pytest.mark.parametrize("sizes", ONES, ids=lambda s: "T{}-B{}-N{}-A{}-O{}-S{}-H{}".format(*s))
@pytest.mark.parametrize("algo", MIXED)
def test_output_is_one_value_per_head_whatever_the_sizes(algo: str, sizes: Sizes):
    rng = rng_of(algo)
    inputs = random_mixer(rng, algo, sizes), random_inputs(rng, sizes)
    out = jax.eval_shape(lambda mixer, x: mixer(x), *inputs)
    assert out.shape == (sizes.T, sizes.B, heads(algo, sizes))
    assert out.dtype == jnp.float32


@pytest.mark.parametrize("algo", MIXED)
def test_every_slot_is_mixed_by_itself(algo: str):
    """[T, B] at once equals one slot at a time: nothing broadcasts across time or batch."""
    rng = rng_of(algo)
    mixer, x = random_mixer(rng, algo), random_inputs(rng)
    together = call(mixer, x)
    for t, b in itertools.product(range(SIZES.T), range(SIZES.B)):
        alone = call(mixer, jax.tree.map(lambda y: y[t : t + 1, b : b + 1], x))  # noqa: B023
        np.testing.assert_allclose(together[t, b], alone[0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("algo", "layers"),
    [("iql", 2), ("vdn", 2), ("qmix", 1), ("qmix", 2), ("qatten", 2), ("qplex", 2)],
)
def test_mixer_equals_a_plain_loop(algo: str, layers: int):
    rng = np.random.default_rng(layers)
    config = MixerConfig(embed=4, hypernet_layers=layers, hypernet_embed=5, heads=3)
    mixer, x = random_mixer(rng, algo, config=config, scale=1.0), random_inputs(rng)
    got = call(mixer, x)
    for t, b in itertools.product(range(SIZES.T), range(SIZES.B)):
        seen = oracle.Seen(
            q=oracle.f64(x.q_taken[t, b]),
            state=oracle.f64(x.state[t, b]),
            greedy=oracle.f64(x.q_greedy[t, b]),
            action=list(x.action[t, b]),
            hidden=oracle.f64(x.hidden[t, b]),
            n_actions=SIZES.A,
        )
        np.testing.assert_allclose(
            got[t, b], oracle.MIXERS[algo](mixer, seen), rtol=1e-5, atol=1e-5
        )


def test_ablations_equal_their_formulas():
    rng = np.random.default_rng(0)
    x = random_inputs(rng)
    q, state = oracle.f64(x.q_taken)[0, 0], oracle.f64(x.state)[0, 0]

    def value(m: Any) -> float:
        return oracle.state_value(m.value, state)

    m: Any = random_mixer(rng, "vdn_s")
    np.testing.assert_allclose(call(m, x)[0, 0, 0], q.sum() + value(m), rtol=1e-5)

    m = random_mixer(rng, "qmix_lin")
    weights = np.abs(oracle.mlp(m.hyper_w, state))
    np.testing.assert_allclose(call(m, x)[0, 0, 0], weights @ q + value(m), rtol=1e-5)

    m = random_mixer(rng, "qmix_ns")
    hidden = oracle.elu(q @ np.abs(oracle.f64(m.w_1)) + oracle.f64(m.b_1))
    expected = hidden @ np.abs(oracle.f64(m.w_final)) + oracle.f64(m.bias)[0]
    np.testing.assert_allclose(call(m, x)[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("algo", MIXED)
def test_gradients_equal_finite_differences(algo: str):
    """In float64, along random directions of weights, Q-values and state."""
    with jax.enable_x64(True):
        rng = rng_of(algo)
        base, x = double(random_mixer(rng, algo)), double(random_inputs(rng))
        probe = rng.normal(size=(SIZES.T, SIZES.B, heads(algo, SIZES)))

        def scalar(inputs: tuple[Any, jax.Array, jax.Array], x: MixerInputs) -> jax.Array:
            mixer, q, state = inputs
            seen = mixer_inputs(q, x.action, x.avail_actions, state, x.hidden)
            return jnp.sum(mixer(seen) * probe)

        gradient_equals_differences(scalar, (base, x.q, x.state), x)
    assert jnp.zeros(()).dtype == jnp.float32  # x64 did not leak


@pytest.mark.parametrize("algo", MIXED)
def test_every_parameter_receives_a_gradient(algo: str):
    rng = rng_of(algo)
    mixer, x = random_mixer(rng, algo), random_inputs(rng, SIZES._replace(T=20))
    grads = jax.jit(jax.grad(lambda m, x: jnp.sum(m(x) ** 2)))(mixer, x)
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(g).all(), jax.tree_util.keystr(path)
        assert (np.asarray(g) != 0).mean() > 0.5, jax.tree_util.keystr(path)


# Eq. 4: N = 3 agents of A = 3 actions, all 27 joint actions at once along the leading axis.
TEAM = Sizes(N=3, A=3)
JOINT = np.array(list(itertools.product(range(TEAM.A), repeat=TEAM.N)), np.int32)


@functools.cache
def judge(algo: str) -> Any:
    """Q_tot of every joint action ``[27, M]``, and ∂Q_tot/∂Q_a there ``[27, M, N]``."""

    def both(mixer: Any, x: MixerInputs) -> tuple[jax.Array, jax.Array]:
        def of_taken(taken: jax.Array) -> jax.Array:
            return mixer(x._replace(q_taken=taken))

        q_tot = of_taken(x.q_taken)
        rows = [
            jax.grad(lambda taken, m=m: jnp.sum(of_taken(taken)[:, m]))(x.q_taken)
            for m in range(q_tot.shape[-1])
        ]
        return q_tot, jnp.stack(rows, axis=1)

    return jax.jit(both)


def team_inputs(rng: np.random.Generator, scale: float, state_scale: float) -> MixerInputs:
    """One state and one set of Q-values, in float64, seen with each joint action."""
    mask = builders.random_mask(rng, TEAM.N, TEAM.A)
    q = scale * rng.normal(size=(TEAM.N, TEAM.A))

    def repeat(y: np.ndarray) -> np.ndarray:
        return np.broadcast_to(y, (len(JOINT), *y.shape))

    return mixer_inputs(
        repeat(q),
        JOINT,
        repeat(mask),
        repeat(state_scale * rng.normal(size=TEAM.S)),
        repeat(rng.normal(size=(TEAM.N, TEAM.H))),
    )


@pytest.mark.parametrize("algo", MONOTONE)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.sampled_from([0.1, 1.0, 10.0]),
    q_scale=st.sampled_from([0.0, 0.1, 1.0, 100.0, 1e6]),
    state_scale=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_monotone_mixers_keep_the_joint_argmax(
    algo: str, seed: int, weights: float, q_scale: float, state_scale: float
):
    """No joint action beats every agent's own greedy action, among the legal ones; and every
    agent's weight is at least zero.
    """
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        mixer = double(random_mixer(rng, algo, TEAM, scale=weights))
        x = team_inputs(rng, q_scale, state_scale)
        q_tot, slopes = (np.asarray(y) for y in judge(algo)(mixer, x))
    assert (slopes >= 0).all()

    q, mask = x.q[0], x.avail_actions[0]
    greedy = np.where(mask, q, -np.inf).argmax(axis=-1)
    legal = mask[np.arange(TEAM.N), JOINT].all(axis=-1)
    chosen = q_tot[(greedy == JOINT).all(axis=-1)][0]
    best = q_tot[legal].max(axis=0)
    rounding = 1e-9 * np.abs(q_tot).max()
    assert (chosen >= best - rounding).all()


@pytest.mark.parametrize("algo", MONOTONE)
def test_a_better_own_action_is_never_worse_for_the_team_in_float32(algo: str):
    """Raising one agent's value, from far below to far above, never lowers Q_tot."""
    rng = rng_of(algo)
    mixer = random_mixer(rng, algo, scale=1.0)
    lead = 200
    x = random_inputs(rng, SIZES._replace(T=lead, B=1))
    same = jax.tree.map(lambda y: np.broadcast_to(y[:1], y.shape), x)
    climb = np.concatenate([-np.logspace(4, -4, lead // 2), np.logspace(-4, 4, lead // 2)])
    for agent in range(SIZES.N):
        q = same.q.copy()
        q[:, 0, agent, same.action[0, 0, agent]] = climb
        seen = mixer_inputs(q, same.action, same.avail_actions, same.state, same.hidden)
        q_tot = np.asarray(call(mixer, seen))[:, 0]
        rounding = 1e-6 * np.abs(q_tot).max(axis=-1, keepdims=True)
        assert (np.diff(q_tot, axis=0) >= -rounding[1:]).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.sampled_from([0.1, 1.0, 10.0]),
    state_scale=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_the_weights_of_qplex_are_above_zero_and_depend_on_the_joint_action(
    seed: int, weights: float, state_scale: float
):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        mixer: Any = double(random_mixer(rng, "qplex", TEAM, scale=weights))
        state = np.broadcast_to(state_scale * rng.normal(size=TEAM.S), (len(JOINT), TEAM.S))
        played = np.eye(TEAM.A)[JOINT].reshape(len(JOINT), -1)
        importance = np.asarray(importance_of(mixer.kernels, state, played))
    # So close to zero only where a sigmoid is.
    assert (importance >= 0).all() and np.isfinite(importance).all()
    if weights < 10.0 and state_scale < 100.0:
        assert (importance > 0).all()
        assert (np.ptp(importance, axis=0) > 0).all()


importance_of = jax.jit(lambda kernels, *args: kernels(*args))


def test_qplex_can_hold_what_no_monotone_mixer_can():
    """A monotone Q_tot orders an agent's actions alike whatever the others play."""
    rng = np.random.default_rng(0)
    mixer: Any = random_mixer(rng, "qplex", TEAM, scale=2.0)
    x = jax.tree.map(
        lambda y: y.astype(np.float32) if y.dtype == np.float64 else y,
        team_inputs(rng, 1.0, 1.0)._replace(avail_actions=np.ones((27, TEAM.N, TEAM.A), bool)),
    )
    x = mixer_inputs(x.q, x.action, x.avail_actions, x.state, x.hidden)
    q_tot = np.asarray(call(mixer, x))[:, 0].reshape(TEAM.A, TEAM.A, TEAM.A)
    orders = np.argsort(q_tot, axis=0).reshape(TEAM.A, -1)
    assert len(np.unique(orders.T, axis=0)) > 1


def test_the_attention_of_qatten_trains_no_agent():
    """Its keys read hidden states, through which no gradient flows; its Q-values do."""
    rng = np.random.default_rng(0)
    mixer, x = random_mixer(rng, "qatten"), random_inputs(rng)

    def total(read: tuple[jax.Array, jax.Array], mixer: Any, x: MixerInputs) -> jax.Array:
        return jnp.sum(mixer(x._replace(hidden=read[0], q_taken=read[1])) ** 2)

    of_hidden, of_taken = jax.jit(jax.grad(total))((x.hidden, x.q_taken), mixer, x)
    assert (np.asarray(of_hidden) == 0).all()
    assert (np.asarray(of_taken) != 0).all()
    other = x._replace(hidden=x.hidden[::-1])
    assert not np.allclose(call(mixer, x), call(mixer, other), atol=1e-3)  # but they are read


def test_initial_weights_depend_on_the_key_and_are_finite():
    shapes = Shapes(2, 3, 5, 4)
    config = MixerConfig(embed=4, hypernet_layers=1)
    build = jax.jit(lambda key: mixer_class("qmix")(key, shapes, config))
    one, same, other = (jax.tree.leaves(build(jax.random.key(k))) for k in (0, 0, 1))
    for a, b, c in zip(one, same, other, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_a_misspelt_method_names_the_nearest_one():
    with pytest.raises(QtotError, match="did you mean 'qmix'"):
        mixer_class("qmixx")


def test_the_registry_declares_what_is_monotone():
    assert MONOTONE == MIXED  # all of them
    names = "iql vdn vdn_s qmix qmix_lin qmix_ns qatten qplex"
    assert set(names.split()) == set(MIXED)
    assert mixer_class("coma") is None
    assert mixer_class("cw_qmix") is mixer_class("ow_qmix") is mixer_class("qmix")

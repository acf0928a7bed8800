"""λ- and n-step returns: worked out by hand, as identities, and against the forward view."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from qtot.core.targets import lambda_returns, n_step_returns

GAMMA = 0.9
lambda_of = jax.jit(lambda_returns, static_argnames=("gamma", "lam"))
n_step_of = jax.jit(n_step_returns, static_argnames=("gamma", "n"))


class Line(NamedTuple):
    """The arguments, in their order."""

    reward: np.ndarray
    terminated: np.ndarray
    follows: np.ndarray
    next_value: np.ndarray


def line(reward: list[float], ends: str, next_value: list[float]) -> tuple[Line, np.ndarray]:
    """One sequence. ``ends``: a letter a slot, . goes on, x terminates, o is truncated,
    F is a final observation, P padding. Also which slots are transitions.
    """
    valid = np.array([e in ".xo" for e in ends])
    follows = np.append(valid[1:], False)
    floats = (np.array(x, np.float32) for x in (reward, next_value))
    return Line(next(floats), np.array([e == "x" for e in ends]), follows, next(floats)), valid


# Rewards 1, 2, 4 and values 10, 20, 30 of the slots after; gamma 0.5, so that sums stay exact.
BY_HAND = {
    # cut by the sequence's end: V_3 = 30 is bootstrapped
    #   one step: 1 + .5·10 = 6 · 2 + .5·20 = 12 · 4 + .5·30 = 19
    #   λ = .5:  G_2 = 19;  G_1 = 2 + .5(.5·20 + .5·19) = 11.75;  G_0 = 1 + .5(.5·10 + .5·11.75)
    #   n = 2:   G_1 = 2 + .5·4 + .25·30 = 11.5;  G_0 = 1 + .5·2 + .25·20 = 7
    #   λ = 1:   G_1 = 2 + .5·19 = 11.5;  G_0 = 1 + .5·11.5 = 6.75
    "running": ("...", [6, 12, 19], [6.4375, 11.75, 19], [7, 11.5, 19], [6.75, 11.5, 19]),
    # a time limit after the last transition reads the same
    "truncated": ("..o", [6, 12, 19], [6.4375, 11.75, 19], [7, 11.5, 19], [6.75, 11.5, 19]),
    # a true end: nothing after it has a value
    #   λ = .5:  G_2 = 4;  G_1 = 2 + .5(.5·20 + .5·4) = 8;  G_0 = 1 + .5(.5·10 + .5·8) = 5.5
    #   n = 2:   G_1 = 2 + .5·4 = 4;  G_0 = 7.      λ = 1: G_1 = 4, G_0 = 1 + .5·4 = 3
    "terminated": ("..x", [6, 12, 4], [5.5, 8, 4], [7, 4, 4], [3, 4, 4]),
    # truncated after slot 0; slot 1 shows its final observation, slot 2 opens another episode:
    # slot 0 can only bootstrap from V_1 = 10
    "truncated at once": ("oF.", [6, None, 19], [6, None, 19], [6, None, 19], [6, None, 19]),
    "terminated at once": ("xF.", [1, None, 19], [1, None, 19], [1, None, 19], [1, None, 19]),
    # truncated after slot 1, then its final observation:  λ = .5: G_0 = 1 + .5(5 + .5·12) = 6.5
    #   n = 2 and λ = 1: G_0 = 1 + .5·12 = 7
    "truncated, then final": (".oF", [6, 12, None], [6.5, 12, None], [7, 12, None], [7, 12, None]),
    # terminated after slot 1:  λ = .5: G_0 = 1 + .5(5 + .5·2) = 4;  n = 2 and λ = 1: 1 + .5·2 = 2
    "terminated, then final": (".xF", [6, 2, None], [4, 2, None], [2, 2, None], [2, 2, None]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_returns_worked_out_by_hand(name: str):
    ends, one_step, half, two_step, full = BY_HAND[name]
    args, valid = line([1.0, 2.0, 4.0], ends, [10.0, 20.0, 30.0])
    got = {
        "lambda 0": (lambda_of(*args, gamma=0.5, lam=0.0), one_step),
        "lambda 0.5": (lambda_of(*args, gamma=0.5, lam=0.5), half),
        "lambda 1": (lambda_of(*args, gamma=0.5, lam=1.0), full),
        "n 1": (n_step_of(*args, gamma=0.5, n=1), one_step),
        "n 2": (n_step_of(*args, gamma=0.5, n=2), two_step),
        "n 3": (n_step_of(*args, gamma=0.5, n=3), full),
        "n 99": (n_step_of(*args, gamma=0.5, n=99), full),
    }
    for what, (returns, expected) in got.items():
        want = np.array([np.nan if x is None else x for x in expected])
        np.testing.assert_array_equal(np.asarray(returns)[valid], want[valid], err_msg=what)


def test_the_reward_at_the_end_of_an_episode_reaches_its_start():
    """A chain with reward 1 at its true end: .81, .9, 1, whatever the values after it."""
    args, _ = line([0, 0, 1, 5, 0], "..xF.", [0, 0, 7, 7, 7])
    returns = lambda_of(*args, gamma=0.9, lam=1.0)
    np.testing.assert_allclose(returns[:3], [0.81, 0.9, 1.0], rtol=1e-6)
    args, _ = line([0, 0, 1, 5, 0], "..xF.", [0.9, 1.0, 7, 7, 7])  # the right values
    for lam in (0.0, 0.5):
        np.testing.assert_allclose(
            lambda_of(*args, gamma=0.9, lam=lam)[:3], [0.81, 0.9, 1.0], rtol=1e-6
        )


# Random streams: 5 columns of 8 slots, always of the same shape, so that each λ compiles once.
T, B = 8, 5
letters = st.lists(st.sampled_from("....xoP"), min_size=T, max_size=T)
finite = st.floats(-10, 10, width=32)


def stream(draws: list[str], begins_final: bool) -> str:
    """A legal stream of slots: F follows every end, and padding lasts until the end."""
    slots, final = "", begins_final
    for draw in draws:
        if slots.endswith(("P", "FP")) or (draw == "P" and slots.endswith("F")):
            slots += "P"
            continue
        slot = "F" if final else draw.replace("P", ".")
        slots, final = slots + slot, slot in "xo"
    return slots


@st.composite
def streams(draw: st.DrawFn) -> tuple[Line, np.ndarray]:
    columns = []
    for _ in range(B):
        ends = stream(draw(letters), draw(st.booleans()))
        floats = st.lists(finite, min_size=T, max_size=T)
        columns.append(line(draw(floats), ends, draw(floats)))
    args = Line(*(np.stack(xs, axis=1) for xs in zip(*(c for c, _ in columns), strict=True)))
    return args, np.stack([v for _, v in columns], axis=1)


def by_loop(one: partial, args: Line) -> np.ndarray:
    """``one`` at every slot of every column."""
    out = np.zeros((T, B))
    for b in range(B):
        for t in range(T):
            out[t, b] = one(*(x[:, b] for x in args), t)
    return out


@given(streams(), st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_lambda_returns_equal_the_forward_view(drawn: tuple[Line, np.ndarray], lam: float):
    args, _ = drawn
    expected = by_loop(partial(oracle.lambda_return, lam=lam, gamma=GAMMA), args)
    np.testing.assert_allclose(
        lambda_of(*args, gamma=GAMMA, lam=lam), expected, rtol=1e-5, atol=1e-5
    )


@given(streams(), st.sampled_from([1, 2, 3, T, T + 5]))
def test_n_step_returns_equal_a_plain_loop(drawn: tuple[Line, np.ndarray], n: int):
    args, _ = drawn
    expected = by_loop(partial(oracle.n_step_return, n=n, gamma=GAMMA), args)
    np.testing.assert_allclose(n_step_of(*args, gamma=GAMMA, n=n), expected, rtol=1e-5, atol=1e-5)


@given(streams())
def test_lambda_0_and_one_step_are_the_same_target(drawn: tuple[Line, np.ndarray]):
    args, _ = drawn
    plain = args.reward + np.float32(GAMMA) * np.where(args.terminated, 0, args.next_value)
    np.testing.assert_allclose(lambda_of(*args, gamma=GAMMA, lam=0.0), plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(n_step_of(*args, gamma=GAMMA, n=1), plain, rtol=1e-5, atol=1e-6)


@given(streams())
def test_lambda_1_and_n_of_the_whole_length_are_the_same_target(drawn: tuple[Line, np.ndarray]):
    args, _ = drawn
    full = lambda_of(*args, gamma=GAMMA, lam=1.0)
    for n in (T, T + 5):
        np.testing.assert_allclose(n_step_of(*args, gamma=GAMMA, n=n), full, rtol=1e-5, atol=1e-5)


@given(streams(), st.integers(1, T - 1), st.integers(0, 99))
def test_nothing_leaks_across_episodes(drawn: tuple[Line, np.ndarray], cut: int, seed: int):
    """Whatever happens from an episode's final observation on, what came before keeps every bit,
    except for the value of that final observation itself where it was truncated.
    """
    args, _ = drawn
    rng = np.random.default_rng(seed)
    follows = args.follows.copy()
    follows[cut - 1] = False  # slot ``cut`` is a final observation in every column
    args = args._replace(follows=follows)

    def other(x: np.ndarray) -> np.ndarray:
        noise = (1e6 * rng.normal(size=x.shape)).astype(x.dtype)
        return np.where(np.arange(T)[:, None] < cut, x, noise if x.dtype != bool else ~x)

    changed = Line(*(other(x) for x in args))
    for returns_of in (partial(lambda_of, lam=0.95), partial(n_step_of, n=3)):
        np.testing.assert_array_equal(
            returns_of(*args, gamma=GAMMA)[:cut], returns_of(*changed, gamma=GAMMA)[:cut]
        )


@given(streams())
def test_what_follows_a_true_end_has_no_value(drawn: tuple[Line, np.ndarray]):
    args, _ = drawn
    nan = args._replace(next_value=np.where(args.terminated, np.nan, args.next_value))
    for returns_of in (
        partial(lambda_of, lam=0.0),
        partial(lambda_of, lam=0.95),
        partial(n_step_of, n=3),
    ):
        np.testing.assert_array_equal(returns_of(*args, gamma=GAMMA), returns_of(*nan, gamma=GAMMA))


def test_values_of_several_heads_do_not_mix():
    """A trailing axis M (independent learning) is only carried along."""
    rng = np.random.default_rng(0)
    args, _ = line([1, 2, 3, 4], ".x..", [0, 0, 0, 0])
    wide = Line(
        *(np.repeat(x[:, None], 3, axis=1) for x in args[:3]),
        rng.normal(size=(4, 3)).astype(np.float32),
    )
    together = lambda_of(*wide, gamma=GAMMA, lam=0.7)
    for m in range(3):
        alone = lambda_of(*args[:3], wide.next_value[:, m], gamma=GAMMA, lam=0.7)
        np.testing.assert_allclose(together[:, m], alone, rtol=1e-6)

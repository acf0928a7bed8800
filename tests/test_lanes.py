"""Environments on the last axis, against ``jax.vmap``; cheap keys; resets drawn ahead."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtot.envs import make_env
from qtot.envs.dice import hashed, unused
from qtot.envs.lanes.vmap import vmap_last
from qtot.envs.stream import chances, draw, draws_at, open_stream, play, see, window

E = 5
KEY = jax.random.key(0)


def agree(ours: Any, theirs: Any, rtol: float = 1e-6) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)  # noqa: PLW2901
        if jnp.issubdtype(b.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
        else:
            np.testing.assert_array_equal(a, b)


TABLE = jnp.arange(12.0).reshape(4, 3)
CONSTANT = jnp.array([2, 0, 3])


def loop(x: Any, i: Any) -> Any:
    def body(carry: Any, row: Any) -> Any:
        kept, y = carry
        return (kept, y * 0.5 + row[i] + kept[1]), y.sum()

    return jax.lax.scan(body, (CONSTANT, x), jnp.stack([x, x + 1, x + 2]))


# Of x [4] and an index i, which may lie out of range.
PROGRAMS: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda x, i: jnp.where(x > 1, 2 * x + TABLE[:, 1], jnp.clip(x, 0, i)),
    "take": lambda x, i: (
        x[i],
        TABLE[i],
        x.at[i].get(mode="fill"),
        CONSTANT.at[i].get(mode="drop"),
    ),
    "take_many": lambda x, i: (x[CONSTANT + i * 0], TABLE[CONSTANT, i % 3], x[CONSTANT]),
    "take_paired": lambda x, i: jnp.take_along_axis(
        x[None] + TABLE[:3, :1], jnp.stack([i, i + 1, i])[:, None], axis=1
    ),
    "put": lambda x, i: (x.at[i].set(7.0), x.at[2].set(i), TABLE.at[i].set(x[:3])),
    "put_rows": lambda x, i: TABLE.at[1:3, 0].set(x[:2]) + i,
    "add_up": lambda x, i: x.at[jnp.stack([i, i, 3 - i])].add(x[:3]),
    "put_each": lambda x, i: jax.vmap(lambda row, j: row.at[j].set(x[1]))(
        TABLE, jnp.stack([i, i + 1, i, i])
    ),
    "shapes": lambda x, i: (
        jnp.pad(x, (1, 2), constant_values=3.0),
        jnp.concatenate([x, jnp.ones(2)])[::-1],
        x.reshape(2, 2).T[1],
        jnp.broadcast_to(x, (2, 4)),
        jnp.stack([x, x + i]),
        jnp.sort(x),
        jnp.roll(x, i),
    ),
    "reductions": lambda x, i: (
        x.sum(),
        x.max(),
        (x > 1).any(),
        x.argmin(),
        jnp.cumsum(x),
        x.mean(),
    ),
    "products": lambda x, i: (TABLE.T @ x, x @ TABLE, jnp.outer(x, x), x @ x),
    "branches": lambda x, i: jax.lax.switch(i, [lambda: x, lambda: -x, lambda: x * 2]),
    "shared_branch": lambda x, i: jax.lax.cond(TABLE[0, 0] > 1, lambda: x, lambda: -x),
    "loop": loop,
    "while": lambda x, i: jax.lax.while_loop(lambda y: y[0] < 9, lambda y: y + 1, x + i),
    "slices": lambda x, i: (jax.lax.dynamic_slice(x, (i,), (2,)), jnp.nonzero(x > 1, size=1)[0]),
    "without_arguments": lambda x, i: (TABLE, CONSTANT[1]),
    "randomness": lambda x, i: jax.random.uniform(
        jax.random.split(jax.random.key(i), 3)[1], (2, 2)
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_kind_of_operation_gives_what_vmap_gives(name: str):
    x = jax.random.normal(KEY, (E, 4)) * 2
    i = jnp.array([0, 3, 1, 5, -1])
    args, f = (x, i), PROGRAMS[name]
    agree(jax.jit(vmap_last(f))(*args), jax.jit(jax.vmap(f))(*args))


@pytest.mark.parametrize(
    "name",
    [
        "smax/3m",
        pytest.param("smax/smacv2_5_units", marks=pytest.mark.long),
        "mpe/simple_spread",
        "mpe/simple_reference",
        pytest.param("lbf/8x8-2p-2f-coop", marks=pytest.mark.long),
    ],
)
def test_a_game_is_the_same_either_way(name: str, quick_compile: None):
    """Step by step along a random play, so that the rounding of one step is not carried on."""
    env = make_env(name)
    both = {
        f: (jax.jit(vmap_last(g)), jax.jit(jax.vmap(g)))
        for f, g in (("reset", env.reset), ("step", env.step), ("observe", env.observe))
    }
    state = [f(jax.random.split(KEY, E)) for f in both["reset"]]
    agree(*state)
    now, rng = state[1], np.random.default_rng(0)
    for t in range(40):
        seen = [f(now) for f in both["observe"]]
        agree(*seen, rtol=2e-5)
        luck = rng.random(seen[0].avail_actions.shape)
        actions = jnp.argmax(seen[0].avail_actions * luck, axis=-1).astype(jnp.int32)
        keys = jax.random.split(jax.random.fold_in(KEY, t), E)
        ours, theirs = (f(keys, now, actions) for f in both["step"])
        agree(ours, theirs, rtol=2e-5)
        now = theirs[0]


# Cheap keys ----------------------------------------------------------------------------------


def test_hashed_keys_draw_evenly_and_independently():
    keys = hashed(jax.random.split(KEY, 64))
    draws = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (512,)))(keys))
    counts = np.histogram(draws, 64, (0, 1))[0]
    assert ((counts - 512) ** 2 / 512).sum() < 63 + 5 * np.sqrt(2 * 63)  # 5 sigma of chi squared
    related = np.corrcoef(draws)[~np.eye(64, dtype=bool)]
    assert np.abs(related).max() < 6 / np.sqrt(512)
    assert abs(np.mean(related)) < 0.005
    after = np.corrcoef(draws[:, 1:].ravel(), draws[:, :-1].ravel())[0, 1]
    assert abs(after) < 5 / np.sqrt(draws.size)


def test_split_and_folded_keys_are_all_different():
    key = hashed(KEY)
    many = [jax.random.split(key, 100), jax.random.split(jax.random.split(key)[0], 100)]
    many.append(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(100)))
    words = np.concatenate([np.asarray(jax.random.key_data(k)) for k in many])
    assert len(np.unique(words, axis=0)) == 300
    first = np.asarray(jax.vmap(jax.random.bits)(jnp.concatenate(many)))
    assert len(np.unique(first)) == 300
    flips = [np.bitwise_count(a ^ b) for a, b in itertools.pairwise(first)]
    assert abs(np.mean(flips) - 16) < 1.5


def test_an_unused_key_draws_a_constant():
    a, b = (jax.random.normal(unused(k), (3,)) for k in jax.random.split(KEY))
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()


# Resets drawn ahead --------------------------------------------------------------------------


@functools.cache
def opened(name: str, slots: int, stretches: int) -> tuple[Any, Any]:
    """The states at every slot of some stretches, ``[slots, E, ...]``, and where episodes open."""
    env = make_env(name)

    @jax.jit
    def stretch(key: Any, stream: Any) -> Any:
        many = chances(env, slots, restart=True)
        draws = draw(env, jax.random.split(key, (many, E)), slots)

        def slot(stream: Any, t: Any) -> Any:
            actions = jnp.argmax(see(env, stream).avail_actions, -1)
            return play(env, draws_at(env, draws, t), stream, actions)[0], stream

        return jax.lax.scan(slot, stream, jnp.arange(slots))

    stream, seen = open_stream(env, jax.random.split(KEY, E)), []
    for i in range(stretches):
        stream, slots_seen = stretch(jax.random.fold_in(KEY, i), stream)
        seen.append(jax.tree.map(np.asarray, slots_seen))
    joined = jax.tree.map(lambda *xs: np.concatenate(xs), *seen)
    return joined.env, joined.first


@pytest.mark.parametrize(
    "name",
    ["probe/distinct", "mpe/simple_spread", pytest.param("smax/3m", marks=pytest.mark.long)],
)
def test_every_episode_opens_from_a_draw_of_its_own(name: str, quick_compile: None):
    states, first = opened(name, slots=29, stretches=6)
    opening = {"probe": "id", "mpe": "p_pos", "smax": "state"}[name.split("/", maxsplit=1)[0]]
    values = getattr(states, opening) if hasattr(states, opening) else states
    values = values.unit_positions if opening == "state" else values
    leaf = jax.tree.leaves(values)[0]
    starts = leaf[first].reshape(first.sum(), -1)
    assert first.sum() >= 2 * E
    assert len(np.unique(starts, axis=0)) == first.sum()


@pytest.mark.parametrize(
    "name", ["mpe/simple_spread", pytest.param("smax/3m", marks=pytest.mark.long)]
)
def test_no_episode_is_shorter_than_declared(name: str, quick_compile: None):
    _, first = opened(name, slots=29, stretches=6)
    for column in first.T:
        assert (np.diff(np.flatnonzero(column)) >= window(make_env(name))).all()

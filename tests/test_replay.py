"""The ring: every number stored says where it belongs, so a wrong sample is visible."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtot.core.replay import Replay, ReplayState
from qtot.errors import QtotError
from qtot.types import Batch, SequenceStart, Slots

ENVS, N, A = 3, 2, 4
ENV = 10_000  # slot t of environment e is numbered t + ENV · e


def example() -> tuple[Slots, SequenceStart]:
    """One slot and start of one environment, in compact types."""
    return Slots(
        obs=jnp.zeros((N, 1)),
        state=jnp.zeros(1),
        avail_actions=jnp.zeros((N, A), bool),
        alive=jnp.zeros(N, bool),
        action=jnp.zeros(N, jnp.int8),
        reward=jnp.zeros(()),
        terminated=jnp.zeros((), bool),
        first=jnp.zeros((), bool),
        valid=jnp.zeros((), bool),
    ), SequenceStart(jnp.zeros((N, 2)), jnp.zeros(N, jnp.int8))


def numbered(begin: int, count: int) -> tuple[Slots, SequenceStart]:
    """Slots ``begin, begin + 1, ...`` of every environment: each field tells its number."""
    number = begin + np.arange(count)[:, None] + ENV * np.arange(ENVS)

    def bits(*shape: int) -> np.ndarray:
        return np.broadcast_to(
            (number % 2 == 1).reshape(count, ENVS, *(1 for _ in shape)), (count, ENVS, *shape)
        )

    def floats(*shape: int) -> np.ndarray:
        wide = number.reshape(count, ENVS, *(1 for _ in shape))
        return np.broadcast_to(wide, (count, ENVS, *shape)).astype(np.float32)

    slots = Slots(
        obs=floats(N, 1),
        state=floats(1),
        avail_actions=bits(N, A),
        alive=bits(N),
        action=(floats(N) % 100).astype(np.int8),
        reward=floats(),
        terminated=bits(),
        first=bits(),
        valid=bits(),
    )
    return slots, SequenceStart(floats(N, 2)[0] + np.float32(0.5), slots.action[0])


add = jax.jit(lambda replay, state, *row: replay.add(state, *row), static_argnums=0)
sample = jax.jit(
    lambda replay, state, *args: replay.read(state, *replay.pick(state, *args)),
    static_argnums=(0, 3),
)


def filled(replay: Replay, rows: int) -> ReplayState:
    """The ring after ``rows`` rows of consecutive slots."""
    state = replay.init(*example())
    for row in range(rows):
        state = add(replay, state, *numbered(row * replay.stride, replay.stride))
    return state


def draw(replay: Replay, state: ReplayState, count: int = 400, seed: int = 0) -> Batch:
    return jax.tree.map(np.asarray, sample(replay, state, jax.random.key(seed), count))


def begins(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Environment, and number of the first slot, of every sampled sequence."""
    number = batch.slots.reward[0].astype(int)
    return number // ENV, number % ENV


def assert_whole(replay: Replay, batch: Batch) -> None:
    """Every sequence is consecutive slots of one environment from a row's beginning, all fields
    agree, and what was remembered belongs to its first slot.
    """
    env, begin = begins(batch)
    assert (begin % replay.stride == 0).all()
    length = replay.stride + replay.overlap
    expected = begin + np.arange(length)[:, None] + ENV * env
    s = batch.slots
    np.testing.assert_array_equal(s.reward, expected)
    np.testing.assert_array_equal(s.state[..., 0], expected)
    for a in range(N):
        np.testing.assert_array_equal(s.obs[:, :, a, 0], expected)
        np.testing.assert_array_equal(s.action[:, :, a], expected % 100)
        np.testing.assert_array_equal(s.alive[:, :, a], expected % 2)
        np.testing.assert_array_equal(batch.start.prev_action[:, a], expected[0] % 100)
        for h in range(2):
            np.testing.assert_array_equal(batch.start.memory[:, a, h], expected[0] + 0.5)
        for i in range(A):
            np.testing.assert_array_equal(s.avail_actions[:, :, a, i], expected % 2)
    for flag in (s.terminated, s.first, s.valid):
        np.testing.assert_array_equal(flag, expected % 2)


SEGMENTS: dict[str, Any] = {"length": 4, "envs": ENVS, "whole_episodes": False}
EPISODES: dict[str, Any] = {"length": 4, "envs": ENVS, "whole_episodes": True}
KINDS = {"segments": SEGMENTS, "episodes": EPISODES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_no_sample_crosses_the_write_head_or_another_environment(kind: str, added: int):
    """From the first rows through several turns of the ring."""
    replay = Replay.make(capacity=3 * ENVS, **KINDS[kind])
    batch = draw(replay, filled(replay, added))
    assert batch.slots.reward.shape == (5, 400)  # T + 1 slots, either way
    assert_whole(replay, batch)


def test_slot_T_of_a_segment_is_slot_0_of_the_next():  # noqa: N802
    replay = Replay.make(capacity=3 * ENVS, **SEGMENTS)
    assert (replay.stride, replay.overlap) == (4, True)
    state = filled(replay, 3)
    both = jax.jit(replay.read)(state, jnp.array([0, 1]), jnp.array([2, 2]))
    np.testing.assert_array_equal(both.slots.reward[:, 0] - 2 * ENV, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(both.slots.reward[:, 1] - 2 * ENV, [4, 5, 6, 7, 8])


def test_whole_episodes_do_not_overlap():
    replay = Replay.make(capacity=3 * ENVS, **EPISODES)
    assert (replay.stride, replay.overlap) == (5, False)
    _, begin = begins(draw(replay, filled(replay, 3)))
    assert set(begin) == {0, 5, 10}


@pytest.mark.parametrize("added", range(2, 12))
def test_every_stored_segment_but_the_newest_is_sampled(added: int):
    replay = Replay.make(capacity=3 * ENVS, **SEGMENTS)
    env, begin = begins(draw(replay, filled(replay, added)))
    oldest = max(0, added - replay.rows)
    rows = range(oldest, added - 1)  # row added − 1 waits for its successor
    assert {(e, b) for e, b in zip(env, begin, strict=True)} == {
        (e, 4 * row) for e in range(ENVS) for row in rows
    }


@pytest.mark.parametrize("added", range(1, 8))
def test_every_stored_episode_is_sampled_the_newest_too(added: int):
    replay = Replay.make(capacity=3 * ENVS, **EPISODES)
    env, begin = begins(draw(replay, filled(replay, added)))
    rows = range(max(0, added - replay.rows), added)
    assert {(e, b) for e, b in zip(env, begin, strict=True)} == {
        (e, 5 * row) for e in range(ENVS) for row in rows
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [3, 11])
def test_sampling_is_uniform(kind: str, added: int):
    replay = Replay.make(capacity=5 * ENVS, **KINDS[kind])
    state, count = filled(replay, added), 20_000
    env, begin = begins(draw(replay, state, count))
    _, seen = np.unique(env * ENV + begin, return_counts=True)
    expected = count / (int(replay.stored(state)) * ENVS)
    chi_square, freedom = ((seen - expected) ** 2 / expected).sum(), len(seen) - 1
    assert len(seen) == int(replay.stored(state)) * ENVS
    assert chi_square < freedom + 6 * (2 * freedom) ** 0.5  # six deviations; the key is fixed


def test_samples_depend_on_the_key_alone():
    replay = Replay.make(capacity=3 * ENVS, **SEGMENTS)
    state = filled(replay, 5)
    one, same, other = (draw(replay, state, seed=seed).slots.reward for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_counts_what_may_be_sampled(kind: str):
    replay = Replay.make(capacity=3 * ENVS, **KINDS[kind])
    state = replay.init(*example())
    counts = [int(replay.stored(state))]
    for row in range(7):
        state = add(replay, state, *numbered(row * replay.stride, replay.stride))
        counts.append(int(replay.stored(state)))
    # nothing, and never less; a segment counts once the next one is there
    assert counts == ([0, 0, 1, 2, 3, 3, 3, 3] if kind == "segments" else [0, 1, 2, 3, 3, 3, 3, 3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("capacity", "kept"), [(1, 3), (3, 3), (4, 6), (6, 6), (7, 9), (100, 102)])
def test_capacity_is_rounded_up_to_whole_rows(kind: str, capacity: int, kept: int):
    """At least as many sequences as were asked for can be sampled, less than a row more."""
    replay = Replay.make(capacity=capacity, **KINDS[kind])
    slots, start = example()
    full = ReplayState(slots, start, written=jnp.asarray(10**6, jnp.int32))
    assert int(replay.stored(full)) * ENVS == kept


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_ring_works(kind: str):
    replay = Replay.make(
        capacity=1, length=1, envs=ENVS, whole_episodes=KINDS[kind]["whole_episodes"]
    )
    for added in (2, 3, 4, 5):
        batch = draw(replay, filled(replay, added))
        assert batch.slots.reward.shape[0] == 2
        assert_whole(replay, batch)


@pytest.mark.parametrize(("capacity", "length"), [(0, 4), (-1, 4), (4, 0)])
def test_an_empty_ring_is_refused(capacity: int, length: int):
    with pytest.raises(QtotError, match=f"at least 1, got {capacity}, {length} and"):
        Replay.make(capacity=capacity, length=length, envs=ENVS, whole_episodes=False)


def test_the_ring_is_allocated_once_in_the_types_of_what_it_holds():
    """R · stride slots per environment, no next-step copies."""
    replay = Replay.make(capacity=3 * ENVS, **SEGMENTS)
    state = jax.eval_shape(lambda: replay.init(*example()))
    slot, start = example()
    for ring, one in zip(jax.tree.leaves(state.slots), jax.tree.leaves(slot), strict=True):
        assert (ring.shape, ring.dtype) == ((ENVS, 4 * 4, *one.shape), one.dtype)
    for ring, one in zip(jax.tree.leaves(state.start), jax.tree.leaves(start), strict=True):
        assert (ring.shape, ring.dtype) == ((ENVS, 4, *one.shape), one.dtype)
    after = jax.eval_shape(replay.add, state, *numbered(0, 4))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )

"""What the replay keeps of slots, and what comes back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtot.core.compact import Codec
from qtot.envs import make_env
from qtot.training.ingraph import Program
from qtot.types import Slots
from small import small_config


def random_slots(rng: np.random.Generator, n: int, a: int, o: int, s: int) -> Slots:
    """A rollout [3, 2] of anything, legal actions or not."""

    def bits(*shape: int) -> np.ndarray:
        return rng.random((3, 2, *shape)) < rng.random()

    def floats(*shape: int) -> np.ndarray:
        return (100 * rng.normal(size=(3, 2, *shape))).astype(np.float32)

    return Slots(
        obs=floats(n, o),
        state=floats(s),
        avail_actions=bits(n, a),
        alive=bits(n),
        action=rng.integers(-1, a, (3, 2, n)).astype(np.int8),
        reward=floats(),
        terminated=bits(),
        first=bits(),
        valid=bits(),
    )


def there_and_back(codec: Codec, slots: Slots) -> Slots:
    return jax.tree.map(np.asarray, jax.jit(lambda x: codec.decode(codec.encode(x)))(slots))


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31 - 1),
    n=st.integers(1, 4),
    a=st.integers(1, 9),
    o=st.integers(1, 4),
    s=st.integers(1, 6),
)
def test_float32_comes_back_bit_by_bit(seed: int, n: int, a: int, o: int, s: int):
    slots = random_slots(np.random.default_rng(seed), n, a, o, s)
    for name, was, now in zip(Slots._fields, slots, there_and_back(Codec(a), slots), strict=True):
        assert was.dtype == now.dtype and was.shape == now.shape, name
        np.testing.assert_array_equal(was, now, err_msg=name)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1 / 2048), ("bfloat16", 1 / 256)])
def test_half_types_are_off_by_no_more_than_is_said(dtype: str, error: float):
    slots = random_slots(np.random.default_rng(0), 3, 4, 50, 60)
    back = there_and_back(Codec(4, dtype), slots)
    for was, now in ((slots.obs, back.obs), (slots.state, back.state)):
        assert 0 < (np.abs(now - was) / np.abs(was)).max() <= error
    np.testing.assert_array_equal(back.reward, slots.reward)
    np.testing.assert_array_equal(back.avail_actions, slots.avail_actions)


def test_float16_cuts_what_it_cannot_hold():
    slots = random_slots(np.random.default_rng(0), 1, 2, 2, 2)
    slots.obs[:] = 1e6
    slots.state[:] = -1e6
    back = there_and_back(Codec(2, "float16"), slots)
    assert (back.obs == 65504).all() and (back.state == -65504).all()


def test_a_state_made_of_the_observations_is_not_stored():
    slots = random_slots(np.random.default_rng(0), 2, 3, 4, 7)
    obs = slots.obs.copy()
    obs[..., 1, 3:] = 0.0  # padding
    slots = slots._replace(obs=obs, state=np.concatenate([obs[..., 0, :], obs[..., 1, :3]], -1))
    codec = Codec(3, obs_sizes=(4, 3))
    assert jax.eval_shape(codec.encode, slots).state is None
    np.testing.assert_array_equal(there_and_back(codec, slots).state, slots.state)


@pytest.mark.parametrize("env", ["mpe/simple_speaker_listener", "smax/3m"])
def test_what_was_played_is_what_is_learned_from(env: str):
    """Through a real program: the rollout, stored and decoded, is the rollout."""
    program = Program.make(make_env(env), small_config(env, collect={"envs": 4}))

    @jax.jit
    def play(seed: Any) -> Any:
        state = program.init_seed(seed)
        slots = program.collect(state.key, state.actors, state.train, jnp.ones(()))[1]
        return slots, program.from_replay.codec.decode(program.from_replay.codec.encode(slots))

    was, now = jax.tree.map(np.asarray, play(np.int32(0)))
    derived = program.collector.env.spec.state_source == "concatenated observations"
    assert bool(program.from_replay.codec.obs_sizes) == derived
    for name, a, b in zip(Slots._fields, was, now, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)

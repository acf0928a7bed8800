"""Streams of slots as the collector makes them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from qtot.envs import make_env
from qtot.training.ingraph import Program
from small import small_config


@functools.cache
def collector_of(env, envs=4, length=8, sequences="segments", memory="none", algo="qmix"):
    config = small_config(
        env,
        algo,
        collect={"envs": envs},
        replay={"length": length, "sequences": sequences},
        agent={"memory": memory, "prev_action": memory == "gru"},
    )
    program = Program.make(make_env(env), config)
    state = jax.jit(program.init_seed)(jnp.int32(0))
    return jax.jit(program.collector.collect), state


def collect(env, times=1, epsilon=1.0, **kwargs):
    """``times`` rollouts in a row, joined in time: slots ``[times * T, E, ...]`` and tallies."""
    run, seed = collector_of(env, **kwargs)
    actors, out, starts, tallies = seed.actors, [], [], []
    for i in range(times):
        key = jax.random.fold_in(seed.key, i)
        actors, slots, start, tally = run(
            key, actors, seed.train.online, seed.train.stats, jnp.float32(epsilon)
        )
        out.append(jax.tree.map(np.asarray, slots))
        starts.append(jax.tree.map(np.asarray, start))
        tallies.append(jax.tree.map(float, tally))
    joined = jax.tree.map(lambda *xs: np.concatenate(xs), *out)
    return joined, starts, tallies, seed


def test_final_observations_are_slots_of_their_own_and_resets_follow_them():
    slots, *_ = collect("probe/chain", times=3, length=6)
    # 3 transitions, then the final observation, again and again, across rollout boundaries.
    valid = np.resize([True, True, True, False], 18)
    np.testing.assert_array_equal(slots.valid, np.repeat(valid[:, None], 4, axis=1))
    np.testing.assert_array_equal(slots.first[:, 0], np.resize([True, False, False, False], 18))
    np.testing.assert_array_equal(
        slots.terminated[:, 0], np.resize([False, False, True, False], 18)
    )
    np.testing.assert_array_equal(slots.reward[:, 0], np.resize([0, 0, 1, 0], 18))


def test_a_time_limit_is_no_termination():
    slots, *_ = collect("probe/chain_truncated", times=2)
    assert not slots.terminated.any()
    assert (~slots.valid).sum() == 4 * 4  # but episodes did end


def test_an_episode_longer_than_three_rollouts_ends_once():
    """96 transitions in rollouts of 32: a loop that resets at every update never ends it."""
    slots, _, tallies, _ = collect("probe/long", times=4, length=32)
    assert slots.terminated.sum() == 4  # once per environment
    assert [t.episodes for t in tallies] == [0, 0, 4, 0]
    assert tallies[2].episode_return == 4.0
    assert tallies[2].episode_length == 4 * 96


def test_one_dead_agent_does_not_end_the_teams_episode():
    slots, *_ = collect("probe/dead", times=1, length=10)
    np.testing.assert_array_equal(slots.terminated[:4, 0], [False, False, False, True])
    assert not slots.alive[2, 0, 1]
    assert slots.valid[3].all()


def test_every_environment_has_a_state_of_its_own():
    slots, *_ = collect("probe/distinct", envs=16)
    ids = slots.state[0, :, 0]
    assert len(np.unique(ids)) == 16
    np.testing.assert_array_equal(slots.obs[0, :, 0, 0], ids)  # and its agents see that one


def test_agents_and_environments_explore_by_coins_of_their_own():
    """One draw for all would make every row of joint actions equal."""
    slots, *_ = collect("matrix/climbing", envs=64, length=50)
    actions = slots.action[slots.valid].astype(int)  # [slots, 2] of 3 actions
    joint = np.bincount(actions[:, 0] * 3 + actions[:, 1], minlength=9) / len(actions)
    np.testing.assert_allclose(joint, 1 / 9, atol=0.03)
    across = slots.action[:20].reshape(20, -1)
    assert min(len(np.unique(row)) for row in across) == 3


def test_a_segment_starts_from_the_memory_and_action_that_preceded_it():
    slots, starts, _, seed = collect("probe/memory", times=3, length=3, memory="gru", epsilon=0.0)
    agent = seed.train.online.agent
    previous = np.concatenate([np.full_like(slots.action[:1], -1), slots.action[:-1]])
    memory = agent.initial_memory(4)
    for t in range(9):
        if t % 3 == 0:
            np.testing.assert_allclose(starts[t // 3].memory, memory, atol=1e-6)
            np.testing.assert_array_equal(starts[t // 3].prev_action, previous[t])
        args = (slots.obs[t], previous[t].astype(np.int32), slots.first[t])
        _, _, memory = agent.unroll(*(jnp.asarray(x)[None] for x in args), memory)


def test_a_segment_is_stored_with_the_memory_of_a_critics_own_agents_too(quick_compile):
    kwargs = {"length": 3, "memory": "gru", "epsilon": 0.0, "algo": "cw_qmix"}
    slots, starts, _, seed = collect("probe/memory", times=3, **kwargs)
    online = seed.train.online
    own, central = online.agent, online.critic.agent
    previous = np.concatenate([np.full_like(slots.action[:1], -1), slots.action[:-1]])
    memories = [agent.initial_memory(4) for agent in (own, central)]
    for t in range(9):
        if t % 3 == 0:
            stored = starts[t // 3].memory
            np.testing.assert_allclose(stored, np.concatenate(memories, axis=-1), atol=1e-6)
        args = (slots.obs[t], previous[t].astype(np.int32), slots.first[t])
        args = tuple(jnp.asarray(x)[None] for x in args)
        memories = [
            agent.unroll(*args, memory)[2]
            for agent, memory in zip((own, central), memories, strict=True)
        ]
    assert not np.allclose(*memories, atol=1e-3)


def test_whole_episodes_begin_anew_each_time_and_pad_after_the_end():
    slots, starts, tallies, _ = collect("probe/chain", times=2, sequences="episodes", memory="gru")
    np.testing.assert_array_equal(slots.first[:, 0], [True, False, False, False] * 2)
    np.testing.assert_array_equal(slots.valid[:, 0], [True, True, True, False] * 2)
    assert tallies[1].episodes == 4
    assert not starts[1].memory.any()
    assert (starts[1].prev_action == -1).all()


def test_tally_counts_valid_transitions_only():
    slots, _, tallies, _ = collect("probe/chain", times=2, length=6)
    assert sum(t.transitions for t in tallies) == slots.valid.sum() == 4 * 9


def test_rewards_of_a_real_stream_add_up_to_the_tallied_returns():
    slots, _, tallies, _ = collect("mpe/simple_spread", times=4, envs=8, length=32)
    reward, valid, first = slots.reward, slots.valid, slots.first
    total, running = 0.0, np.zeros(8)
    for t in range(len(reward)):
        running = np.where(first[t], 0.0, running) + reward[t]
        final = ~valid[t]
        total += running[final].sum()  # the final slot adds nothing
    tallied = sum(t.episode_return for t in tallies)
    assert sum(t.episodes for t in tallies) == 8 * (128 // 27)
    np.testing.assert_allclose(total, tallied, rtol=1e-4)

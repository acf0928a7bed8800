"""Adapters beside plain loops over the raw packages, and beside small environments by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import qtot
from extras import package
from host_envs import UNIT, Pair, Script
from host_oracle import played
from qtot.envs import FAMILIES, family_of, make_env, tasks
from qtot.envs.base import JaxEnv
from qtot.envs.host.base import GarbageError, HostEnv, Seen, Stepped
from qtot.envs.host.config import HostConfig
from qtot.envs.host.copies import maker
from qtot.envs.host.gymnasium import GymnasiumTeam
from qtot.envs.host.own import open_env
from qtot.envs.host.pettingzoo import PettingZooTeam
from qtot.envs.matrix import MarkovGame
from qtot.errors import QtotError
from qtot.training.world import World

spaces = package("gymnasium.spaces", "gym")
gymnasium = package("gymnasium", "gym")
conversions = package("pettingzoo.utils.conversions", "pettingzoo")
package("mpe2", "pettingzoo")
package("lbforaging", "gym")
package("rware", "gym")

PETTINGZOO = tasks("pettingzoo")
GYM = ("Foraging-8x8-2p-2f-coop-v3", "Foraging-2s-8x8-2p-2f-v3", "rware-tiny-2ag-v2")


def zoo(*args: Any, config: HostConfig | None = None, **kwargs: Any) -> PettingZooTeam:
    return PettingZooTeam(Script(*args, **kwargs), "own:script", config)


def well_formed(env: HostEnv, seen: Seen) -> None:
    spec = env.spec
    n, o, a = spec.n_agents, spec.obs_size, spec.max_actions
    assert (seen.obs.shape, seen.obs.dtype) == ((n, o), np.float32)
    assert (seen.state.shape, seen.state.dtype) == ((spec.state_size,), np.float32)
    assert (seen.avail_actions.shape, seen.avail_actions.dtype) == ((n, a), bool)
    assert (seen.alive.shape, seen.alive.dtype) == ((n,), bool)
    assert seen.avail_actions.any(axis=1).all()
    for i, actions in enumerate(spec.n_actions):
        assert not seen.avail_actions[i, actions:].any()
        assert not seen.obs[i, spec.obs_sizes[i] :].any()


# Beside the raw packages ------------------------------------------------------------------------


@pytest.mark.parametrize("task", PETTINGZOO)
def test_mpe_is_as_pettingzoo_plays_it(task: str):
    import importlib

    ours = make_env(f"pettingzoo/{task}", HostConfig(args=("max_cycles=7",)))
    raw = importlib.import_module(task).parallel_env(max_cycles=7)
    assert isinstance(ours, HostEnv) and ours.spec.episode_limit == 7
    assert ours.spec.agents == tuple(raw.possible_agents)
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        seen, (obs, _) = ours.reset(seed), raw.reset(seed=seed)
        for step in range(1, 8):
            well_formed(ours, seen)
            for i, agent in enumerate(raw.possible_agents):
                np.testing.assert_array_equal(seen.obs[i, : obs[agent].size], obs[agent])
            np.testing.assert_array_equal(seen.state, raw.state())
            actions = [int(rng.integers(n)) for n in ours.spec.n_actions]
            got = ours.step(actions)
            obs, rewards, _, cut, _ = raw.step(dict(zip(raw.possible_agents, actions, strict=True)))
            assert got.reward == pytest.approx(sum(rewards.values()), rel=1e-12)
            assert ours.agent_rewards.tolist() == [rewards[a] for a in raw.possible_agents]
            assert (got.terminated, got.truncated) == (False, step == 7)
            assert all(cut.values()) == (step == 7)
            seen = got.seen
        assert seen.alive.all() and ours.outside() is None
    ours.close()


@pytest.mark.parametrize("task", GYM)
def test_foraging_and_the_warehouse_are_as_gymnasium_plays_them(task: str):
    ours = make_env(f"gym/{task}")
    limit = 500 if task.startswith("rware") else 50
    assert isinstance(ours, HostEnv) and ours.spec.episode_limit == limit
    for seed in range(3):
        raw = gymnasium.make(task, disable_env_checker=True)
        beside_raw(ours, raw, seed, limit)


def beside_raw(ours: Any, raw: Any, seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    seen, (obs, _) = ours.reset(seed), raw.reset(seed=seed)
    for step in range(1, limit + 1):
        well_formed(ours, seen)
        np.testing.assert_array_equal(seen.obs, np.stack(obs))
        np.testing.assert_array_equal(seen.state, np.concatenate(obs))
        actions = [int(rng.integers(n)) for n in ours.spec.n_actions]
        got = ours.step(actions)
        obs, rewards, ended, _, _ = raw.step(tuple(actions))
        assert got.reward == pytest.approx(sum(rewards)) and ours.agent_rewards.tolist() == rewards
        eaten = hasattr(raw.unwrapped, "field") and not raw.unwrapped.field.any()
        assert got[2:4] == (eaten, step == limit and not eaten)
        assert ended == (eaten or step == limit)  # the packages call their limit "terminated"
        seen = got.seen
        if eaten:
            break
    assert ours.outside() is None


def test_eating_everything_is_a_true_end_even_on_the_last_step():
    ours = make_env("gym/Foraging-8x8-2p-2f-coop-v3")
    world = ours._env.unwrapped  # pyright: ignore[reportAttributeAccessIssue]
    for now in (0, 49):
        ours.reset(0)
        world.field[:], world.current_step = 0, now
        ended = ours.step([0, 0])
        assert (ended.terminated, ended.truncated) == (True, False)


def test_idleness_ends_a_warehouse_truly():
    args = ("max_inactivity_steps=3",)
    ours = make_env("gym/rware-tiny-2ag-v2", HostConfig(args=args))
    ours.reset(0)
    flags = [ours.step([0, 0])[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (True, False)]


def test_a_limit_of_ones_own_cuts():
    for name in ("pettingzoo/mpe2.simple_spread_v3", "gym/rware-tiny-2ag-v2"):
        env = make_env(name, HostConfig(episode_limit=4))
        assert env.spec.episode_limit == 4
        for seed in (0, 1):
            env.reset(seed)
            flags = [env.step([0] * env.spec.n_agents)[2:4] for _ in range(4)]
            assert flags == [(False, False)] * 3 + [(False, True)]


@pytest.mark.parametrize("family", ["pettingzoo", "gym"])
def test_every_example_can_be_made_and_played(family: str):
    for task in tasks(family):
        env = make_env(f"{family}/{task}")
        well_formed(env, env.reset(0))
        assert env.spec.name == f"{family}/{task}"
        first, again = env.reset(1), env.reset(1)
        np.testing.assert_array_equal(first.obs, again.obs)


# Agents who die, return or never appear ---------------------------------------------------------


def test_one_dead_agent_does_not_end_the_episode():
    env = zoo(["abc", "ac", "ac", ""], ends={1: {"b": "T"}, 3: {"a": "T", "c": "T"}})
    env.reset(0)
    first = env.step([1, 2, 1])
    assert (first.terminated, first.truncated, first.reward) == (False, False, 4.0)
    assert first.seen.alive.tolist() == [True, False, True]
    np.testing.assert_array_equal(first.seen.obs, [[1, 1], [0, 0], [3, 1]])
    assert first.seen.avail_actions.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    env.step([1, 2, 1])  # what the dead choose is ignored
    assert env._env.taken[-1] == {"a": 1, "c": 1}
    assert env.agent_rewards.tolist() == [1, 0, 1]
    last = env.step([0, 0, 0])
    assert (last.terminated, last.truncated) == (True, False)
    well_formed(env, last.seen)


def test_agents_may_come_back_and_may_never_appear():
    env = zoo(["a", "ab", "a", "ab", ""], ends={4: {"a": "T", "b": "T"}})
    alive = [env.reset(0).alive.tolist()]
    for _ in range(4):
        after = env.step([1, 1, 1])
        alive.append(after.seen.alive.tolist())
    a, ab = [True, False, False], [True, True, False]
    assert alive == [a, ab, a, ab, [False] * 3]
    assert after.terminated
    assert env.spec.n_agents == 3


@pytest.mark.parametrize(
    ("ends", "terminated", "alive"),
    [
        ({"a": "T", "b": "T"}, True, [False, False]),
        ({"a": "L", "b": "L"}, False, [True, True]),
        ({"a": "T", "b": "L"}, False, [False, True]),
        ({"a": "TL", "b": "TL"}, True, [False, False]),
        ({}, True, [False, False]),  # they just leave
    ],
)
@pytest.mark.parametrize("sloppy", [False, True])
def test_truncated_if_one_of_the_last_was(
    ends: dict[str, str], terminated: bool, alive: list[bool], sloppy: bool
):
    if sloppy and not ends:
        return
    env = zoo(["ab", ""], names=("a", "b"), ends={1: ends}, sloppy=sloppy)
    env.reset(0)
    last = env.step([1, 1])
    assert (last.terminated, last.truncated) == (terminated, not terminated)
    assert last.seen.alive.tolist() == alive
    np.testing.assert_array_equal(last.seen.obs[0], [1, 1] if alive[0] else [0, 0])
    assert last.seen.avail_actions[np.array(alive)].all()


def test_who_was_truncated_before_does_not_make_the_end_a_truncation():
    env = zoo(["ab", "b", ""], names=("a", "b"), ends={1: {"a": "L"}, 2: {"b": "T"}})
    env.reset(0)
    first, last = env.step([0, 0]), env.step([0, 0])
    assert (first.terminated, first.truncated) == (False, False)
    assert first.seen.alive.tolist() == [False, True]
    assert (last.terminated, last.truncated) == (True, False)


def test_who_ended_and_is_left_in_env_agents_is_dead_all_the_same():
    ends = {1: {"a": "L"}, 2: {"a": "L", "b": "T"}}
    env = zoo(["ab", "ab", "ab"], names=("a", "b"), ends=ends, sloppy=True)
    env.reset(0)
    assert env.step([2, 2]).seen.alive.tolist() == [False, True]
    last = env.step([2, 2])
    assert env._env.taken[-1] == {"a": 0, "b": 2}
    assert (last.terminated, last.truncated) == (True, False)


def test_an_unknown_agent_a_missing_observation_and_an_empty_start_are_garbage():
    env = zoo(["a", "ab"], names=("a", "b"))
    env._env.possible_agents = ["a"]
    env = PettingZooTeam(env._env, "x")
    env.reset(0)
    with pytest.raises(GarbageError, match="'b' is not in possible_agents"):
        env.step([0])
    env = zoo(["a", "a"], names=("a",))
    env.reset(0)
    env._env._seen = lambda agents: ({}, {})
    with pytest.raises(GarbageError, match="expected an observation of agent 'a', got none"):
        env.step([0])
    env = zoo(["a", "a"], names=("a",))
    env._env._there = [""]
    with pytest.raises(GarbageError, match="reset: expected agents"):
        env.reset(0)


# Masks ------------------------------------------------------------------------------------------

MASKED = spaces.Dict({"observation": UNIT, "action_mask": spaces.MultiBinary(3)})


def mask_of(step: int) -> np.ndarray:
    return np.array([step % 2, 1, 0], np.int8)


@pytest.mark.parametrize("way", ["observation", "infos"])
def test_masks_both_ways(way: str):
    def look(name, step):
        return {"action_mask": mask_of(step), "observation": np.full(2, step)}

    if way == "observation":
        env = zoo(
            ["ab", "ab", "a"], names=("a", "b"), observed=dict.fromkeys("ab", MASKED), look=look
        )
    else:

        def infos(name, step):
            return {"action_mask": mask_of(step)}

        env = zoo(["ab", "ab", "a"], names=("a", "b"), infos=infos)
    assert env.spec.masks == "environment" and env.spec.obs_sizes == (2, 2)
    assert env.reset(0).avail_actions.tolist() == [[False, True, False]] * 2
    assert env.step([1, 1]).seen.avail_actions.tolist() == [[True, True, False]] * 2
    last = env.step([1, 1]).seen.avail_actions
    assert last.tolist() == [[False, True, False], [True, False, False]]


def test_no_mask_means_that_all_are_legal():
    assert zoo(["abc", "abc"]).spec.masks == "all legal"


def test_a_final_mask_counts_unless_it_is_empty():
    for final, legal in (([0, 1, 1], [False, True, True]), ([0, 0, 0], [True] * 3)):

        def infos(name, step, final=final):
            return {"action_mask": final if step else [1, 1, 1]}

        env = zoo(["a", ""], names=("a",), ends={1: {"a": "L"}}, infos=infos)
        env.reset(0)
        assert env.step([0]).seen.avail_actions.tolist() == [legal]


def test_wrong_masks_are_garbage():
    for mask, words in (
        ([0, 0, 0], "give an agent who must wait a no-op"),
        ([1, 1], r"shape \(3,\)"),
        ([0.0, -np.inf, 0.0], "mask of 0 and 1, 1 = legal, got -inf; .* give mask == 0"),
        ([1, 2, 0], "mask of 0 and 1, 1 = legal, got 2"),
    ):

        def infos(name, step, mask=mask):
            return {"action_mask": mask if step else [1, 1, 1]}

        env = zoo(["a", "a"], names=("a",), infos=infos)
        env.reset(0)
        with pytest.raises(GarbageError, match=f"agent 'a': .*{words}"):
            env.step([0])


# Sizes, spaces and states -----------------------------------------------------------------------


def test_agents_of_different_sizes_are_padded():
    observed = {"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(2, start=1)}
    acts = {"a": spaces.Discrete(2, start=5), "b": spaces.MultiDiscrete([2, 2])}

    def look(name, step):
        return np.ones(3) if name == "a" else 2

    env = zoo(["ab", "ab"], names=("a", "b"), observed=observed, acts=acts, look=look)
    assert (env.spec.obs_sizes, env.spec.n_actions, env.spec.state_size) == ((3, 2), (2, 4), 5)
    seen = env.reset(0)
    well_formed(env, seen)
    np.testing.assert_array_equal(seen.obs, [[1, 1, 1], [0, 1, 0]])
    np.testing.assert_array_equal(seen.state, [1, 1, 1, 0, 1])  # no padding
    env.step([1, 2])
    taken = env._env.taken[0]
    assert taken["a"] == 6 and taken["b"].tolist() == [1, 0]


def test_an_image_keeps_its_shape_and_a_dict_its_parts():
    image = spaces.Box(0, 255, (2, 3), np.uint8)

    def look(name, step):
        return np.arange(6, dtype=np.uint8).reshape(2, 3) * 51

    env = zoo(["a", "a"], names=("a",), observed={"a": image}, look=look)
    assert env.spec.obs_shape == (2, 3, 1)
    np.testing.assert_allclose(env.reset(0).obs, [np.arange(6) / 5], rtol=1e-6)
    both = spaces.Dict({"x": UNIT, "y": spaces.Discrete(2), "action_mask": spaces.MultiBinary(3)})

    def look(name, step):
        return {"action_mask": np.ones(3), "x": np.ones(2), "y": 1}

    env = zoo(["ab", "ab"], names=("a", "b"), observed=dict.fromkeys("ab", both), look=look)
    assert env.spec.obs_shape == (("x", (2,)), ("y", (2,)))
    assert hash(env.spec) is not None
    np.testing.assert_array_equal(env.reset(0).obs, [[1, 1, 0, 1]] * 2)


class WithState(Script):
    sizes = (4, 4, 4, 5)

    def state(self) -> np.ndarray:
        return np.arange(self.sizes[self.now], dtype=np.float64).reshape(1, -1)


def test_the_environments_own_state_which_keeps_its_size():
    env = PettingZooTeam(WithState(["a"] * 5, names=("a",)), "x")
    assert (env.spec.state_source, env.spec.state_size) == ("environment", 4)
    np.testing.assert_array_equal(env.reset(0).state, np.arange(4))
    env.step([0])
    env.step([0])
    with pytest.raises(GarbageError, match=r"state: expected 4 features .* got 5"):
        env.step([0])
    assert zoo(["abc", "abc"]).spec.state_source == "concatenated observations"


class Needy(Script):
    """Its state is the first of those who are there."""

    def state(self) -> np.ndarray:
        return np.float32(["ab".index(self.agents[0]), self.now])


def needy() -> PettingZooTeam:
    ends = {1: {"a": "T"}, 2: {"b": "T"}}
    return PettingZooTeam(Needy(["ab", "b", ""], names=("a", "b"), ends=ends), "own:needy")


def test_nobody_asks_for_a_state_after_a_true_end():
    """Many need somebody alive."""
    made = played(needy, spec=needy().spec, workers=0, envs=1, slots=6, rollouts=1)
    assert not made.failures
    slots = made.rollouts[0].slots
    assert slots.valid[0, :, 0].tolist() == [True, True, False] * 2
    assert slots.terminated[0, :, 0].tolist() == [False, True, False] * 2
    assert slots.state[0, :, 0].tolist() == [[0, 0], [1, 1], [0, 0]] * 2


def test_a_state_that_fails_at_the_time_limit_says_what_to_do():
    limit = {1: {"a": "L", "b": "L"}}
    env = PettingZooTeam(Needy(["ab", ""], names=("a", "b"), ends=limit), "x")
    env.reset(0)
    with pytest.raises(GarbageError, match=r"at the time limit, .* IndexError .*possible_agents"):
        env.step([0, 0])


def test_a_state_that_cannot_be_asked_for_is_none():
    class Round(Script):
        unwrapped: Any = SimpleNamespace(state={"round": 0})

        def state(self) -> Any:
            return self.unwrapped.state()

    env = PettingZooTeam(Round(["ab", ""]), "own:round")
    assert env.spec.state_source == "concatenated observations"


def test_what_was_returned_is_never_written_to_again():
    envs = [
        PettingZooTeam(WithState(["a"] * 4, names=("a",)), "x"),
        zoo(["abc", "ab", "abc"]),
        GymnasiumTeam(Pair(9), "x"),
    ]
    for env in envs:
        kept = [env.reset(0), *(env.step([0] * env.spec.n_agents).seen for _ in range(2))]
        arrays = [array for seen in kept for array in seen]
        for i, one in enumerate(arrays):
            assert one.flags.writeable
            assert not any(np.shares_memory(one, other) for other in arrays[i + 1 :])


# Rewards, limits, info --------------------------------------------------------------------------


def test_the_teams_reward():
    for way, expected in (("auto", 6.0), ("sum", 6.0), ("mean", 2.0)):
        env = zoo(["abc", "abc"], config=HostConfig(team_reward=way))
        env.reset(0)
        assert env.step([2, 2, 2]).reward == expected
        assert env.spec.team_reward == ("sum" if way == "auto" else way)
    given = HostConfig(team_reward="given")
    env = zoo(["abc", "ab", "ab"], ends={1: {"c": "T"}}, config=given)
    env.reset(0)
    assert env.step([2, 2, 2]).reward == 2.0
    assert env.step([1, 1, 0]).reward == 1.0  # c is not there, and not asked
    env.reset(0)
    with pytest.raises(GarbageError, match=r"'given', got \[2.0, 2.0, 1.0\]; choose sum or mean"):
        env.step([2, 2, 1])
    for reward, words in ((np.nan, "finite"), ("x", "expected a number")):
        env = GymnasiumTeam(Pair(reward=[0.0, reward]), "x")
        env.reset(0)
        with pytest.raises(GarbageError, match=words):
            env.step([0, 0])


def test_a_reward_for_the_team_alone():
    env = GymnasiumTeam(Pair(reward=1.5), "x", HostConfig(team_reward="given"))
    env.reset(0)
    assert env.step([0, 0]).reward == 1.5 and env.agent_rewards is None
    env = GymnasiumTeam(Pair(reward=1.5), "x")
    env.reset(0)
    with pytest.raises(GarbageError, match="choose team_reward given"):
        env.step([0, 0])


@pytest.mark.parametrize(
    ("end", "flags"),
    [
        ((True, False), (True, False)),
        ((False, True), (False, True)),
        ((True, True), (True, False)),
        (([True, True], [False, False]), (True, False)),
        (([True, False], [False, True]), (False, True)),
        (([True, False], [False, False]), (False, False)),
        ((np.bool_(True), np.bool_(False)), (True, False)),
    ],
)
def test_gymnasiums_flags(end: tuple[Any, Any], flags: tuple[bool, bool]):
    env = GymnasiumTeam(Pair(2, end=end), "x")
    env.reset(0)
    assert env.step([0, 0])[2:4] == (False, False)
    assert env.step([1, 2])[2:4] == flags


def test_a_true_end_on_the_limits_step_stays_one():
    env = zoo(
        ["a", "a", ""], names=("a",), ends={2: {"a": "T"}}, config=HostConfig(episode_limit=2)
    )
    env.reset(0)
    env.step([0])
    assert env.step([0])[2:4] == (True, False)


def test_where_no_limit_is_declared():
    env = zoo(["abc", "abc"])
    assert (env.spec.episode_limit, "no limit declared: cut at 1000" in env.spec.about) == (
        1000,
        True,
    )
    for holder in ("max_cycles", "max_steps", "episode_limit"):
        script = Script(["a", "a"], names=("a",))
        setattr(script, holder, 17)
        assert PettingZooTeam(script, "x").spec.episode_limit == 17
    wrapped = Script(["a", "a"], names=("a",))
    wrapped.unwrapped = SimpleNamespace(max_cycles=12)
    assert PettingZooTeam(wrapped, "x").spec.episode_limit == 12
    with pytest.raises(QtotError, match="episode_limit must be 0 or more"):
        zoo(["a", "a"], names=("a",), config=HostConfig(episode_limit=-1))


def test_scalars_of_the_info():
    def infos(name, step):
        return {"hits": 2} if name == "a" else {"hits": 4, "won": True}

    env = zoo(["abc", "abc"], infos=infos, config=HostConfig(info=("hits", "won", "none")))
    env.reset(0)
    assert env.spec.info == ("hits", "won", "none")
    assert env.step([0, 0, 0]).info == {"hits": pytest.approx(10 / 3), "won": 1.0, "none": 0.0}
    pair = Pair(info={"won": np.bool_(True), "word": "x"})
    env = GymnasiumTeam(pair, "x", HostConfig(info=("won",)))
    env.reset(0)
    assert env.step([0, 0]).info == {"won": 1.0}
    env = GymnasiumTeam(pair, "x", HostConfig(info=("word",)))
    env.reset(0)
    with pytest.raises(GarbageError, match="info 'word': expected a number, got 'x'"):
        env.step([0, 0])


def test_what_lies_outside_its_space():
    env = zoo(["abc", "abc"], look=lambda name, step: np.full(2, 99.0 * (name == "b"), np.float32))
    env.reset(0)
    assert env.outside() == (
        "observation of agent 'b': expected feature [0] within [-10, 10], got 99"
    )
    pair = GymnasiumTeam(Pair(), "x")
    pair.reset(0)
    assert pair.outside() is None


class Seedless(Script):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset()


def test_seeds_go_where_they_are_taken():
    env = zoo(["abc", "abc"])
    env.reset(11)
    assert env._env.seed == 11
    env = PettingZooTeam(Seedless(["abc", "abc"]), "x")
    env.reset(12)
    assert env._env.seed is None and "its reset takes no seed" in env.spec.about


# Names, and environments of one's own -----------------------------------------------------------


def aec() -> Any:
    from mpe2 import simple_spread_v3

    return simple_spread_v3.env(max_cycles=6)


def test_an_aec_environment_plays_as_its_parallel_twin():
    ours, twin = open_env(aec), make_env("pettingzoo/mpe2.simple_spread_v3")
    assert (ours.spec.name, ours.spec.episode_limit) == ("own:aec", 6)
    np.testing.assert_array_equal(ours.reset(2).obs, twin.reset(2).obs)
    for _ in range(6):
        one, other = ours.step([1, 2, 3]), twin.step([1, 2, 3])
        np.testing.assert_array_equal(one.seen.obs, other.seen.obs)
        assert one.reward == other.reward
    assert (one.terminated, one.truncated, one.seen.alive.all()) == (False, True, True)
    turns = aec()
    turns.unwrapped.metadata = {**turns.metadata, "is_parallelizable": False}
    with pytest.raises(QtotError, match="is an AEC environment in which agents act in turns"):
        open_env(turns)


class Ours:
    """The contract, by hand."""

    def __init__(self, n: int = 1):
        self.spec = make_env("gym/Foraging-8x8-2p-2f-coop-v3").spec

    def reset(self, seed: int) -> Seen: ...
    def step(self, actions: Any) -> Stepped: ...
    def close(self) -> None: ...


def test_own_environments_are_recognised_by_their_methods():
    assert isinstance(open_env(Script(["a", "a"], names=("a",))), PettingZooTeam)
    assert isinstance(open_env(Pair), GymnasiumTeam)
    assert open_env(Pair).spec.name == "own:Pair"
    config = HostConfig(args=("length=5", "end=(False, True)"))
    assert open_env("host_envs:Pair", config)._env._length == 5
    assert make_env("host_envs:Pair", config).spec.name == "host_envs:Pair"
    ours = Ours()
    assert open_env(ours) is ours and isinstance(open_env(Ours), Ours)
    jax_env = make_env("probe/chain")
    assert open_env(jax_env) is jax_env and isinstance(jax_env, JaxEnv)


def test_anything_else_is_refused_with_what_was_missing():
    half = SimpleNamespace(possible_agents=["a"], reset=len, step=len, action_space=len)
    with pytest.raises(QtotError) as said:
        open_env(half)
    words = str(said.value)
    for shape in ("SMAC", "AEC", "Parallel", "Gymnasium with Tuple spaces", "HostEnv or JaxEnv"):
        assert shape in words
    assert "PettingZoo Parallel (it lacks observation_space)" in words
    lone = SimpleNamespace(spec=Ours().spec, reset=len, step=len)
    with pytest.raises(QtotError, match="has a qtot EnvSpec, but no close"):
        open_env(lone)


def broken(size: int = 3) -> None:
    raise RuntimeError(f"no room\nfor {size}")


def test_a_factory_that_exits_is_an_error():
    with pytest.raises(QtotError, match=r"could not be made: SystemExit \(3\) at "):
        open_env(lambda: sys.exit(3))


def test_a_factory_that_raises():
    with pytest.raises(QtotError) as said:
        open_env(broken, HostConfig(args=("size=4",)))
    line = broken.__code__.co_firstlineno + 1
    assert str(said.value) == (
        "environment 'own:broken' could not be made: RuntimeError (no room for 4) at "
        f"{Path(__file__)}:{line}"
    )
    with pytest.raises(QtotError, match="'own:broken' takes no argument 'sise'"):
        open_env(broken, HostConfig(args=("sise=4",)))


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("pettingzoo/mpe2.simple_spread_v3", ("M=5",), "takes no argument 'M'"),
        ("pettingzoo/mpe2.simple_spread_v3", ("5",), "args must look like KEY=VALUE"),
        ("pettingzoo/mpe2.simple_spread_v3", ("N=1", "N=2"), "args name 'N' twice"),
        ("pettingzoo/mpe2.simple_spread_v3", ("continuous_actions=True",), "MADDPG or FACMAC"),
        ("pettingzoo/mpe2.nothing_v0", (), "there is no module 'mpe2.nothing_v0'"),
        ("pettingzoo/json", (), "module 'json' has no parallel_env and no env"),
        ("gym/rware-tiny-2ag-v2", ("bits=5",), "takes no argument 'bits'"),
        ("gym/Foraging-8x8-2p-2f-cop-v3", (), "Did you mean: `Foraging-8x8-2p-2f-coop`"),
        ("gym/CartPole-v1", (), "a team needs a Tuple with an entry for each agent"),
        ("gym/nomodule:Some-v0", (), "No module named 'nomodule'"),
        ("host_envs:Nobody", (), "module 'host_envs' has no 'Nobody'"),
        ("nowhere.at_all:make", (), "importing 'nowhere.at_all' raised ModuleNotFoundError"),
        ("host_envs:", (), "must look like 'package.module:factory'"),
        ("petting/x", (), "unknown environment family 'petting'; did you mean 'pettingzoo'"),
    ],
)
def test_mistakes_in_words(name: str, args: tuple[str, ...], words: str):
    with pytest.raises(QtotError, match=words) as said:
        make_env(name, HostConfig(args=args))
    assert "\n" not in str(said.value)


def test_an_object_of_another_shape_is_no_parallel_environment():
    with pytest.raises(QtotError, match="no PettingZoo Parallel environment: Pair has no possible"):
        PettingZooTeam(Pair(), "x")
    script = Script(["a", "a"], names=("a",))
    script.possible_agents = []
    with pytest.raises(QtotError, match="possible_agents is empty"):
        PettingZooTeam(script, "x")


def test_ids_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "registers.py").write_text(
        "import gymnasium\ngymnasium.register('OwnPair-v0', entry_point='host_envs:Pair')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make_env("gym/registers:OwnPair-v0", HostConfig(args=("max_episode_steps=2",)))
    assert (env.spec.name, env.spec.episode_limit) == ("gym/registers:OwnPair-v0", 2)
    env.reset(0)
    assert [env.step([0, 0])[2:4] for _ in range(2)] == [(False, False), (False, True)]
    assert family_of("gym/registers:OwnPair-v0") == "gym"
    assert family_of("a.b:c") == "own" and not any(":" in family for family in FAMILIES)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    from qtot.envs.host import packages

    packages.host_module.cache_clear()
    monkeypatch.setitem(sys.modules, "rware", None)
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(QtotError, match=r"needs the package 'rware'.* pip install 'qtot\[gym\]'"):
        make_env("gym/rware-tiny-2ag-v2")
    with pytest.raises(QtotError, match=r"'pettingzoo'.* pip install 'qtot\[pettingzoo\]'"):
        make_env("pettingzoo/mpe2.simple_spread_v3")


def test_workers_never_load_jax():
    names = [
        "config",
        "spaces",
        "team",
        "places",
        "making",
        "pettingzoo",
        "gymnasium",
        "smac",
        "smaclite",
        "smac_maps",
        "own",
    ]
    code = (
        f"import sys; {'; '.join(f'import qtot.envs.host.{name}' for name in names)}\n"
        "import qtot.envs as e; e.make_env('gym/Foraging-8x8-2p-2f-coop-v3').reset(0)\n"
        "e.make_env('pettingzoo/mpe2.simple_spread_v3').reset(0)\n"
        "print([m for m in ('jax', 'jaxtyping', 'qtot.types') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_a_jax_environment_that_can_be_closed_stays_one():
    class Closable(MarkovGame):
        def close(self) -> None:
            raise AssertionError("nobody has to")

    def make() -> Closable:
        return Closable("own/closable", [[[1.0, 0.0], [0.0, 1.0]]])

    world = World.open(make, HostConfig())
    assert world.make is None and isinstance(world.in_graph, Closable)
    assert qtot.check_env(make, steps=50).ok


def test_an_object_is_copied_also_one_that_can_be_called():
    class Callable(Script):
        def __call__(self) -> None:
            raise AssertionError("it is no factory")

    for mine in (Script(["abc", ""]), Callable(["abc", ""])):
        make = maker(mine, HostConfig())
        one, other = make(), make()
        one.reset(0)
        assert one._env is not other._env and mine not in (one._env, other._env)

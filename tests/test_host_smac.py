"""SMAC's API, with a battle written by hand in the packages' place."""

from __future__ import annotations

import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qtot.envs import make_env, tasks
from qtot.envs.host.base import GarbageError, HostEnv
from qtot.envs.host.config import HostConfig
from qtot.envs.host.own import open_env
from qtot.envs.host.smac import SmacTeam
from qtot.errors import QtotError
from smac_like import LEFT, NOOP, RIGHT, SHOOT, STOP, Battle, Seeded


def legal(rng: np.random.Generator, avail: np.ndarray) -> list[int]:
    return [int(rng.choice(np.flatnonzero(row))) for row in avail]


@pytest.mark.parametrize("gymnasium", [False, True])
def test_beside_the_raw_battle(gymnasium: bool):
    ours, raw = open_env(lambda: Battle(gymnasium=gymnasium)), Battle()
    spec = ours.spec
    assert (spec.n_agents, spec.n_actions, spec.obs_sizes) == (2, (6, 6), (4, 4))
    assert (spec.state_size, spec.episode_limit, spec.team_reward) == (7, 20, "given")
    assert (spec.masks, spec.info) == ("environment", ("won",))
    assert "its reset takes no seed" in spec.about
    rng, ends = np.random.default_rng(0), []
    for seed in range(30):
        seen = ours.reset(seed)
        raw.reset()
        over = False
        while not over:
            np.testing.assert_array_equal(seen.obs, np.float32(raw.get_obs()))
            np.testing.assert_array_equal(seen.state, np.float32(raw.get_state()))
            np.testing.assert_array_equal(seen.avail_actions, np.array(raw.get_avail_actions()) > 0)
            np.testing.assert_array_equal(seen.alive, raw.health > 0)
            actions = legal(rng, seen.avail_actions)
            got, (reward, over, info) = ours.step(actions), raw.step(actions)
            limit = bool(info.get("episode_limit"))
            assert got.reward == reward and ours.agent_rewards is None
            assert (got.terminated, got.truncated) == (over and not limit, limit)
            assert got.info == {"won": float(info["battle_won"])}
            seen = got.seen
        ends.append((got.terminated, got.info["won"]))
        assert ours.outside() is None
    assert {(True, 0.0), (False, 0.0)} <= set(ends)  # lost, and out of time


def test_focused_fire_wins():
    env = SmacTeam(Battle(n=3), "x")
    seen, won = env.reset(0), 0.0
    while not won:
        target = SHOOT if seen.avail_actions[:, SHOOT].any() or seen.state[6] > 0 else SHOOT + 1
        after = env.step(
            [next(a for a in (target, RIGHT, STOP, NOOP) if row[a]) for row in seen.avail_actions]
        )
        seen, won = after.seen, after.info["won"]
        assert after.terminated == bool(won) and not after.truncated
    assert after.reward > 1.0


def test_the_dead_do_nothing_whatever_they_chose():
    battle = Battle()
    env = SmacTeam(battle, "x")
    env.reset(0)
    battle.place[0], battle.health[0] = 5, 1
    seen = env.step([STOP, STOP]).seen
    assert seen.alive.tolist() == [False, True]
    assert not seen.obs[0].any() and np.flatnonzero(seen.avail_actions[0]).tolist() == [NOOP]
    env.step([SHOOT, STOP])  # the battle itself asserts that its actions are legal


def test_a_limit_of_ones_own_and_scalars_of_the_info():
    config = HostConfig(episode_limit=3, info=("dead_allies", "won"))
    env = SmacTeam(Battle(), "x", config)
    assert env.spec.info == ("won", "dead_allies")
    env.reset(0)
    steps = [env.step([STOP, STOP]) for _ in range(3)]
    assert [s[2:4] for s in steps] == [(False, False)] * 2 + [(False, True)]
    assert steps[-1].info == {"won": 0.0, "dead_allies": 0.0}


def test_seeds_where_reset_takes_one():
    env = SmacTeam(Seeded(), "x")
    assert "seed" not in env.spec.about
    starts = {env.reset(seed).state.tobytes() for seed in (1, 1, 1)}
    assert len(starts) == 1
    assert len({env.reset(seed).state.tobytes() for seed in range(9)}) > 1


def test_the_battle_begins_with_the_first_reset():
    battle = Battle()
    SmacTeam(battle, "x")
    assert battle.began == 0  # StarCraft II would have been started


@pytest.mark.parametrize(
    ("method", "returns", "words"),
    [
        ("get_obs", [[0.0] * 4], r"get_obs: expected the shape \(2, 4\), got \(1, 4\)"),
        ("get_obs", [[0.0] * 4, [0.0]], "get_obs: expected numbers of shape"),
        ("get_state", [0.0] * 6, "state: expected 7 features"),
        ("get_avail_actions", [[1, 0]] * 2, r"get_avail_actions: expected the shape \(2, 6\)"),
        ("get_avail_actions", [[1] * 6, [0] * 6], "a legal action of agent 'agent_1', got none"),
        ("get_avail_actions", [[1] * 6, [-5] * 6], "expected masks from get_avail_actions of 0"),
        ("step", (0.0, False), "step: expected reward, terminated and info .*, got 2"),
        ("step", (np.nan, False, {}), "reward: expected a finite number"),
    ],
)
def test_garbage(method: str, returns: Any, words: str):
    battle = Battle()
    env = SmacTeam(battle, "x")
    env.reset(0)
    setattr(battle, method, lambda *args: returns)
    with pytest.raises(GarbageError, match=words):
        env.step([STOP, STOP])


def test_mistakes_in_words():
    with pytest.raises(QtotError, match="has not SMAC's API: SimpleNamespace has no reset, step"):
        SmacTeam(SimpleNamespace(), "x")
    with pytest.raises(QtotError, match="team_reward 'sum' has nothing to add up; choose given"):
        SmacTeam(Battle(), "x", HostConfig(team_reward="sum"))
    battle = Battle()
    battle.get_env_info = lambda: {"n_agents": 2}
    with pytest.raises(QtotError, match="get_env_info has no n_actions, obs_shape, state_shape"):
        SmacTeam(battle, "x")


# The packages, played by the battle -------------------------------------------------------------


def module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    for end in range(1, name.count(".") + 1):
        parent = name.rsplit(".", end)[0]
        if parent not in sys.modules:
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    made = ModuleType(name)
    vars(made).update(attributes)
    monkeypatch.setitem(sys.modules, name, made)


def test_smac_is_made_by_its_map(monkeypatch: pytest.MonkeyPatch):
    def make(map_name: str, difficulty: str = "7") -> Battle:
        assert (map_name, difficulty) == ("3m", "5")
        return Battle(n=3)

    module(monkeypatch, "smac.env", StarCraft2Env=make)
    env = make_env("smac/3m", HostConfig(args=("difficulty='5'",)))
    assert isinstance(env, HostEnv) and (env.spec.name, env.spec.n_agents) == ("smac/3m", 3)


def test_smacv2_is_made_by_its_scenario_or_map(monkeypatch: pytest.MonkeyPatch):
    def drawn(capability_config: Any, map_name: str, **rest: Any) -> Battle:
        assert map_name == "10gen_zerg" and rest["conic_fov"] is False
        team = capability_config["team_gen"]
        assert team["exception_unit_types"] == ["baneling"] and sum(team["weights"]) == 1.0
        return Battle(capability_config["n_units"], capability_config["n_enemies"])

    at = "smacv2.env.starcraft2"
    module(monkeypatch, f"{at}.wrapper", StarCraftCapabilityEnvWrapper=drawn)
    module(monkeypatch, f"{at}.starcraft2", StarCraft2Env=lambda map_name: Battle(n=3))
    assert "zerg_10_vs_11" in tasks("smacv2")
    env = make_env("smacv2/zerg_10_vs_11")
    assert (env.spec.n_agents, env.spec.max_actions) == (10, 15)
    assert make_env("smacv2/3m").spec.n_agents == 3


@pytest.mark.parametrize("values", [4, 5])
def test_smaclite_is_given_the_methods_that_it_lacks(monkeypatch: pytest.MonkeyPatch, values: int):
    class Lite:
        """Sizes as attributes, observations from reset and step."""

        def __init__(self, map_info: Any):
            assert map_info.name == "2s3z"
            self._battle = Battle()
            self.n_agents, self.n_actions, self.obs_size, self.state_size = 2, 6, 4, 7
            self.get_state = self._battle.get_state
            self.get_avail_actions = self._battle.get_avail_actions

        @property
        def enemies(self) -> dict[int, Any]:
            return {i: foe for i, foe in enumerate(self._battle.foes) if foe}

        def reset(self, seed: Any = None, return_info: bool = False, options: Any = None) -> Any:
            obs = tuple(self._battle.reset()[0])
            return obs if values == 4 else (obs, {})

        def step(self, actions: list[int]) -> Any:
            reward, over, _ = self._battle.step(actions)
            flags = (over,) if values == 4 else (over, False)
            return tuple(self._battle.get_obs()), reward, *flags, {"state": 0}

        def close(self) -> None: ...

    maps = enum.Enum("MapPreset", {"A": SimpleNamespace(name="2s3z")})
    module(monkeypatch, "smaclite.env.maps.map", MapPreset=maps)
    module(monkeypatch, "smaclite.env", SMACliteEnv=Lite)
    env = make_env("smaclite/2s3z")
    assert env.spec.episode_limit == 120  # SMAC's, as SMAClite has none
    seen = env.reset(3)
    raw = Battle()
    raw.reset()
    np.testing.assert_array_equal(seen.obs, np.float32(raw.get_obs()))
    rng = np.random.default_rng(0)
    after = env.step(legal(rng, seen.avail_actions))
    while not after.terminated:
        after = env.step(legal(rng, after.seen.avail_actions))
    assert after.info["won"] in (0.0, 1.0)
    with pytest.raises(QtotError, match="unknown map of smaclite/ '2s3'; did you mean '2s3z'"):
        make_env("smaclite/2s3")


@pytest.mark.parametrize("family", ["smac", "smacv2", "smaclite"])
def test_a_missing_package_says_how_to_install_it(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, family, None)
    for task in tasks(family)[:1]:
        with pytest.raises(QtotError, match=f"needs the package '{family}'.*pip install git"):
            make_env(f"{family}/{task}")


def test_walking_left_is_possible():
    env = SmacTeam(Battle(), "x")
    env.reset(0)
    env.step([RIGHT, RIGHT])
    assert env.step([LEFT, LEFT]).seen.alive.all()

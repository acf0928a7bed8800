"""Healthy environments pass; what is broken before play is found, and its message says all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from broken_envs import SPEC, Walk, branching, calling, hoarding, shows, tells, walk
from qtot.envs import make_env, tasks
from qtot.envs.check import check_env
from qtot.envs.report import Problem, Report
from qtot.errors import QtotError

NOTICES = {"single_agent", "reset_ignores_key", "constant_state"}
EVERY = [f"{family}/{task}" for family in ("matrix", "probe") for task in tasks(family)]


def only_message(env: Any, kind: str) -> str:
    """The message of the one problem found."""
    report = check_env(env, steps=16, envs=2)
    assert [(p.kind, p.severity) for p in report.problems] == [(kind, "error")], str(report)
    assert not report.ok and report.facts == {}
    return report.problems[0].message


@pytest.mark.parametrize("name", EVERY)
def test_games_and_probes_are_healthy(name):
    report = check_env(make_env(name), steps=128, envs=2)
    assert report.ok, str(report)
    assert {p.kind for p in report.problems} <= NOTICES
    report.raise_if_broken()


def test_facts_of_the_walk():
    report = check_env(Walk(), steps=500, envs=4)
    assert report.problems == [], str(report)
    facts = report.facts
    assert (facts["agents"], facts["n_actions"]) == (("small", "large"), (2, 3))
    assert (facts["obs_sizes"], facts["state_size"], facts["episode_limit"]) == ((1, 2), 2, 5)
    # Of 3, 4 and 6 steps needed, the limit of 5 cuts the last: a third of the ends.
    assert facts["episodes"] == facts["terminated"] + facts["truncated"]
    assert facts["truncated"] / facts["episodes"] == pytest.approx(1 / 3, abs=0.1)
    assert facts["mean_length"] == pytest.approx((3 + 4 + 5) / 3, abs=0.2)
    assert facts["transitions"] == pytest.approx(500 * 4 * 4 / 5, rel=0.05)
    assert (facts["reward_min"], facts["reward_max"]) == (0, 1 + 2)
    assert facts["steps_per_second"] > 0
    assert "mean length: " in str(report) and "no problems found" in str(report)


def test_the_default_number_of_steps_sees_whole_episodes():
    report = check_env(make_env("probe/long"), envs=2)
    assert report.facts["transitions"] == 2 * 2 * 96, "two episodes in each copy"
    assert report.facts["terminated"] == 4


def test_the_seed_decides_what_is_played():
    one, same, other = (check_env(Walk(), steps=16, envs=2, seed=seed).facts for seed in (3, 3, 5))
    for facts in (one, same, other):
        del facts["steps_per_second"]
    assert one == same != other


def test_raise_if_broken_tells_everything():
    report = check_env(walk(agents=("a", "a"), episode_limit=0))
    with pytest.raises(QtotError) as raised:
        report.raise_if_broken()
    assert len(report.problems) == 2
    for problem in report.problems:
        assert f"error [spec] {problem.message}" in str(raised.value)


def test_a_notice_does_not_break():
    report = Report("test/x", {}, [Problem("single_agent", "where", "notice")])
    assert report.ok
    report.raise_if_broken()
    assert "notice [single_agent] where" in str(report)


def test_what_is_missing_of_an_environment():
    half = type("Half", (), {"spec": SPEC, "reset": Walk.reset})()
    assert only_message(half, "interface") == (
        "Half: expected a JaxEnv, got no step, no observe; add what is missing; "
        "the contract is qtot.envs.base.JaxEnv"
    )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"agents": ("a", "a")},
            "spec.agents: expected one name for each agent, got a more than once; "
            "name every agent, once",
        ),
        (
            {"agents": (), "n_actions": (), "obs_sizes": ()},
            "spec.agents: expected one name for each agent, got no agents; name every agent, once",
        ),
        (
            {"n_actions": (2, 3, 3)},
            "spec.n_actions: expected 2 entries, one per agent, got 3; give every agent its own",
        ),
        (
            {"obs_sizes": (0, 2)},
            "spec.obs_sizes, agent 'small': expected 1 or more, got 0; "
            "give an idle agent one no-op and one feature, always 0",
        ),
        (
            {"state_size": 0},
            "spec.state_size: expected 1 or more, got 0; say how large it is",
        ),
        (
            {"shortest_episode": 6},
            "spec.shortest_episode: expected from 1 to spec.episode_limit = 5, got 6; "
            "1 is always right",
        ),
        (
            {"state_source": "concatenated observations"},
            "spec.state_size: expected 3, since spec.state_source is 'concatenated observations', "
            "got 2; leave padding out, or set state_source to 'environment'",
        ),
        (
            {"team_reward": "total"},
            "spec.team_reward: expected 'sum' or 'mean' or 'given', got 'total'; "
            "choose one of these",
        ),
        (
            {"masks": "none"},
            "spec.masks: expected 'environment' or 'all legal', got 'none'; choose one of these",
        ),
    ],
)
def test_spec(facts, message):
    assert only_message(walk(**facts), "spec") == message


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (shows(obs=jnp.ones((2, 1))), "obs: expected shape (2, 2), got (2, 1); zero-pad"),
        (shows(state=jnp.ones((1, 2))), "state: expected shape (2,), got (1, 2); return"),
        (shows(avail_actions=None), "avail_actions: expected an array of shape (2, 3), got None"),
        (shows(alive=jnp.array(True)), "alive: expected shape (2,), got (); one bool per agent"),
        (tells(reward=jnp.ones(2)), "reward: expected shape (), got (2,); return one reward"),
        (tells(terminated=jnp.zeros(2, bool)), "terminated: expected shape (), got (2,); return"),
        (tells(truncated=jnp.zeros(2, bool)), "truncated: expected shape (), got (2,); return"),
        (tells(info={"won": jnp.ones(2)}), "info['won']: expected shape (), got (2,); report one"),
    ],
)
def test_shape(env, message):
    assert only_message(env, "shape").startswith(message)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            shows(avail_actions=lambda mask: mask.astype(jnp.uint8)),
            "avail_actions: expected dtype bool, got uint8; convert it with .astype(bool); "
            "True = legal, False for padding up to max(spec.n_actions)",
        ),
        (
            tells(reward=jnp.int32(1)),
            "reward: expected dtype float, got int32; convert it with .astype(float); "
            "return one reward for the team: the sum or mean of the agents' own",
        ),
        (tells(terminated=jnp.float32(0)), "terminated: expected dtype bool, got float32; convert"),
        (tells(info={"won": jnp.array(True)}), "info['won']: expected dtype float, got bool; "),
    ],
)
def test_dtype(env, message):
    assert only_message(env, "dtype").startswith(message)


@pytest.mark.parametrize(
    ("env", "kind", "message"),
    [
        (
            walk(see=lambda seen, _: seen.obs),
            "interface",
            "observe: expected a qtot.types.Observation, got ",
        ),
        (
            walk(tell=lambda result: result.reward),
            "interface",
            "step: expected a state and a qtot.types.StepResult, got tuple; ",
        ),
        (
            tells(info={"score": jnp.float32(0)}),
            "info_keys",
            "info: expected the keys ['won'], got ['score']; list in spec.info what every",
        ),
        (
            walk(move=lambda state: state | {"time": state["time"] * 1.0}),
            "state_form",
            "the state after step, ['time']: expected int32[] as from reset, got float32[]; return",
        ),
        (
            walk(move=lambda state: state | {"extra": jnp.int32(0)}),
            "state_form",
            "the state after step: expected the structure PyTreeDef({'left': *, 'time': *}) ",
        ),
        (
            branching(),
            "not_jittable",
            "step: expected a pure function of JAX arrays, got TracerBoolConversionError (",
        ),
        (
            calling(),
            "not_vmappable",
            "step: expected a function that jax.vmap accepts, got NotImplementedError (",
        ),
    ],
)
def test_interface(env, kind, message):
    assert only_message(env, kind).startswith(message)


def test_what_is_kept_in_python():
    # Which trace stumbles over what an earlier one left is JAX's affair.
    (problem,) = check_env(hoarding(), steps=16, envs=2).problems
    assert problem.kind in {"not_jittable", "not_vmappable"}
    assert "got UnexpectedTracerError (" in problem.message


def test_state_may_hold_keys_and_python_numbers():
    class Keyed(Walk):
        def reset(self, key):
            return super().reset(key) | {"key": key, "score": 0.0}

        def step(self, key, state, actions):
            after, result = super().step(key, state, actions)
            key, _ = jax.random.split(state["key"])
            return after | {"key": key, "score": state["score"] + 1.0}, result

    assert check_env(Keyed(), steps=16, envs=2).ok

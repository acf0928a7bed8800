"""What ``check-env`` says of environments in the APIs that users have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import qtot
from broken_teams import FACES, Gym, Smac, Walk, Zoo, broken
from command import run
from extras import package
from qtot.envs.host.config import HostConfig
from qtot.envs.report import Report

spaces = package("gymnasium.spaces", "gym")
package("mpe2", "pettingzoo")

every_face = pytest.mark.parametrize("face", FACES.values(), ids=list(FACES))
"""for tests of an environment in each of the APIs"""


def check(face: type[Walk], **parts: Any) -> Report:
    return qtot.check_env(broken(face, **parts), steps=300)


def found(report: Report) -> dict[str, str]:
    """Messages by severity and kind."""
    return {f"{p.severity} {p.kind}": p.message for p in report.problems}


@pytest.mark.parametrize(("name", "face"), FACES.items())
def test_a_healthy_environment_and_what_is_said_of_it(name: str, face: type[Walk]):
    report = check(face)
    assert report.problems == [] and report.ok, str(report)
    facts = report.facts
    assert facts["about"].startswith("2 agents, ") and name in facts["about"]
    assert (facts["n_actions"], facts["obs_sizes"]) == ((3, 3), (2, 2))
    assert facts["state_size"] == (4 if face is Gym else 3)
    assert (facts["masks"], facts["mean_legal"]) == ("environment", 3.0)
    assert (facts["episode_limit"], facts["longest"]) == (6, 6)
    assert facts["terminated"] > 0 and facts["truncated"] > 0
    assert 0 <= facts["reward_min"] < facts["reward_mean"] < facts["reward_max"] < 6
    assert facts["steps_per_second"] > 0 and facts["deterministic"] is True
    text = str(report)
    for line in ("n actions:        3 each", "obs sizes:        2 each", "mean legal:       3"):
        assert f"\n  {line}\n" in text


def refusing(env: Walk, actions: Sequence[int]) -> tuple[bool, bool]:
    """What the mask calls legal is not."""
    if any(action != 2 for action in actions):
        raise ValueError("not allowed")
    return Walk.go(env, actions)


def once(value: Any, otherwise: Any) -> Any:
    """In the second step."""
    return lambda env: value if env.time == 2 else otherwise(env)


BROKEN = {
    "NaN rewards": (
        {"pay": once([np.nan, 1.0], Walk.pay)},
        "error garbage",
        "step 1 of episode 0 (first of 5): expected a finite number, got nan; mend what the ",
    ),
    "NaN observed": (
        {"look": once(np.float32([np.nan, 0]), Walk.look)},
        "error obs_not_finite",
        "feature 0, step 2 of episode 0 (first of ",
    ),
    "another shape": (
        {"look": once(np.zeros(3, np.float32), Walk.look)},
        "error garbage",
        "step 1 of episode 0 (first of 5): expected ",
    ),
    "an exception": (
        {"go": lambda env, actions: 1 / 0},
        "error step_raised",
        f"an answer to legal actions, got ZeroDivisionError (division by zero) at {__file__}:",
    ),
    "mask inverted": (
        {"mask": lambda env: np.array([True, True, False]), "go": refusing},
        "error mask_inverted",
        "the mask looks inverted: return ~mask",
    ),
    "nothing legal": (
        {"mask": lambda env: np.zeros(3, bool)},
        "error garbage",
        "reset(0) (first of 5): expected a legal action ",
    ),
    "seed ignored": (
        {"begin": lambda env, seed: Walk.begin(env, None)},
        "notice nondeterministic",
        "repeated: expected the same from the same seed and actions, got ",
    ),
    "always the same seed": (
        {"begin": lambda env, seed: Walk.begin(env, 1)},
        "notice reset_ignores_seed",
        "use the seed of reset, unless every episode is meant to begin alike",
    ),
    "one agent": ({"names": ("left",)}, "notice single_agent", "there is no team to mix"),
    "no reward": ({"pay": lambda env: [0.0, 0.0]}, "notice no_reward", "0 in all of 300 steps"),
    "large rewards": (
        {"pay": lambda env: [1e6, 1e6]},
        "notice reward_scale",
        "--scaling.reward-scale 1e-06",
    ),
}


@every_face
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_with_its_remedy(face: type[Walk], name: str):
    parts, kind, message = BROKEN[name]
    report = check(face, **parts)
    problems = found(report)
    assert message in problems.pop(kind), str(report)
    assert report.ok == kind.startswith("notice")
    beside = {"error state_not_finite", "notice outside_space"} if name == "NaN observed" else set()
    assert set(problems) <= beside, str(report)


@pytest.mark.parametrize("face", [Zoo, Smac])
def test_a_state_that_changes_shape(face: type[Walk]):
    problems = found(check(face, state=once(np.zeros(4), Walk.state)))
    assert list(problems) == ["error garbage"]
    assert problems["error garbage"] == (
        "state, step 1 of episode 0 (first of 5): expected 3 features as in the first episode, "
        "got 4; mend what the environment returns there"
    )


@pytest.mark.parametrize("face", [Zoo, Gym])
def test_opponents(face: type[Walk]):
    remedy = "train one side only and make the other a part of the environment"
    problems = found(check(face, pay=lambda env: [env.own[0], -env.own[0]]))
    assert list(problems) == ["error zero_sum"], "that the sum is 0 is not told twice"
    assert remedy in problems["error zero_sum"]
    problems = found(check(face, pay=lambda env: [env.own[0], 1 - env.own[0]]))
    assert list(problems) == ["notice competitive"]
    assert remedy in problems["notice competitive"]


def test_real_games_of_opponents_and_of_a_team():
    got = run("check-env pettingzoo/mpe2.simple_adversary_v3 --steps 500")
    assert got.code == 0 and "\nnotice [competitive] rewards: " in got.out
    assert "between 'adversary_0' and 'agent_0'; if they are opponents there is no team" in got.out
    got = run("check-env pettingzoo/mpe2.simple_spread_v3 --steps 500")
    assert got.code == 0 and "no problems found" in got.out
    got = run("check-env broken_teams:Rivals --steps 60")
    assert got.code == 1 and "\nerror [zero_sum] rewards: " in got.out


# Spaces -----------------------------------------------------------------------------------------

ROOM = spaces.Dict(
    {"map": spaces.Box(0, 255, (2, 3), np.uint8), "goal": spaces.Box(-1.0, 1.0, (2,), np.float32)}
)


def room(**parts: Any) -> Any:
    """What an agent sees there."""

    def look(env: Walk) -> dict[str, Any]:
        seen = {"map": np.full((2, 3), env.to_go % 256, np.uint8)}
        return {**seen, "goal": np.float32([env.luck, 0]), **{k: f(env) for k, f in parts.items()}}

    return look


@pytest.mark.parametrize("face", [Zoo, Gym])
def test_dicts_inside_their_space_and_outside(face: type[Walk]):
    report = check(face, space=ROOM, look=room())
    assert report.problems == [], str(report)
    assert report.facts["obs_sizes"] == (8, 8)
    assert report.facts["obs_shape"] == "goal 2, map 2 x 3"
    assert "\n  obs shape:        goal 2, map 2 x 3\n" in str(report)

    report = check(
        face, space=ROOM, look=room(goal=lambda env: np.float32([env.luck, 2 * (env.time == 1)]))
    )
    assert report.ok and list(found(report)) == ["notice outside_space"]
    message = found(report)["notice outside_space"]
    assert message.startswith("observation, step 1 of episode 0 (first of ")
    assert "entry 'goal': expected feature [1] within [-1, 1], got 2; mend the space" in message

    report = check(face, space=ROOM, look=room(goal=lambda env: np.zeros(3, np.float32)))
    assert not report.ok and list(found(report)) == ["error garbage"]


@pytest.mark.parametrize("face", [Zoo, Gym])
def test_what_is_outside_from_the_first_is_seen_there(face: type[Walk]):
    look = room(goal=lambda env: np.float32([0, -7 * (env.time == 0)]))
    problems = found(check(face, space=ROOM, look=look))
    assert "observation, step 0 of episode 0 (first of " in problems["notice outside_space"]


# Limits and seeds -------------------------------------------------------------------------------


def endless(env: Walk, actions: Sequence[int]) -> tuple[bool, bool]:
    Walk.go(env, actions)
    env.to_go = env.time % 7
    return False, False


@every_face
def test_no_limit(face: type[Walk]):
    make = broken(face, limit=0, go=endless)
    problems = found(qtot.check_env(make, steps=1_200))
    assert list(problems) == ["notice no_limit"]
    assert problems["notice no_limit"] == (
        "episodes: expected an end, or a limit declared, got neither in 1200 steps; they are cut "
        "after 1000 transitions; --host.episode-limit says when instead"
    )
    report = qtot.check_env(make, steps=300, host=HostConfig(episode_limit=50))
    assert report.problems == [] and report.facts["longest"] == 50


@every_face
def test_no_limit_where_episodes_end_by_themselves(face: type[Walk]):
    report = check(face, limit=0)
    assert report.problems == [] and report.facts["terminated"] > 10
    assert "no limit declared: cut at 1000" in report.facts["about"]


@every_face
def test_a_reset_without_a_seed(face: Any):
    def reset(env: Any) -> Any:
        return face.reset(env)

    report = check(face, reset=reset)
    assert list(found(report)) == ["notice nondeterministic"]
    assert "its reset takes no seed" in str(report)

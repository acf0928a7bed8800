"""What is broken in an environment written in Python is found, told with its remedy, survived."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import qtot
from broken_hosts import SPEC, HostWalk, host_walk, rewarding, shows, tells
from command import run
from qtot.envs.host.base import GarbageError, Seen
from qtot.envs.host.check import check_host
from qtot.envs.report import Report

STEPS = 200


def found(make: Any, **options: Any) -> dict[str, str]:
    """Messages by kind, severities checked against ``ok``."""
    report = check_host(make(), **{"steps": STEPS, "again": make, **options})
    assert report.ok == all(p.severity == "notice" for p in report.problems), str(report)
    return {f"{p.severity} {p.kind}": p.message for p in report.problems}


def test_the_healthy_walk():
    report = check_host(HostWalk(), steps=600, again=HostWalk)
    assert report.problems == [], str(report)
    facts = report.facts
    assert (facts["agents"], facts["n_actions"]) == (("small", "large"), (2, 3))
    assert facts["transitions"] == 600 and facts["episodes"] > 100
    assert facts["episodes"] == facts["terminated"] + facts["truncated"]
    assert (facts["shortest"], facts["longest"]) == (3, 6)
    assert facts["return_mean"] == pytest.approx(facts["mean_length"] * 2.5, rel=0.1)
    assert facts["return_std"] > 0 and facts["steps_per_second"] > 0
    assert facts["deterministic"] is True
    assert re.search(r"\n  deterministic: +yes\nno problems found$", str(report))
    assert check_host(HostWalk(), steps=100).problems == [], "repeated in the same instance"


def never(*_: Any) -> bool:
    return False


def scribbling() -> Any:
    """Writes every state into one array."""
    buffer = np.zeros(2, np.float32)

    def state(new: Any, _: Any) -> Any:
        buffer[:] = new
        return buffer

    return shows(state=state)


def forgetful(since: int = 0) -> Any:
    """From that step on."""
    count = itertools.count()
    return shows(
        obs=lambda obs, env: obs + np.float32([[next(count) * (env.time >= since), 0]] * 2)
    )


def refusing(env: HostWalk, actions: Any) -> None:
    """What is called legal is not."""
    if actions[1] != 2:
        raise ValueError(f"action {actions[1]} is not\nallowed.")


def crashing(env: HostWalk, actions: Any) -> None:
    if env.time == 2:
        raise RuntimeError("the engine stalled")


def leaving(*_: Any) -> None:
    sys.exit(0)


def garbage(env: HostWalk, actions: Any) -> None:
    raise GarbageError("rewards: expected the team's reward for every agent, got 1.0 and 2.0.")


def dead(who: Any) -> Any:
    """Dead from the second step on, one action left."""

    def see(seen: Seen, env: HostWalk) -> Seen:
        gone = np.array(who) & (env.time > 1)
        return seen._replace(
            alive=~gone, avail_actions=seen.avail_actions & ~(gone[:, None] & [False, True, True])
        )

    return host_walk(see=see)


def later(new: Any) -> Any:
    """Changes from the second step on."""
    return lambda old, env: new(old) if env.time > 1 else old


def raising(message: str) -> Any:
    def call(*_: Any) -> Any:
        raise OSError(message)

    return call


BROKEN = {
    "zero-sum": (
        rewarding(lambda own: own * 0 + [own[0], -own[0]]),
        "error zero_sum",
        "agents' rewards whose sum is 0 in all of 200 steps; opponents have nothing to learn",
    ),
    "competitive": (
        rewarding(lambda own: np.array([own[0], 1 - 2 * own[0]])),
        "notice competitive",
        "a correlation of -1.00 between 'small' and 'large'; if they are opponents",
    ),
    "own rewards": (
        rewarding(lambda own: own[:1]),
        "error agent_rewards",
        "one number for each of 2 agents, got ndarray of shape (1,); set it after every step",
    ),
    "no end": (
        tells(terminated=False, truncated=False),
        "error no_end",
        "step 5 of episode 0 (first of 33): expected an end within spec.episode_limit = 6",
    ),
    "no limit": (
        host_walk(
            parts={"limit_assumed": True},
            tell=lambda s, env: s._replace(terminated=False, truncated=env.time >= 6),
        ),
        "notice no_limit",
        "they are cut after 6 transitions; --host.episode-limit",
    ),
    "spec": (host_walk(episode_limit=0), "error spec", "spec.episode_limit: expected 1 or more"),
    "spec of another type": (
        host_walk(n_actions=("a", None)),
        "error spec",
        "spec: expected an EnvSpec, got TypeError (",
    ),
    "nan reward": (
        tells(reward=lambda r, env: np.nan if env.time == 2 else r),
        "error reward_not_finite",
        "step 1 of episode 0 (first of ",
    ),
    "no number": (
        tells(reward=np.ones(2)),
        "error reward_no_number",
        "reward, step 0 of episode 0 (first of 5): expected a number, got ndarray of shape (2,); "
        "return one reward for the team",
    ),
    "nan obs": (
        shows(obs=lambda obs, _: obs * np.float32([np.nan, 1])),
        "error obs_not_finite",
        "look for a division by zero",
    ),
    "inf state": (
        shows(state=lambda state, _: state + np.float32(np.inf)),
        "error state_not_finite",
        "state feature 0, step 0 of episode 0 (first of ",
    ),
    "shape": (
        shows(obs=np.zeros((2, 1), np.float32)),
        "error shape",
        "obs, step 0 of episode 0 (first of 5): expected shape (2, 2), got (2, 1); zero-pad",
    ),
    "shape changes": (
        shows(state=later(lambda state: state[:1])),
        "error shape",
        "state, step 2 of episode 0 (first of 5): expected shape (2,), got (1,); return",
    ),
    "dtype changes": (
        shows(obs=later(lambda obs: obs.astype(np.float64))),
        "error dtype",
        "obs, step 2 of episode 0 (first of ",
    ),
    "no array": (shows(alive=[True, True]), "error shape", "an array of shape (2,), got list"),
    "no Seen": (host_walk(see=lambda seen, _: seen.obs), "error interface", "a Seen, got ndarray"),
    "no Stepped": (
        host_walk(tell=lambda stepped, _: tuple(stepped)),
        "error interface",
        "a Stepped, got tuple; return Stepped(seen, reward",
    ),
    "constant state": (
        shows(state=np.ones(2, np.float32)),
        "notice constant_state",
        "return what changes, unless",
    ),
    "outside": (
        host_walk(parts={"outside": lambda _: "small: 3.0 above 1.0"}),
        "notice outside_space",
        "inside the declared space, got small: 3.0 above 1.0; mend the space",
    ),
    "seed ignored": (
        host_walk(parts={"reset": lambda env, seed: HostWalk.reset(env, 1)}),
        "notice reset_ignores_seed",
        "use the seed of reset, unless every episode is meant to begin alike",
    ),
    "nondeterministic": (
        forgetful(),
        "notice nondeterministic",
        "otherwise runs cannot be repeated, and two with the same seed differ",
    ),
    "nondeterministic in play": (
        forgetful(since=2),
        "notice nondeterministic",
        "obs at step 2 of episode ",
    ),
    "mask inverted": (
        shows(avail_actions=lambda mask, _: ~mask),
        "error mask_inverted",
        "the mask looks inverted: return ~mask, with False for padding",
    ),
    "mask inverted, and the environment raises": (
        host_walk(
            before=refusing,
            see=lambda seen, _: seen._replace(avail_actions=np.array([[1, 1, 0]] * 2, bool)),
        ),
        "error mask_inverted",
        "an exception from the legal actions ",
    ),
    "no legal action": (
        shows(avail_actions=lambda mask, _: mask & [[True], [False]]),
        "error no_legal_action",
        "if True means forbidden here, return ~mask",
    ),
    "padding legal": (
        shows(avail_actions=np.ones((2, 3), bool)),
        "error mask_padding",
        "pad avail_actions with False",
    ),
    "mask of another dtype": (
        shows(avail_actions=lambda mask, _: mask.astype(np.int8)),
        "error dtype",
        "expected dtype bool, got int8; convert it with .astype(bool); True = legal",
    ),
    "mask to be added": (
        shows(avail_actions=lambda mask, _: np.where(mask, 0.0, -np.inf)),
        "error mask_values",
        "got -inf; if it is added to values (0 or -inf), return mask == 0",
    ),
    "single agent": (
        host_walk(
            agents=("small",),
            n_actions=(2,),
            obs_sizes=(1,),
            see=lambda s, _: Seen(
                s.obs[:1, :1].copy(), s.state, np.ones((1, 2), bool), s.alive[:1].copy()
            ),
        ),
        "notice single_agent",
        "there is no team to mix",
    ),
    "garbage": (
        host_walk(before=garbage),
        "error garbage",
        "rewards, step 0 of episode 0 (first of 5): expected the team's reward for every agent, "
        "got 1.0 and 2.0; mend what the environment returns there",
    ),
    "reset raises": (
        host_walk(parts={"reset": raising("no display")}),
        "error reset_raised",
        "reset(0) (first of 5): expected an episode to begin, got OSError (no display) at ",
    ),
    "step raises": (
        host_walk(before=crashing),
        "error step_raised",
        f"got RuntimeError (the engine stalled) at {__file__}:",
    ),
    "leaves": (
        host_walk(before=leaving),
        "error step_raised",
        f"got SystemExit (0) at {__file__}:",
    ),
    "leaves in reset": (
        host_walk(parts={"reset": leaving}),
        "error reset_raised",
        f"got SystemExit (0) at {__file__}:",
    ),
    "info not finite": (
        tells(info={"won": np.inf}),
        "error info_not_finite",
        "info['won'], step 0 of episode 0 (first of 200): expected a finite float32, got inf; ",
    ),
    "extras raise": (
        host_walk(parts={"outside": raising("no space")}),
        "error outside_raised",
        "step 0 of episode 0 (first of 242): expected an answer, got OSError (no space) at ",
    ),
    "nobody alive": (
        dead([True, True]),
        "notice nobody_alive",
        "set terminated on the step that killed the last agent",
    ),
    "large rewards": (
        tells(reward=lambda r, _: 1e5 * r),
        "notice reward_scale",
        "--scaling.reward-scale 1e-06",
    ),
    "no rewards": (tells(reward=0), "notice no_reward", "0 in all of 200 steps"),
    "buffers": (
        scribbling(),
        "error reused_buffer",
        "return a copy (array.copy()) instead of a buffer",
    ),
    "both ends": (tells(truncated=True, terminated=True), "error both_ends", "is a true end"),
    "ends of another type": (tells(terminated=1.0), "error end_no_bool", "a bool, got float"),
    "info": (tells(info={}), "error info_keys", "expected the keys ['won'], got the keys []"),
    "info of another type": (tells(info={"won": "yes"}), "error info_no_number", "got str"),
    "no environment": (object, "error interface", "got no spec: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_with_its_remedy(name: str):
    make, kind, message = BROKEN[name]
    problems = found(make)
    assert kind in problems, problems
    assert message in problems[kind], problems[kind]
    beside = {"notice constant_state", "error no_legal_action", "notice no_reward"}
    assert set(problems) - {kind} <= beside, problems


def test_agents_die():
    assert found(dead([False, True])) == {}


def test_a_second_instance_that_cannot_be_made_or_is_another():
    assert (
        "OSError (port taken) at"
        in found(HostWalk, again=raising("port taken"))["error again_raised"]
    )
    other = host_walk(about="another")
    assert list(found(HostWalk, again=other)) == ["error spec"]


@pytest.mark.parametrize("close", [raising("port lost"), leaving])
def test_a_second_instance_that_cannot_be_closed(close: Any):
    closed = []

    def closing(env: HostWalk) -> None:
        closed.append(env)
        close()

    make = host_walk(parts={"close": closing})
    env = make()
    report = check_host(env, steps=STEPS, again=make)
    assert report.problems == [] and report.facts["transitions"] == STEPS
    assert len(closed) == 1 and closed[0] is not env


def test_what_an_environment_does_with_its_actions_is_its_own_affair():
    """The worker hands over a new list, too."""

    def clearing(env: HostWalk, actions: Any) -> Any:
        small, large = actions
        actions.clear()
        return HostWalk.step(env, [small, large])

    assert found(host_walk(parts={"step": clearing})) == {}

    def refusing_then(env: HostWalk, actions: Any) -> Any:
        if env.time == 1:
            refusing(env, actions)
        return clearing(env, actions)

    mask = np.array([[1, 1, 0]] * 2, bool)
    make = host_walk(
        parts={"step": refusing_then}, see=lambda seen, _: seen._replace(avail_actions=mask.copy())
    )
    assert list(found(make)) == ["error mask_inverted"]


def test_rewards_that_no_float32_holds():
    problems = found(tells(reward=1e39))
    assert set(problems) == {"error reward_too_large", "notice reward_scale"}
    told = "step 0 of episode 0 (first of 200): expected a float32, got 1e+39; make it smaller"
    assert told in problems["error reward_too_large"]


def mixed(likeness: float) -> Any:
    """One agent's reward is a coin, the other's a die and a part of that coin."""

    def share(own: Any) -> Any:
        coin, die = np.floor(own)
        return np.array([coin, die + likeness * coin])

    return rewarding(share)


def test_rivals_whose_rewards_hold_much_else_are_found_in_a_long_play():
    message = found(mixed(-0.6), steps=2_000)["notice competitive"]
    assert "got a correlation of -0.3" in message
    assert found(mixed(-0.6), steps=40) == {}, "too few to be sure"
    assert found(mixed(-0.1), steps=2_000) == found(mixed(0.6), steps=2_000) == {}


def test_an_end_that_time_did_not_allow_to_see():
    make = host_walk(
        tell=lambda stepped, _: stepped._replace(terminated=False, truncated=False),
        episode_limit=10**6,
    )
    report = check_host(make(), steps=10**9, wall_s=0.2)
    (told,) = report.problems
    assert (told.kind, told.severity) == ("no_end_seen", "notice")
    assert re.fullmatch(
        r"episodes: expected an end, got none in \d+ steps, which took 0.2 s; shorter episodes, or "
        "quicker steps, show how they end",
        told.message,
    )


def test_nondeterminism_is_seen_in_the_instance_itself():
    assert list(found(forgetful(), again=None)) == ["notice nondeterministic"]


def test_time_is_bounded():
    report = check_host(HostWalk(), steps=10**9, wall_s=0.2)
    assert report.ok and report.facts["stopped_after"] == "0.2 s"


STRANGE = (
    None, "x", 1.5, np.nan, -np.inf, 10**400, True, [], {}, np.zeros(0), np.float32(1e38), object(),
    np.array([None, 2]), np.array("a"), np.full((2, 3), np.nan), np.ones((2, 2), np.float32),
)  # fmt: skip


def test_whatever_an_environment_does_there_is_a_report():
    """Fields, whole answers, facts and exceptions, at random."""
    luck = np.random.default_rng(0)

    def strange() -> Any:
        return STRANGE[luck.integers(len(STRANGE))]

    def perturbed(old: Any, _: HostWalk) -> Any:
        chance = luck.random()
        if chance < 0.9 or not hasattr(old, "_fields"):
            return old
        if chance < 0.92:
            return strange()
        if chance < 0.93:
            raise [ValueError, KeyError, GarbageError, ZeroDivisionError][luck.integers(4)]("bad")
        return old._replace(**{old._fields[luck.integers(len(old._fields))]: strange()})

    fields = list(SPEC.__dataclass_fields__)
    for case in range(300):
        facts = {fields[luck.integers(len(fields))]: strange()} if case % 3 == 0 else {}
        parts = (
            {"outside": lambda *_: strange(), "limit_assumed": case % 2} if case % 4 == 0 else {}
        )
        make = host_walk(see=perturbed, tell=perturbed, parts=parts, **facts)
        report = check_host(make(), steps=40, seed=case, again=make if case % 2 else None)
        assert isinstance(report, Report) and str(report)


SOURCE = """
import sys
from qtot.cli import main
names = "broken_hosts:HostWalk", "broken_hosts:NotANumber"
codes = [main(["check-env", name, "--steps", "60"]) for name in names]
print(codes, "jax" in sys.modules, "jaxtyping" in sys.modules)
"""


def test_the_command_loads_no_jax_for_an_environment_in_python():
    done = subprocess.run(
        [sys.executable, "-c", SOURCE],
        check=True,
        capture_output=True,
        text=True,
        cwd=__file__.rpartition("/")[0],
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "[0, 1] False False"
    assert "no problems found" in lines
    (told,) = [line for line in lines if line.startswith("error ")]
    assert told.startswith("error [reward_not_finite] step 0 of episode 0 (first of 60): expected ")


def test_the_command():
    got = run("check-env matrix/two_step --steps 16")
    assert (got.code, got.err) == (0, "")
    assert got.out.startswith("matrix/two_step\n  agents: ")
    got = run("check-env broken_hosts:Silent --steps 60 --seed 3 --host.timeout-s 5")
    assert got.code == 1 and "\nerror [info_keys] info, step 0 of episode 0 " in got.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("check-env", "qtot check-env: expected TARGET"),
        ("check-env matrx/two_step", "unknown environment family 'matrx'; did you mean 'matrix'?"),
        ("check-env matrix/two_stp", "did you mean 'two_step'?"),
        ("check-env matrix/two_step --steps 0", "steps must be from 1 to 2**31 - 1, got 0"),
        ("check-env matrix/two_step --seed -1", "seed must be from 0 to 2**31 - 1, got -1"),
        ("check-env matrix/two_step --setps 3", "did you mean '--steps'?"),
    ],
)
def test_mistakes(line: str, message: str):
    got = run(line)
    assert (got.code, got.out, got.err.count("\n")) == (2, "", 1)
    assert message in got.err


def test_from_python_anything_is_checked():
    for env in (HostWalk(), HostWalk, host_walk(), HostWalk().__class__):
        assert qtot.check_env(env, steps=60).problems == []
    one = qtot.check_env("matrix/two_step", steps=16, envs=2).facts
    other = qtot.check_env(qtot.make_env("matrix/two_step"), steps=16, envs=2).facts
    assert one["transitions"] == other["transitions"] == 22

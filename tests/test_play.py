"""Teams that play: together, of several runs, and each agent in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qtot
from command import run as command
from extras import package
from qtot.config import nested_replace
from qtot.core.masks import masked_argmax
from qtot.core.methods import METHODS
from qtot.envs import jax_env
from qtot.errors import QtotError
from qtot.evaluation.apart import Apart, apart
from qtot.evaluation.episodes import FRESH, evaluation_key, play_greedy, trace_greedy
from qtot.evaluation.teams import TIE, Choice, Recorded, Seen, compared, margin_of
from qtot.shipping import write_agents
from small import small_config
from untrained import MEMORY, untrained

package("onnxruntime", "onnx")
HUNT = "predator_prey/5x5-3v1-p2-t30"
GROUPS = {"agent": {"sharing": "groups", "groups": (0, 1, 0)}}
OTHERS = [
    ("coma", {"agent": {"sharing": "none"}, "scaling": {"normalise_obs": True}}),
    ("qmix", GROUPS),
]


def run_of(path: Path, changes: dict[str, Any], algo: str = "qmix", env: str = HUNT) -> qtot.Run:
    config = nested_replace(small_config(env, algo, **MEMORY), {"critic": {"embed": 8}, **changes})
    return untrained(path, config, scale=1.0)


# Apart ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "changes"), OTHERS)
def test_agents_apart_play_as_in_the_graph(algo: str, changes: dict[str, Any], tmp_path: Path):
    played = qtot.play(run_of(tmp_path / "run", changes, algo), 40, decentralised=True)
    assert played.agreement is not None
    episodes, steps, equal, ties, unexplained = played.agreement
    assert (episodes, unexplained) == (40, 0)
    assert steps == equal + ties
    assert equal >= 0.95 * steps
    assert len(set(played.pids) | {os.getpid()}) == 4
    assert steps == sum(row["length"] for row in played.episodes) or ties


@pytest.mark.long
@pytest.mark.parametrize("sharing", ["all", "none", "groups"])
@pytest.mark.parametrize("algo", METHODS)
def test_every_method_apart_plays_as_in_the_graph(algo: str, sharing: str, tmp_path: Path):
    """Hundreds of episodes."""
    changes = GROUPS if sharing == "groups" else {"agent": {"sharing": sharing}}
    changes = {**changes, "seed": list(METHODS).index(algo)}
    played = qtot.play(run_of(tmp_path / "run", changes, algo), 300, decentralised=True)
    assert played.agreement is not None
    assert played.agreement.unexplained == 0
    assert played.agreement.equal >= 0.99 * played.agreement.steps
    with (tmp_path.parent / "apart.txt").open("a") as file:
        file.write(f"{algo} {sharing} {played.agreement}\n")


@pytest.mark.parametrize("env", ["pettingzoo/mpe2.simple_spread_v3"])
def test_agents_apart_play_in_environments_of_python(env: str, tmp_path: Path):
    run = qtot.load(run_of(tmp_path / "run", {}, env=env).path, trust=True)
    played = qtot.play(run, 6, decentralised=True)
    assert played.agreement is not None
    assert played.agreement.unexplained == 0
    assert played.agreement.steps >= 6 * 20


def test_a_process_is_sent_its_own_observation_and_nothing_else(tmp_path: Path):
    """What the others see may be anything; and it keeps its memory to itself."""
    run = run_of(tmp_path / "run", {"agent": {"sharing": "none"}})
    write_agents(run, tmp_path / "out", run.params())
    members = [(tmp_path / "out", name) for name in run.spec.agents]
    rng, first = np.random.default_rng(0), np.array([True, True])
    policy = run.agent("agent_1")
    memories = [policy.reset(), policy.reset()]
    with apart(members) as team:
        for t in range(12):
            obs = rng.normal(size=(2, 3, 50)).astype(np.float32)
            obs[:, [0, 2]] *= rng.choice([0.0, 1e6])
            legal = rng.random((2, 3, 6)) < 0.7
            legal[..., 2] = True
            opens = first if t in (0, 7) else np.array([False, t == 4])
            action = team.act(Seen(obs, legal, opens, ~opens)).action
            for e in range(2):
                memory = policy.reset() if opens[e] else memories[e]
                want, memories[e] = policy.act(obs[e, 1], legal[e, 1], memory)
                assert action[e, 1] == want


def test_a_process_that_dies_is_told_and_none_is_left(tmp_path: Path):
    run = run_of(tmp_path / "run", {})
    write_agents(run, tmp_path / "out", run.params())
    members = [(tmp_path / "out", name) for name in run.spec.agents]
    seen = Seen(np.zeros((1, 3, 50), np.float32), np.ones((1, 3, 6), bool), [True], [True])

    def play(team: Apart) -> None:
        team.act(seen)
        os.kill(team.pids[1], 9)
        time.sleep(0.1)
        for _ in range(3):
            team.act(seen)

    pids: list[int] = []
    with (
        pytest.raises(QtotError, match="the process of agent 1 is gone"),
        apart(members) as team,
    ):
        pids += team.pids
        play(team)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with (
        pytest.raises(QtotError, match=r"agent 1 is gone; it said: .*no agent 'bob'"),
        apart([members[0], (tmp_path / "out", "bob")]),
    ):
        pass


def test_what_lies_in_the_working_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = run_of(tmp_path / "run", {})
    write_agents(run, tmp_path / "out", run.params())
    (tmp_path / "hashlib.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    with apart([(tmp_path / "out", "agent_0")]) as team:
        assert len(team.pids) == 1
    assert not (tmp_path / "trace").exists()


def test_processes_end_with_their_parent(tmp_path: Path):
    """Their pipes close, however it ended."""
    run = run_of(tmp_path / "run", {})
    write_agents(run, tmp_path / "out", run.params())
    script = (
        "import os, sys, pathlib\n"
        "from qtot.evaluation.apart import apart\n"
        "with apart([(pathlib.Path(sys.argv[1]), 'agent_0')]) as team:\n"
        "    print(*team.pids, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out"],
        check=False,
        capture_output=True,
        text=True,
    )
    pid, until = int(done.stdout), time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_difference_is_a_tie_or_unexplained():
    def recorded(actions: list[list[int]], margin: float) -> Recorded:
        steps = iter(Choice(np.array([a]), np.full((1, 2), margin)) for a in actions)
        team = Recorded(type("Script", (), {"act": lambda self, seen: next(steps)})())
        for t in range(len(actions)):
            team.act(Seen(None, None, np.array([t == 0]), np.array([True])))
        return team

    same = [[0, 1], [1, 1], [2, 0]]
    other = [[0, 1], [1, 0], [5, 5]]
    assert compared(recorded(same, 1.0), recorded(same, 1.0)) == (1, 3, 3, 0, 0)
    assert compared(recorded(same, 0.5 * TIE), recorded(other, 1.0)) == (1, 2, 1, 1, 0)
    assert compared(recorded(same, 2 * TIE), recorded(other, 1.0)) == (1, 2, 1, 0, 1)
    assert compared(recorded(same, 1.0), recorded(same[:2], 1.0)) == (1, 2, 2, 0, 1)
    assert compared(recorded(same[:2], 1.0), recorded(same, 1.0)) == (1, 2, 2, 0, 1)
    more = recorded(same, 1.0)
    more.episodes[7, 0] = more.episodes[0, 0]
    assert compared(recorded(same, 1.0), more) == (1, 3, 3, 0, 1)


def test_the_margin_is_between_the_two_best_legal_values():
    q = np.array([[3.0, 2.5, 9.0, -1.0], [50.0, 40.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]], np.float32)
    legal = np.array([[True, True, False, True], [True] * 4, [False, True, False, False]])
    np.testing.assert_allclose(margin_of(q, legal), [0.5 / 3, 0.2, np.inf])
    assert np.isinf(margin_of(q[:, :1], legal[:, :1])).all()


def test_the_trace_is_the_evaluation(tmp_path: Path):
    """What ``trace_greedy`` writes down is what ``play_greedy`` did, and is greedy."""
    run = run_of(tmp_path / "run", {})
    env, policy = jax_env(HUNT), run.params()
    keys = jax.random.split(evaluation_key(0, FRESH), 5)
    played = play_greedy(env, run.learner, policy, keys=keys)
    again, slots = trace_greedy(env, run.learner, policy, keys=keys)
    for x, y in zip(jax.tree.leaves(played), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(slots.running.sum(0), played.length)
    np.testing.assert_array_equal(slots.action, masked_argmax(slots.q, slots.avail_actions))
    before = np.asarray(slots.prev_action)[1:][np.asarray(slots.running)[1:]]
    np.testing.assert_array_equal(before, slots.action[:-1][np.asarray(slots.running)[1:]])


# Together -------------------------------------------------------------------------------------


def test_episodes_are_those_of_an_evaluation(tmp_path: Path):
    run = run_of(tmp_path / "run", {"seeds": 2})
    played = qtot.play(run, 16, seed=3, policy_seed=1)
    row = qtot.evaluate(run, episodes=16, seed=3)[1]
    for name in ("return", "length", "captures"):
        assert np.mean([one[name] for one in played.episodes]) == pytest.approx(row[name])


def test_a_team_of_several_runs(tmp_path: Path):
    """Each agent has the values of its own run: with all of another's, it is that run."""
    run, other = (run_of(tmp_path / f"run{i}", {"seed": i}) for i in (0, 1))
    names = run.spec.agents
    all_others = qtot.play(run, 12, agents=dict.fromkeys(names, other))
    alone = qtot.play(other, 12)
    mixed = qtot.play(run, 12, agents={names[1]: other})
    # The environment's chance is that of the first run's seed.
    again = qtot.play(run_of(tmp_path / "again", {"seed": 0}), 12)
    assert qtot.play(run, 12).episodes == again.episodes
    assert [mixed.agents[name] for name in names] == [str(x.path) for x in (run, other, run)]
    assert mixed.episodes not in (all_others.episodes, again.episodes, alone.episodes)
    both = qtot.play(run, 12, agents={names[1]: other}, decentralised=True)
    assert both.agreement is not None
    assert both.agreement.unexplained == 0
    assert both.episodes == mixed.episodes or both.agreement.ties


def test_what_does_not_fit_is_refused(tmp_path: Path):
    run = run_of(tmp_path / "run", {})
    other = run_of(tmp_path / "other", {}, env="probe/memory")
    for line, message in (
        (f"{run.path} --agents bob={run.path}", "the environment has no agent 'bob'; it has: age"),
        (f"{run.path} --agents agent_0={other.path}", "has n_agents 3, but run"),
        (f"{run.path} --agents agent_2={other.path}", "other has no agent 'agent_2'; it has: age"),
        (f"{run.path} --agents agent_0", "--agents must look like A=RUN1,B=RUN2, got 'agent_0'"),
        (f"{run.path} --agents agent_0={tmp_path}", "is not a run folder"),
        (f"{run.path} --env probe/memory", "environment probe/memory has n_agents 2, but run"),
        (f"{run.path} --episodes 0", "episodes must be a whole number of at least 1"),
        (f"{run.path} --policy-seed 7", "has no seed 7; it has [0]"),
    ):
        got = command(f"play {line}")
        assert got.code == 2, got
        assert message in got.err


def test_the_command_shows_episodes_and_how_agents_apart_agree(tmp_path: Path):
    run = run_of(tmp_path / "run", {})
    got = command(f"play {run.path} --episodes 3 --env predator_prey/5x5-3v1-p0-t10")
    assert got.code == 0
    assert got.out.count("│ ") > 3
    assert "captures" in got.out
    assert "mean" in got.out
    got = command(f"play {run.path} --episodes 25 --decentralised", columns=200)
    assert got.code == 0
    assert "..." in got.out
    assert "3 agents in 3 processes of their own, each sent only its own observation" in got.out
    assert re.search(r" (\d+) of \1 joint actions", got.out)

"""What records say of episodes: credit, TD errors and the certificate, beside plain arithmetic."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
from qtot.config import nested_replace
from qtot.core.losses.base import mixer_inputs
from qtot.core.mixers.qmix import QMIX
from qtot.evaluation.episodes import FRESH
from qtot.evaluation.insight import Team, certify, insights
from qtot.evaluation.witness import Asked, Witnessed, witness_in_graph
from qtot.recording import record_run
from small import small_config
from untrained import MEMORY, untrained

HUNT = "predator_prey/5x5-2v1-p2-t12"


def run_of(path: Path, algo: str, env: str = HUNT, **changes: Any) -> qtot.Run:
    config = nested_replace(small_config(env, algo, **MEMORY), {"critic": {"embed": 8}, **changes})
    return untrained(path, config)


def seen_by(run: qtot.Run, episodes: int = 3) -> Witnessed:
    world = run.world(run.config.env)
    asked = Asked(run.learner, run.config, run.params(), (0, FRESH), episodes)
    return witness_in_graph(world.in_graph, asked)


def said_of(run: qtot.Run, seen: Witnessed) -> dict[str, np.ndarray]:
    said = jax.jit(lambda p, s: insights(run.learner, p, s))(run.params(), seen.slots)
    return {name: np.asarray(x) for name, x in said.items()}


def test_the_episodes_are_those_of_an_evaluation(tmp_path: Path):
    run = run_of(tmp_path / "run", "qmix")
    seen = seen_by(run, 8)
    (row,) = qtot.evaluate(run, episodes=8)
    assert seen.returns.mean() == pytest.approx(row["return"])
    assert seen.lengths.mean() == pytest.approx(row["length"])
    slots = seen.slots
    np.testing.assert_array_equal(slots.valid.sum(0), seen.lengths)
    np.testing.assert_allclose(slots.reward.sum(0), seen.returns, rtol=1e-6)
    assert slots.first[0].all()
    assert not slots.first[1:].any()
    assert len(slots.action) == seen.lengths.max() + 1
    legal = np.where(slots.avail_actions, said_of(run, seen)["q"], -np.inf)
    np.testing.assert_array_equal(legal.argmax(-1)[slots.valid], slots.action[slots.valid])


def test_values_are_those_of_the_agents_acting_alone(tmp_path: Path):
    """Each from its own observation and memory, step by step, as ``run.agent`` has it."""
    run = run_of(tmp_path / "run", "qmix", scaling={"normalise_obs": True})
    seen = seen_by(run)
    q = said_of(run, seen)["q"]
    for i, name in enumerate(run.spec.agents):
        agent = run.agent(name)
        memory = agent.reset()
        for t in range(int(seen.lengths[1])):
            values, _ = agent.q_values(seen.slots.obs[t, 1, i], memory)
            np.testing.assert_allclose(q[t, 1, i], values, atol=1e-5)
            legal = seen.slots.avail_actions[t, 1, i]
            _, memory = agent.act(seen.slots.obs[t, 1, i], legal, memory)


@pytest.mark.parametrize("algo", ["qmix", "vdn_s", "qatten", "qplex", "qmix_ns"])
def test_credit_is_the_slope_of_q_tot(algo: str, tmp_path: Path):
    """Finite differences of the mixer by each agent's value of the action taken."""
    run = run_of(tmp_path / "run", algo)
    seen = seen_by(run)
    said, step = said_of(run, seen), 5e-3
    team = Team.of(run.learner, run.params(), jax.tree.map(jnp.asarray, seen.slots))

    @jax.jit
    def q_tot(q: Any) -> Any:
        assert team.online.mixer is not None
        return team.online.mixer(team.inputs(q, team.slots.action))[..., 0]

    chosen = jax.nn.one_hot(team.slots.action, run.spec.max_actions)
    legal = np.where(seen.slots.avail_actions, said["q"], -np.inf)
    first, second = np.moveaxis(np.sort(legal, axis=-1)[..., -2:], -1, 0)[::-1]
    for i in range(run.spec.n_agents):
        # Where another action would become the greedy one, QPLEX has a kink.
        where = seen.slots.valid & ((first - second)[..., i] > 2 * step)
        assert where.sum() > 10
        move = step * chosen * jnp.eye(run.spec.n_agents)[i][:, None]
        slope = np.asarray(q_tot(team.q + move) - q_tot(team.q - move)) / (2 * step)
        np.testing.assert_allclose(
            said["credit"][..., i][where], slope[where], rtol=0.02, atol=0.02
        )
    taken = np.take_along_axis(said["q"], np.asarray(seen.slots.action)[..., None], -1)[..., 0]
    total = (said["credit"] * taken).sum(-1) + said["bias"]
    np.testing.assert_allclose(total, said["q_tot"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("algo", "env"),
    [("qmix", HUNT), ("iql", HUNT), ("vdn", "probe/chain_truncated"), ("qmix", "matrix/climbing")],
)
def test_td_errors_are_those_of_a_plain_loop(algo: str, env: str, tmp_path: Path):
    run = run_of(tmp_path / "run", algo, env)
    seen = seen_by(run)
    said, slots, gamma = said_of(run, seen), seen.slots, run.config.target.gamma
    for e, length in enumerate(seen.lengths):
        for t in range(int(length)):
            if algo == "iql":
                now = said["q"][t, e, range(run.spec.n_agents), slots.action[t, e]]
                legal = np.where(slots.avail_actions[t + 1, e], said["q"][t + 1, e], -np.inf)
                then = np.where(slots.terminated[t, e], 0.0, legal.max(-1))
            else:
                # Greedy episodes: what is played next is the greedy joint action.
                now, then = said["q_tot"][t, e], 0.0
                if not slots.terminated[t, e]:
                    then = said["q_tot"][t + 1, e]
            error = slots.reward[t, e] + gamma * then - now
            np.testing.assert_allclose(said["td_error"][t, e], error, rtol=1e-4, atol=1e-5)
        assert (said["td_error"][int(length) :, e] == 0).all()


def test_the_critic_of_coma_says_who_made_a_difference(tmp_path: Path):
    run = run_of(tmp_path / "run", "coma")
    seen = seen_by(run)
    said, action = said_of(run, seen), np.asarray(seen.slots.action)
    legal = np.where(seen.slots.avail_actions, said["q"], -np.inf)
    p = np.exp(legal - legal.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    valid = seen.slots.valid
    np.testing.assert_allclose(said["policy"][valid], p[valid], atol=1e-5)
    taken = np.take_along_axis(said["q_critic"], action[..., None], -1)[..., 0]
    advantage = taken - (p * said["q_critic"]).sum(-1)
    np.testing.assert_allclose(said["advantage"][valid], advantage[valid], atol=1e-5)


def brute_force(run: qtot.Run, seen: Witnessed, critic: bool) -> tuple[float, float]:
    """Share of states in which everyone's argmax is the joint one, and the largest shortfall: one
    state, one joint action at a time.
    """
    team = Team.of(run.learner, run.params(), jax.tree.map(jnp.asarray, seen.slots))
    n, agree, short = run.spec.n_agents, [], []

    @jax.jit
    def value(t: Any, e: Any, action: Any) -> Any:
        here = jax.tree.map(lambda x: x[t, e], (team.slots, team.unrolled))
        if critic:
            return team.online.critic.judge(here[0].state, here[1])(action)[0]
        assert team.online.mixer is not None
        return team.online.mixer(mixer_inputs(here[0], here[1][0][0], here[1][0][1], action))[0]

    for t, e in np.argwhere(seen.slots.valid):
        legal, q = np.asarray(seen.slots.avail_actions[t, e]), np.asarray(team.q[t, e])
        own = [int(np.argmax(np.where(legal[i], q[i], -np.inf))) for i in range(n)]
        joint = itertools.product(*(np.flatnonzero(row) for row in legal))
        best = max(float(value(t, e, jnp.asarray(u))) for u in joint)
        short.append(best - float(value(t, e, jnp.asarray(own))))
        agree.append(short[-1] <= 1e-5 * max(abs(best), 1.0))
    return float(np.mean(agree)), max(short)


@pytest.mark.parametrize("algo", ["qmix", "ow_qmix", "qtran"])
def test_the_certificate_is_that_of_brute_force(algo: str, tmp_path: Path):
    run = run_of(tmp_path / "run", algo, "predator_prey/4x4-2v1-p2-t6")
    seen = seen_by(run, 2)
    said = said_of(run, seen)
    found = certify(run.learner, run.params(), seen.slots, said)
    assert found.states == found.tried == seen.slots.valid.sum()
    assert found.joint_actions == 36
    assert found.smallest_credit == pytest.approx(said["credit"][seen.slots.valid].min())
    assert found.smallest_credit >= 0
    agree, gap = brute_force(run, seen, critic=False)
    assert found.agree == agree == 1.0
    assert found.gap == pytest.approx(gap, abs=1e-4)
    if algo != "qmix":
        agree, gap = brute_force(run, seen, critic=True)
        assert found.agree_joint == pytest.approx(agree)
        assert found.gap_joint == pytest.approx(gap, rel=1e-3, abs=1e-4)
        assert agree < 1.0  # of a critic that nobody trained


def test_a_mixer_that_is_not_monotone_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Negative slopes are told, and that greedy agents miss the best joint action."""
    run = run_of(tmp_path / "run", "qmix", "predator_prey/4x4-2v1-p2-t6")
    mixed = QMIX.__call__
    monkeypatch.setattr(QMIX, "__call__", lambda self, x: -mixed(self, x))
    seen = seen_by(run, 2)
    found = certify(run.learner, run.params(), seen.slots, said_of(run, seen))
    assert found.smallest_credit is not None
    assert found.smallest_credit < 0
    assert found.negative == 1.0
    assert found.agree is not None
    assert found.agree < 0.5
    assert found.gap is not None
    assert found.gap > 0


def test_too_many_joint_actions_are_not_tried(tmp_path: Path):
    run = run_of(tmp_path / "run", "qmix", "predator_prey/6x6-5v2-p2-t4")
    (found,) = record_run(run, 1)
    assert found.certificate.joint_actions == 6**5
    assert found.certificate.tried == 0
    assert found.certificate.agree is None
    assert found.certificate.smallest_credit is not None

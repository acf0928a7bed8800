"""What is broken in play is found, with the agent, the slot and the remedy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

from broken_envs import Walk, calling, drawing, dying, locked, shows, tells, walk
from qtot.envs.check import check_env
from qtot.envs.report import Problem
from qtot.types import Observation

ALL_OF_32 = "slot 0 of copy 0 (first of 32)"


def found(env: Any, *, steps: int = 16, envs: int = 2) -> dict[str, Problem]:
    """The problems by kind, of which there is one each."""
    report = check_env(env, steps=steps, envs=envs)
    kinds = {p.kind: p for p in report.problems}
    assert len(kinds) == len(report.problems)
    assert report.ok == all(p.severity == "notice" for p in report.problems)
    assert report.facts["agents"] == env.spec.agents
    return kinds


def only(env: Any, kind: str, severity: str = "error", **options: int) -> str:
    """The message of the one problem found."""
    problems = found(env, **options)
    assert list(problems) == [kind], problems
    assert problems[kind].severity == severity
    return problems[kind].message


@pytest.mark.parametrize(
    ("env", "kind", "where", "value"),
    [
        (
            shows(obs=lambda obs: obs.at[1, 1].set(jnp.nan)),
            "obs_not_finite",
            f"agent 'large', feature 1, {ALL_OF_32}",
            "nan",
        ),
        (
            shows(state=lambda state: state.at[1].set(-jnp.inf)),
            "state_not_finite",
            f"state feature 1, {ALL_OF_32}",
            "-inf",
        ),
    ],
)
def test_not_finite(env, kind, where, value):
    assert only(env, kind) == (
        f"{where}: expected a finite number, got {value}; "
        "look for a division by zero, an overflow or an entry never set"
    )


def test_reward_not_finite_only_where_a_transition_happened():
    report = check_env(tells(reward=jnp.float32(jnp.nan)), steps=16, envs=2)
    assert report.facts["transitions"] < 32, "some slots are final observations"
    assert len(report.problems) == 1, "NaN is the same as NaN"
    assert report.problems[0].message.startswith(
        f"slot 0 of copy 0 (first of {report.facts['transitions']}): expected a finite number, got "
    )


def test_obs_padding():
    assert only(shows(obs=lambda obs: obs.at[0, 1].set(7)), "obs_padding") == (
        f"agent 'small', feature 1, {ALL_OF_32}: expected 0 above the agent's entry in "
        "spec.obs_sizes, got 7.0; zero-pad the observation, or count the feature in spec.obs_sizes"
    )


def test_mask_inverted():
    problems = found(shows(avail_actions=lambda mask: ~mask))
    assert list(problems) == ["mask_inverted", "no_legal_action"]
    assert problems["mask_inverted"].message == (
        f"agent 'small', {ALL_OF_32}: expected True = legal, got every action of the agent "
        "illegal and its padding legal; the mask looks inverted: return ~mask, with False for "
        "padding"
    )
    # The large agent has no padding to show it.
    message = problems["no_legal_action"].message
    assert message.startswith("agent 'large', slot 0 of copy 0")
    assert message.endswith("if True means forbidden here, return ~mask")


def test_mask_padding():
    assert only(shows(avail_actions=jnp.ones((2, 3), bool)), "mask_padding") == (
        f"agent 'small', action 2, {ALL_OF_32}: expected False above the agent's entry in "
        "spec.n_actions, got True; pad avail_actions with False, or count the action in "
        "spec.n_actions"
    )


def test_no_legal_action():
    message = only(shows(avail_actions=lambda mask: mask.at[1].set(False)), "no_legal_action")
    assert message.startswith("agent 'large', slot 0 of copy 0 (first of ")
    assert message.endswith(
        "expected a legal action wherever a choice or a bootstrap follows, got none; leave a dead "
        "or idle agent one no-op; if True means forbidden here, return ~mask"
    )


def test_a_final_observation_needs_a_legal_action_only_if_it_is_bootstrapped():
    assert found(locked(always=False), steps=64) == {}
    assert "a bootstrap follows, got none" in only(locked(always=True), "no_legal_action", steps=64)


def test_masks_declared_all_legal():
    def see(seen: Observation, _: Any) -> Observation:
        return seen._replace(avail_actions=seen.avail_actions.at[1, 2].set(False))

    assert found(walk(masks="all legal")) == {}
    message = only(walk(see=see, masks="all legal"), "mask_undeclared")
    assert message.startswith("agent 'large', action 2, slot 0 of copy 0")
    assert message.endswith(
        "expected True, since spec.masks is 'all legal', got False; set spec.masks to "
        "'environment', or return every action as legal"
    )


def test_the_dead():
    assert found(dying(1)) == {}
    message = only(dying(1, choices=True), "dead_agent_chooses", "notice")
    assert message.startswith("agent 'large', slot 1 of copy 0")
    assert "expected one legal action (a no-op) for a dead agent, got 3; leave the dead" in message
    message = only(dying(0, 1), "nobody_alive", "notice")
    assert message.startswith("slot 1 of copy 0")
    assert "expected the episode to end once no agent is alive, got another transition" in message


def test_both_ends():
    env = walk(tell=lambda result: result._replace(truncated=result.terminated | result.truncated))
    message = only(env, "both_ends")
    assert message.endswith(
        "expected terminated or truncated, got both; an end that falls on the time limit is a "
        "true end: truncated & ~terminated"
    )


def test_no_end_within_the_limit():
    never = jnp.array(False)
    message = only(tells(truncated=never), "no_end", steps=64)
    assert message.endswith(
        "expected an end within spec.episode_limit = 5 transitions, got neither terminated nor "
        "truncated; set truncated on the step that reaches the limit, or raise spec.episode_limit"
    )
    message = only(tells(truncated=never, terminated=never), "no_end")
    assert message.startswith("slot 4 of copy 0 (first of 2)"), "the fifth transition, once a copy"


def test_an_end_before_the_shortest_episodes():
    assert found(walk(shortest_episode=3)) == {}
    message = only(walk(shortest_episode=4), "short_episode")
    assert (
        "expected no end before spec.shortest_episode = 4 transitions, got one after 3" in message
    )


def test_a_state_that_is_not_what_its_source_says():
    """The replay stores no state where it can be put together from observations."""
    facts = {"state_source": "concatenated observations", "state_size": 3}

    def side_by_side(seen: Observation, state: Any) -> Observation:
        return seen._replace(state=jnp.concatenate([seen.obs[0, :1], seen.obs[1]]))

    def shifted(seen: Observation, state: Any) -> Observation:
        return seen._replace(state=side_by_side(seen, state).state + 1)

    assert found(walk(see=side_by_side, **facts)) == {}
    message = only(walk(see=shifted, **facts), "state_not_concatenated")
    assert message.startswith("state feature 0, slot 0 of copy 0")
    assert "expected the agents' observations side by side, as spec.state_source says" in message


def test_no_end_seen():
    assert only(Walk(), "no_end_seen", "notice", steps=2) == (
        "test/walk: expected an end of an episode, got none in 2 slots; play 10 steps "
        "(--steps) to see how episodes end"
    )


@pytest.mark.parametrize("env", [drawing(), calling(vmap_method="sequential")])
def test_nondeterministic(env):
    problem = found(env)["nondeterministic"]
    assert problem.severity == "error"
    where, _, rest = problem.message.partition(": ")
    assert where == "reward at slot 0 of copy 0"
    assert rest.startswith("expected the same from the same key and actions, got ")
    assert rest.endswith(
        "; draw every random number from the key given, and keep nothing in Python attributes"
    )


def test_reset_ignores_key():
    class Alike(Walk):
        def reset(self, key):
            return {"left": jnp.int32(3), "time": jnp.int32(0)}

    assert only(Alike(), "reset_ignores_key", "notice") == (
        "reset: expected different keys to give different first observations, got the same one "
        "from all of 8; use the key of reset, unless every episode is meant to begin alike"
    )


@pytest.mark.parametrize("of", [lambda state: 1.0, lambda state: state["left"] + state["time"]])
def test_constant_state(of):
    # The second differs between episodes, but never within one.
    env = walk(see=lambda seen, state: seen._replace(state=jnp.full(2, of(state), jnp.float32)))
    assert only(env, "constant_state", "notice") == (
        "state: expected a state that changes within an episode, got the same from first to last; "
        "return what changes, unless the game is a repeated one"
    )


def test_single_agent():
    class Alone(Walk):
        spec = walk(agents=("only",), n_actions=(3,), obs_sizes=(2,)).spec

        def observe(self, state):
            obs, state, avail_actions, alive = super().observe(state)
            return Observation(obs[1:], state, avail_actions[1:], alive[1:])

    assert only(Alone(), "single_agent", "notice") == (
        "spec.agents: expected a team, got one agent; there is no team to mix; any mixer then "
        "acts on one value"
    )

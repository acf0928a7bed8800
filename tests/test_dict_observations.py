"""Observations that are dicts of arrays: flattened for learning, whole for the user's module."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import SIZES, agent_config, random_batch
from losses import unroll_of
from qtot.config import TrainConfig
from qtot.core.agent import Agent
from qtot.envs import make_env
from qtot.envs.check_spec import spec_problems
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.evaluation.policy import Policy
from qtot.shapes import features, flatten, is_named, unflatten
from qtot.store.run_folder import _tuples
from qtot.training.ingraph import make_learner

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPE = (("eye", (2, 3)), ("speed", ()), ("where", (2,)))
TEAM = SIZES._replace(T=3, N=3, O=9)
OWN = """
import equinox as eqx
import jax
import jax.numpy as jnp

seen = []

class Eyes(eqx.Module):
    weight: jax.Array

    def __init__(self, key, obs_shape):
        seen.append(obs_shape)
        self.weight = jax.random.normal(key, (4, *obs_shape["eye"]))

    def __call__(self, obs):
        looked = jnp.einsum("frc,rc->f", self.weight, obs["eye"])
        return jnp.concatenate([looked, obs["where"] * 100, obs["speed"][None]])

def wrong(key, obs_shape):
    return lambda obs: obs["ear"]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_dict.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_dict", raising=False)
    return "own_dict"


def agent_of(**config: Any) -> Agent:
    return Agent(
        jax.random.key(0),
        n_agents=TEAM.N,
        obs_size=TEAM.O,
        obs_shape=SHAPE,
        n_actions=TEAM.A,
        config=agent_config(**config),
    )


def test_flat_and_whole_are_the_same():
    whole = {"eye": np.arange(6.0).reshape(2, 3), "speed": 7.0, "where": [8.0, 9.0]}
    flat = flatten(whole, SHAPE)
    assert is_named(SHAPE) and features(SHAPE) == 9 and features((2, 3)) == 6
    np.testing.assert_array_equal(flat, [0, 1, 2, 3, 4, 5, 7, 8, 9])
    for name, part in unflatten(flat, SHAPE).items():
        np.testing.assert_array_equal(part, whole[name])
    assert flatten({**whole, "ear": 0}, SHAPE) is None
    assert flatten({**whole, "where": [1.0]}, SHAPE) is None


def test_the_module_is_given_a_dict_of_arrays(own: str):
    agent = agent_of(module=f"{own}:Eyes", memory="none")
    assert sys.modules[own].seen[0] == dict(SHAPE)
    eyes = agent.network.eyes
    obs = np.random.default_rng(0).normal(size=(2, 5, 9)).astype(np.float32)
    got = eyes(jnp.asarray(obs))  # pyright: ignore[reportOptionalCall]
    weight = np.asarray(eyes.arrays.weight)  # pyright: ignore[reportAttributeAccessIssue]
    for at in np.ndindex(2, 5):
        looked = np.einsum("frc,rc->f", weight, obs[at][:6].reshape(2, 3))
        expected = [*looked, *(obs[at][7:] * 100), obs[at][6]]
        np.testing.assert_allclose(got[at], expected, rtol=1e-4, atol=1e-4)
    unroll_of(agent, random_batch(0, TEAM, memory=0))
    with pytest.raises(QtotError, match=r"shape \{'eye': \(2, 3\).*it raised KeyError: 'ear'"):
        agent_of(module=f"{own}:wrong")


def test_without_a_module_they_are_flat_and_a_cnn_refuses_them():
    unroll_of(agent_of(memory="none"), random_batch(0, TEAM, memory=0))
    with pytest.raises(QtotError, match=r"agent.cnn reads images .* leave agent.cnn empty"):
        agent_of(cnn=(4,))


def spec() -> EnvSpec:
    return replace(make_env("probe/chain").spec, obs_sizes=(9, 9), state_size=18, obs_shape=SHAPE)


def test_a_policy_takes_the_dict_or_the_vector():
    learner = make_learner(spec(), TrainConfig(env="probe/chain"))
    state = learner.init(jax.random.key(0))
    policy = Policy(spec(), learner, state.online.agent, state.stats, spec().agents[0])
    flat = np.arange(9, dtype=np.float32)
    q, _ = policy.q_values(flat, policy.reset())
    whole, _ = policy.q_values(unflatten(flat, SHAPE), policy.reset())
    np.testing.assert_array_equal(q, whole)
    with pytest.raises(QtotError, match=r"\(9,\) or \{'eye': \(2, 3\).*got \{'eye': \(2, 3\)\}"):
        policy.q_values({"eye": np.zeros((2, 3))}, policy.reset())
    with pytest.raises(QtotError, match=r"got \(3,\)"):
        policy.q_values(np.zeros(3), policy.reset())


def test_the_spec_comes_back_from_json():
    for shape in (SHAPE, (2, 3, 4), ()):
        written = json.loads(json.dumps(replace(spec(), obs_shape=shape).to_dict()))
        again = EnvSpec(**_tuples(EnvSpec, written))
        assert again == replace(spec(), obs_shape=shape) and hash(again)


def test_the_checker_adds_up_the_parts():
    assert not list(spec_problems(spec()))
    (found,) = spec_problems(replace(spec(), obs_shape=SHAPE[:2]))
    assert "7 in all" in found.message

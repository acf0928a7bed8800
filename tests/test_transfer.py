"""Agents that begin as those of another run, also in a team of another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
from command import run as command
from qtot.api import train_config
from qtot.config import TrainConfig, nested_replace
from qtot.envs import jax_env
from qtot.errors import QtotError
from qtot.training.heirs import heirs
from qtot.training.ingraph import Program
from small import small_config
from untrained import MEMORY, untrained

HUNT = "predator_prey/5x5-3v1-p2-t30"
GROUPS = {"sharing": "groups", "groups": (0, 1, 0)}


def config_of(env: str = HUNT, **changes: Any) -> TrainConfig:
    return nested_replace(small_config(env, **MEMORY), changes)


def begun(config: TrainConfig) -> tuple[Any, Any]:
    """Each seed's networks and statistics before the first step; and the same without heirs."""
    env = jax_env(config.env)
    program = Program.make(env, config)
    fresh = jax.jit(program.init)(config.seed)
    kept = jax.tree.map(np.array, fresh.seeds.train)
    inherit = heirs(config, env.spec)
    assert inherit is not None
    return inherit(fresh).seeds.train, kept


def test_agents_go_on_and_all_else_is_fresh(tmp_path: Path):
    changes = {"scaling": {"normalise_obs": True}}
    source = untrained(tmp_path / "source", config_of(seeds=2, **changes))
    config = config_of(seeds=3, init_agents=str(source.path), algo="ow_qmix", **changes)
    train, fresh = begun(config)
    for seed, theirs in ((0, 0), (1, 1), (2, 0)):
        old = source.params(theirs)
        for networks in (train.online, train.target):
            agent = jax.tree.map(lambda x: np.asarray(x[seed]), networks.agent)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, agent, old.online.agent)
        moments = jax.tree.map(lambda x: np.asarray(x[seed]), train.stats.obs)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, moments, old.stats.obs)
    rest = train._replace(
        online=train.online.__class__(fresh.online.agent, train.online.mixer, train.online.critic),
        target=train.target.__class__(fresh.target.agent, train.target.mixer, train.target.critic),
        stats=train.stats._replace(obs=fresh.stats.obs),
    )
    jax.tree.map(np.testing.assert_array_equal, rest, fresh)


def test_a_run_begins_as_they_were_and_goes_on(tmp_path: Path):
    """The first evaluation is theirs; a resumed heir is not begun anew."""
    source = untrained(tmp_path / "source", small_config("matrix/two_step"))
    config = small_config("matrix/two_step", init_agents=str(source.path), steps=40, algo="vdn")
    run = train_config(config, tmp_path / "run", quiet=True)
    (row,) = qtot.evaluate(source, episodes=32)
    assert run.metrics()[0]["eval/return"] == row["return"]
    more = qtot.resume(run.path, steps=600, reschedule=True, quiet=True)
    assert more.config.init_agents == str(source.path)
    same = jax.tree.map(np.array_equal, more.params().online.agent, source.params().online.agent)
    assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("env", ["predator_prey/5x5-2v1-p2-t30", "predator_prey/6x6-5v2-p2-t30"])
@pytest.mark.parametrize(
    "agent", [{}, {"agent_id": False}, {"encoder": ()}, {"memory": "none", "encoder": ()}]
)
def test_a_team_of_another_size_acts_as_the_old_one(env: str, agent: Any, tmp_path: Path):
    """The agents that were there before have the same values; new ones know the same but who they
    are.
    """
    changes = {"agent": agent, "scaling": {"normalise_obs": True}}
    source = untrained(tmp_path / "source", config_of(**changes))
    config = config_of(env, init_agents=str(source.path), **changes)
    train, _ = begun(config)
    n = jax_env(env).spec.n_agents
    new = jax.tree.map(lambda x: np.asarray(x[0]), (train.online.agent, train.stats.obs))
    old = source.params()
    obs = np.random.default_rng(0).normal(size=(1, 1, n, 50)).astype(np.float32)
    q, _, _ = jax.device_put(new[0]).unroll(jnp.asarray(obs), *_begin(n))
    many = min(n, source.spec.n_agents)
    theirs = np.zeros((1, 1, source.spec.n_agents, 50), np.float32)
    theirs[:, :, :many] = obs[:, :, :many]
    want, _, _ = old.online.agent.unroll(jnp.asarray(theirs), *_begin(source.spec.n_agents))
    np.testing.assert_allclose(q[:, :, :many], want[:, :, :many], atol=1e-5)
    moments = old.stats.obs
    np.testing.assert_array_equal(new[1].mean[:many], moments.mean[:many])
    # One that is new expects what all saw together.
    deviation = np.sqrt(np.asarray(moments.m2) / 50 + np.asarray(moments.mean) ** 2)
    mean = np.mean(np.asarray(moments.mean), axis=0)
    together = np.sqrt(np.mean(deviation**2, axis=0) - mean**2)
    for i in range(many, n):
        np.testing.assert_allclose(new[1].mean[i], mean, rtol=1e-5)
        np.testing.assert_allclose(np.sqrt(new[1].m2[i] / 50), together, rtol=1e-4)


def _begin(n: int) -> tuple[Any, Any, Any]:
    hidden = MEMORY["agent"]["hidden"]
    none, first = jnp.full((1, 1, n), -1), jnp.ones((1, 1), bool)
    return none, first, jnp.zeros((1, n, hidden))


def test_networks_of_their_own_and_groups_go_along(tmp_path: Path):
    small = "predator_prey/5x5-2v1-p2-t30"
    for theirs, ours, many in (
        ({"sharing": "none"}, {"sharing": "none"}, 2),
        (GROUPS, {"sharing": "groups", "groups": (1, 0)}, 2),
        (GROUPS, {"sharing": "groups", "groups": (0, 0)}, 1),
    ):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        source = untrained(path, config_of(agent=theirs))
        train, _ = begun(config_of(small, agent=ours, init_agents=str(path)))
        got = train.online.agent.network.head.weight[0]
        want = source.params().online.agent.network.head.weight
        assert len(got) == many
        np.testing.assert_array_equal(got, want[:many])


def test_agents_in_other_groups_know_what_their_new_network_saw(tmp_path: Path):
    """Who is in another group now never had its network: it begins as those who had."""
    changes = {"scaling": {"normalise_obs": True}}
    source = untrained(tmp_path / "source", config_of(agent=GROUPS, **changes))
    again = {"sharing": "groups", "groups": (1, 1, 0)}
    train, fresh = begun(config_of(agent=again, init_agents=str(source.path), **changes))
    old, had = source.params().online.agent, source.params().stats.obs
    network = jax.tree.map(lambda x: np.asarray(x[0]), train.online.agent.network)
    weight, then = network.encoder[0].weight, old.network.encoder[0].weight
    np.testing.assert_array_equal(network.head.weight, old.network.head.weight)
    np.testing.assert_array_equal(weight[..., :-3], then[..., :-3])
    begins = np.asarray(fresh.online.agent.network.encoder[0].weight[0])
    for i, was in enumerate((None, 1, 2)):  # its column of agent ids
        want = begins if was is None else then
        np.testing.assert_array_equal(weight[..., i - 3], want[..., i - 3])
    mean = np.asarray(train.stats.obs.mean[0])
    np.testing.assert_allclose(mean[0], had.mean[1], rtol=1e-6)  # who alone was in group 1
    np.testing.assert_array_equal(mean[1:], had.mean[1:])


def test_what_does_not_fit_is_refused_with_the_reason(tmp_path: Path):
    source = untrained(tmp_path / "source", config_of(agent={"sharing": "none"}))
    none = {"agent": {"sharing": "none"}}
    for env, changes, reason in (
        ("probe/memory", none, r"probe/memory has observations of 6, predator_prey\S+ had 50"),
        (HUNT, {"agent": {"hidden": 9, "sharing": "none"}}, "--agent.hidden is 9 here and was 8"),
        (HUNT, {"scaling": {"normalise_obs": True}, **none}, "--scaling.normalise-obs is True"),
        ("predator_prey/5x5-4v1-p2-t30", none, "there are 3 for 4 agents"),
        (HUNT, {}, "--agent.sharing is all here and was none"),
        (HUNT, {"algo": "coma", **none}, "coma here, qmix there: logits of a policy are no val"),
    ):
        with pytest.raises(QtotError, match=f"cannot begin here: .*{reason}"):
            heirs(config_of(env, init_agents=str(source.path), **changes), jax_env(env).spec)
    source = untrained(tmp_path / "groups", config_of(agent=GROUPS))
    three = {"sharing": "groups", "groups": (0, 1, 2)}
    with pytest.raises(QtotError, match=r"--agent.groups names 3 groups, of which it had 2"):
        heirs(config_of(agent=three, init_agents=str(source.path)), jax_env(HUNT).spec)
    got = command(f"train --env {HUNT} --init-agents {tmp_path} --out {tmp_path / 'x'}")
    assert got.code == 2
    assert "is not a run folder" in got.err

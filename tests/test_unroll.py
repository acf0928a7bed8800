"""From sequences to Q-values: memory, previous actions, parameter sharing."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest

import builders
import oracle
from builders import SIZES, agent_config, random_agent, random_batch, random_networks
from losses import LAMBDA, close, differentiated, unroll_of
from qtot.core.agent import Agent, QNetwork
from qtot.core.config import AgentConfig
from qtot.core.gru import GRU
from qtot.core.networks import Networks
from qtot.core.nn import Linear
from qtot.types import Batch, SequenceStart

pytestmark = pytest.mark.usefixtures("quick_compile")

agent_unroll = jax.jit(lambda agent, *args: agent.unroll(*args))


def test_unroll_equals_a_plain_loop():
    agent, batch = random_networks(1).agent, random_batch(0)
    close(unroll_of(agent, batch), oracle.unroll(agent, batch))


CONFIGS = {
    "gru": agent_config(),
    "no memory": agent_config(memory="none"),
    "own parameters": agent_config(sharing="none"),
    "own parameters, no memory": agent_config(sharing="none", memory="none"),
    "observation only": agent_config(prev_action=False, agent_id=False),
    "layer norm": agent_config(layer_norm=True, encoder=(9, 6)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_unroll_equals_acting_step_by_step(name: str):
    config = CONFIGS[name]
    agent = random_agent(np.random.default_rng(0), SIZES, config)
    batch = random_batch(0, memory=agent.memory_size)
    q, hidden = unroll_of(agent, batch)
    assert hidden.shape == (SIZES.T + 1, SIZES.B, SIZES.N, SIZES.H)
    slots, (memory, previous) = batch.slots, batch.start
    for t in range(SIZES.T + 1):
        q_t, hidden_t, memory = agent_unroll(
            agent, slots.obs[t][None], previous[None], slots.first[t][None], memory
        )
        close((q_t[0], hidden_t[0]), (q[t], hidden[t]), rtol=1e-5, atol=1e-6)
        previous = slots.action[t]


@pytest.mark.parametrize("name", ["gru", "own parameters"])
def test_first_in_mid_sequence_clears_memory_and_previous_action(name: str):
    """Two episodes in one sequence equal the two episodes by themselves."""
    agent = random_agent(np.random.default_rng(0), SIZES, CONFIGS[name])
    batch, cut = random_batch(0), 4
    first = np.zeros((SIZES.T + 1, SIZES.B), bool)
    first[cut] = True
    batch = batch._replace(slots=batch.slots._replace(first=first))
    fresh = SequenceStart(
        np.zeros_like(batch.start.memory), np.full_like(batch.start.prev_action, -1)
    )
    together = unroll_of(agent, batch)
    head = unroll_of(agent, Batch(jax.tree.map(lambda x: x[:cut], batch.slots), batch.start))
    tail = unroll_of(agent, Batch(jax.tree.map(lambda x: x[cut:], batch.slots), fresh))
    close(together, jax.tree.map(lambda a, b: np.concatenate([a, b]), head, tail), atol=1e-6)
    # and without it they do not: both the memory and the previous action are used
    plain = unroll_of(agent, batch._replace(slots=batch.slots._replace(first=np.zeros_like(first))))
    assert not np.allclose(plain[0][cut], together[0][cut], atol=1e-3)


def test_first_clears_only_its_own_environment():
    agent, batch = random_networks(1).agent, random_batch(0)
    never = np.zeros((SIZES.T + 1, SIZES.B), bool)
    q, _ = unroll_of(agent, batch._replace(slots=batch.slots._replace(first=never)))
    once = never.copy()
    once[3, 1] = True
    q_once, _ = unroll_of(agent, batch._replace(slots=batch.slots._replace(first=once)))
    others = np.arange(SIZES.B) != 1
    np.testing.assert_array_equal(q[:, others], q_once[:, others])
    np.testing.assert_array_equal(q[:3], q_once[:3])
    assert not np.allclose(q[3:, 1], q_once[3:, 1], atol=1e-3)


def test_a_sequence_starts_from_its_stored_memory_and_previous_action():
    agent, batch = random_networks(1).agent, random_batch(0)
    never = np.zeros((SIZES.T + 1, SIZES.B), bool)
    batch = batch._replace(slots=batch.slots._replace(first=never))
    q = unroll_of(agent, batch)[0]
    for start in (
        batch.start._replace(memory=batch.start.memory + 1.0),
        batch.start._replace(prev_action=(batch.start.prev_action + 1) % SIZES.A),
    ):
        assert not np.allclose(q[0], unroll_of(agent, batch._replace(start=start))[0][0], atol=1e-3)


def test_agents_with_their_own_parameters_equal_separate_single_agents():
    config = agent_config(sharing="none", agent_id=False)
    team = random_agent(np.random.default_rng(0), SIZES, config)
    batch = random_batch(0, memory=team.memory_size)
    target = random_agent(np.random.default_rng(1), SIZES, config)
    mixer = builders.random_mixer(np.random.default_rng(0), "iql")
    (loss, _), grads = differentiated(LAMBDA)(Networks(team, mixer), Networks(target, mixer), batch)
    q, hidden = unroll_of(team, batch)

    alone = SIZES._replace(N=1)
    shared = agent_config(alone, sharing="all", agent_id=False)

    def agent_of(agent: Agent, a: int) -> Agent:
        single = random_agent(np.random.default_rng(9), alone, shared)
        own = jax.tree.map(lambda x: x[a], agent.network)
        return eqx.tree_at(lambda x: x.network, single, own)

    def seen_by(a: int) -> Batch:
        s = batch.slots
        return Batch(
            s._replace(
                obs=s.obs[:, :, [a]],
                avail_actions=s.avail_actions[:, :, [a]],
                alive=s.alive[:, :, [a]],
                action=s.action[:, :, [a]],
            ),
            jax.tree.map(lambda x: x[:, [a]], batch.start),
        )

    losses = []
    for a in range(SIZES.N):
        close(
            unroll_of(agent_of(team, a), seen_by(a)), (q[:, :, [a]], hidden[:, :, [a]]), atol=1e-6
        )
        (own_loss, _), own_grads = differentiated(LAMBDA)(
            Networks(agent_of(team, a), mixer), Networks(agent_of(target, a), mixer), seen_by(a)
        )
        losses.append(float(own_loss))
        # the team's loss is the mean over agents
        mine = jax.tree.map(lambda g, a=a: SIZES.N * np.asarray(g)[a], grads.agent.network)
        close(mine, own_grads.agent.network)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_agents_with_their_own_parameters_begin_differently():
    agent = jax.jit(
        lambda key: Agent(
            key,
            n_agents=3,
            obs_size=4,
            n_actions=2,
            config=AgentConfig(encoder=(), hidden=4, sharing="none", init="torch"),
        )
    )(jax.random.key(0))
    for x in jax.tree.leaves(agent):
        assert len(x) == 3
        assert not np.array_equal(x[0], x[1])
        assert not np.array_equal(x[1], x[2])


def test_shared_agents_differ_only_through_what_they_are_given():
    """The same observation, previous action and memory: the agent id makes the difference."""
    rng = np.random.default_rng(0)
    batch = random_batch(0)

    def alike(x: np.ndarray, axis: int) -> np.ndarray:
        return np.repeat(np.take(x, [0], axis=axis), SIZES.N, axis=axis)

    batch = Batch(
        batch.slots._replace(obs=alike(batch.slots.obs, 2), action=alike(batch.slots.action, 2)),
        jax.tree.map(lambda x: alike(x, 1), batch.start),
    )
    with_id = unroll_of(random_agent(rng, SIZES, agent_config()), batch)[0]
    without = unroll_of(random_agent(rng, SIZES, agent_config(agent_id=False)), batch)[0]
    assert not np.allclose(with_id[:, :, 0], with_id[:, :, 1], atol=1e-3)
    np.testing.assert_allclose(without[:, :, 0], without[:, :, 1], rtol=1e-5, atol=1e-6)


def test_agents_without_memory_see_only_their_slot():
    config = agent_config(memory="none", prev_action=False)
    agent = random_agent(np.random.default_rng(0), SIZES, config)
    assert agent.memory_size == 0
    assert agent.initial_memory(5).shape == (5, SIZES.N, 0)
    batch = random_batch(0, memory=0)
    backwards = batch._replace(slots=batch.slots._replace(obs=batch.slots.obs[::-1]))
    q, hidden = unroll_of(agent, batch)
    close(unroll_of(agent, backwards), (q[::-1], hidden[::-1]), rtol=1e-6, atol=1e-6)
    for t, b, a in np.ndindex(*batch.slots.action.shape):
        x = np.concatenate([batch.slots.obs[t, b, a], np.eye(SIZES.N)[a]])
        for layer in (*agent.network.encoder, agent.network.memory):
            x = oracle.relu(oracle.linear(layer, x))
        np.testing.assert_allclose(
            q[t, b, a], oracle.linear(agent.network.head, x), rtol=1e-4, atol=1e-5
        )


def test_parts_are_what_the_configuration_says():
    agent = random_agent(np.random.default_rng(0), SIZES, agent_config(encoder=(9, 6)))
    assert isinstance(agent.network, QNetwork)
    assert isinstance(agent.network.memory, GRU)
    assert [layer.weight.shape[0] for layer in agent.network.encoder] == [9, 6]
    plain = random_agent(np.random.default_rng(0), SIZES, agent_config(memory="none"))
    assert isinstance(plain.network.memory, Linear)

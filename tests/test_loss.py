"""The temporal-difference loss: masks, ends, double Q, burn-in, what is trained."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import builders
import oracle
from builders import SIZES, Sizes, agent_config, random_batch, random_networks
from losses import (
    LAMBDA,
    N_STEP,
    ONE_STEP,
    OWN_MAX,
    close,
    differentiated,
    double,
    forward,
    objective_of,
    same_bits,
    unroll_of,
)
from qtot.core.agent import Agent
from qtot.core.config import AgentConfig, TargetConfig
from qtot.core.losses.base import Objective
from qtot.core.losses.td import td_loss
from qtot.core.methods import METHODS, mixer_class
from qtot.core.mixers.base import Shapes
from qtot.core.networks import Networks
from qtot.types import Batch, SequenceStart, Slots

pytestmark = pytest.mark.usefixtures("quick_compile")

NO_MEMORY = agent_config(memory="none")


# --- against the plain loop -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "config"),
    [("qmix", ONE_STEP), ("qmix", LAMBDA), ("qmix", OWN_MAX), ("vdn", N_STEP), ("iql", LAMBDA)],
    ids=["qmix", "qmix λ", "qmix without double Q", "vdn n-step", "iql λ"],
)
def test_loss_and_metrics_equal_a_plain_loop(algo: str, config: TargetConfig):
    online, target = random_networks(1, algo), random_networks(2, algo)
    for seed in range(4):
        batch = random_batch(seed, whole=seed < 2)
        expected = oracle.loss(algo, online, target, batch, objective_of(config))
        close(forward(config)(online, target, batch), expected)


@pytest.mark.parametrize(
    ("algo", "axes"),
    [("qmix", "T"), ("qmix", "B"), ("qmix", "N"), ("qmix", "A"), ("qmix", "TBNA"), ("iql", "TBNA")],
)
def test_sizes_of_one_do_not_broadcast(algo: str, axes: str):
    sizes = SIZES._replace(**dict.fromkeys(axes, 1))
    online, target = random_networks(1, algo, sizes), random_networks(2, algo, sizes)
    batch = random_batch(4, sizes, whole=True)
    got = forward(LAMBDA)(online, target, batch)
    close(got, oracle.loss(algo, online, target, batch, objective_of(LAMBDA)))
    assert all(x.shape == () for x in got.values())


# --- masks and values worked out by hand ------------------------------------------------------


def readout(head: Any, n_agents: int = 1, algo: str = "vdn") -> Networks:
    """Agents without memory whose Q-values are ``head @ obs``, for observations of at least 0."""
    head = np.asarray(head, np.float32)
    actions, inputs = head.shape
    config = AgentConfig(
        encoder=(), hidden=inputs, memory="none", prev_action=False, agent_id=False
    )
    shapes = jax.eval_shape(
        lambda key: Agent(
            key, n_agents=n_agents, obs_size=inputs, n_actions=actions, config=config
        ),
        jax.random.key(0),
    )
    agent = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    agent = eqx.tree_at(
        lambda a: (a.network.memory.weight, a.network.head.weight),
        agent,
        (np.eye(inputs, dtype=np.float32), head),
    )
    mixer = mixer_class(algo)(
        jax.random.key(0), Shapes(n_agents, actions, 1, inputs), builders.MIXER
    )
    return Networks(agent, mixer)


def sequence(
    obs: Any,
    action: Any,
    reward: Any,
    *,
    avail: Any = None,
    terminated: Any = (),
    invalid: Any = (),
    first: Any = (0,),
) -> Batch:
    """One sequence, B = 1. ``obs [T+1, N, O]``, ``action [T, N]``, ``reward [T]``; slots that are
    terminated, invalid or first by their numbers.
    """
    obs = np.asarray(obs, np.float32)
    slots, n_agents, size = obs.shape

    def flags(which: Any) -> np.ndarray:
        return np.isin(np.arange(slots), which)[:, None]

    def upto(x: Any, kind: type) -> np.ndarray:
        x = np.asarray(x, kind)
        return np.concatenate([x, np.zeros_like(x[:1])])[:, None]

    mask = np.ones((slots, n_agents, size), bool) if avail is None else np.asarray(avail, bool)
    return Batch(
        Slots(
            obs=obs[:, None],
            state=np.zeros((slots, 1, 1), np.float32),
            avail_actions=mask[:, None],
            alive=np.ones((slots, 1, n_agents), bool),
            action=upto(action, np.int32),
            reward=upto(reward, np.float32),
            terminated=flags(terminated),
            first=flags(first),
            valid=~flags(invalid),
        ),
        SequenceStart(np.zeros((1, n_agents, 0), np.float32), np.full((1, n_agents), -1, np.int32)),
    )


def values(batch: Batch, online: Networks, target: Networks, config: TargetConfig) -> list[float]:
    """Loss, and the means of Q_tot and its target."""
    out = forward(config)(online, target, batch)
    return [float(out[k]) for k in ("loss", "q_tot", "target")]


HALF = TargetConfig(gamma=0.5)
HALF_MAX = TargetConfig(gamma=0.5, double_q=False)
SAME = np.eye(2)


@pytest.mark.parametrize("config", [HALF, HALF_MAX], ids=["double", "max"])
def test_the_target_uses_the_next_slots_own_mask(config: TargetConfig):
    """Action 0 (worth 8) is legal at t and no longer at t+1, where only action 1 (worth 2) is."""
    batch = sequence(
        obs=[[[8, 2]], [[8, 2]]],
        action=[[0]],
        reward=[1],
        avail=[[[True, False]], [[False, True]]],
    )
    # target = 1 + .5 · 2 = 2, with the mask of t it would be 5;  loss = (8 − 2)²
    assert values(batch, readout(SAME), readout(SAME), config) == [36.0, 8.0, 2.0]


@pytest.mark.parametrize("config", [HALF, HALF_MAX], ids=["double", "max"])
def test_an_agent_without_legal_action_takes_action_0(config: TargetConfig):
    batch = sequence(obs=[[[8, 2]], [[4, 6]]], action=[[0]], reward=[1], avail=[[[1, 1]], [[0, 0]]])
    # target = 1 + .5 · 4
    assert values(batch, readout(SAME), readout(SAME), config) == [25.0, 8.0, 3.0]


def test_double_q_chooses_with_the_online_and_values_with_the_target_network():
    """Two agents; the target networks swap the actions' values and multiply them by ten."""
    batch = sequence(obs=[[[1, 0], [0, 3]], [[2, 3], [7, 4]]], action=[[0, 1]], reward=[1])
    swapped = [[0, 10], [10, 0]]
    online, target = readout(SAME, n_agents=2), readout(swapped, n_agents=2)
    # Q_tot = 1 + 3. At t+1 the online values are (2, 3) and (7, 4), the target's are (30, 20) and
    # (40, 70).
    # double: actions 1 and 0 → 20 + 40;  target = 1 + .5 · 60 = 31;   loss = 27²
    assert values(batch, online, target, HALF) == [729.0, 4.0, 31.0]
    # maximum: 30 + 70;                   target = 1 + .5 · 100 = 51;  loss = 47²
    assert values(batch, online, target, HALF_MAX) == [2209.0, 4.0, 51.0]


def test_independent_agents_each_regress_on_the_team_reward():
    batch = sequence(obs=[[[1, 0], [0, 3]], [[2, 3], [7, 4]]], action=[[0, 1]], reward=[1])
    both = readout(SAME, n_agents=2, algo="iql")
    # targets 1 + .5·3 = 2.5 and 1 + .5·7 = 4.5; errors 1 − 2.5 and 3 − 4.5; means over agents
    assert values(batch, both, both, HALF) == [2.25, 2.0, 3.5]


# Two transitions and the final observation: values of the taken actions 3, 6; of the next 6, 4.
CHAIN: dict[str, Any] = {"obs": [[[3, 0]], [[5, 6]], [[4, 1]]], "action": [[0], [1]]}
FULL = TargetConfig(gamma=0.5, td_lambda=1.0)


@pytest.mark.parametrize(
    ("config", "terminated", "expected"),
    [
        # one step: 1 + .5·6 = 4;  terminated: 2.  errors 3 − 4, 6 − 2
        (HALF, (1,), [8.5, 4.5, 3.0]),
        # truncated: 2 + .5·4 = 4.  errors −1, 2
        (HALF, (), [2.5, 4.5, 4.0]),
        # λ = 1, terminated: 2 and 1 + .5·2 = 2.  errors 1, 4
        (FULL, (1,), [8.5, 4.5, 2.0]),
        # λ = 1, truncated: 4 and 1 + .5·4 = 3.  errors 0, 2
        (FULL, (), [2.0, 4.5, 3.5]),
        # two-step, as λ = 1 here
        (TargetConfig(gamma=0.5, n_step=2), (1,), [8.5, 4.5, 2.0]),
        (TargetConfig(gamma=0.5, n_step=2), (), [2.0, 4.5, 3.5]),
    ],
)
def test_a_true_end_has_no_value_and_a_time_limit_has(
    config: TargetConfig, terminated: tuple[int, ...], expected: list[float]
):
    batch = sequence(**CHAIN, reward=[1, 2], terminated=terminated)
    assert values(batch, readout(SAME), readout(SAME), config) == expected
    # The same when the final observation is followed by padding or by another episode.
    longer: dict[str, Any] = {
        "obs": [*CHAIN["obs"], [[9, 9]], [[9, 9]]],
        "action": [*CHAIN["action"], [0], [0]],
        "reward": [1, 2, 50, 50],
        "terminated": terminated,
    }
    padded = sequence(**longer, invalid=(2, 3, 4))
    assert values(padded, readout(SAME), readout(SAME), config) == expected


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_time_limit_can_be_taken_for_an_end(lam: float):
    """Slot 2 is the final observation. A segment that is only cut there still bootstraps."""
    plain = TargetConfig(gamma=0.5, td_lambda=lam)
    as_end = TargetConfig(gamma=0.5, td_lambda=lam, time_limit="end")
    same = readout(SAME)
    truncated = sequence(**CHAIN, reward=[1, 2], invalid=(2,))
    terminated = sequence(**CHAIN, reward=[1, 2], invalid=(2,), terminated=(1,))
    cut = sequence(**CHAIN, reward=[1, 2])
    ends, goes_on = (values(x, same, same, plain) for x in (terminated, truncated))
    assert ends != goes_on
    assert values(truncated, same, same, as_end) == ends
    assert values(terminated, same, same, as_end) == ends
    assert values(cut, same, same, as_end) == goes_on


@pytest.mark.parametrize("config", [HALF, FULL], ids=["1", "λ"])
def test_a_final_observation_inside_a_segment_ends_one_episode_and_opens_the_next(
    config: TargetConfig,
):
    """Slots: transition, transition (truncated), final observation, transition (terminated),
    final observation (slot T).
    """
    batch = sequence(
        obs=[*CHAIN["obs"], [[7, 2]], [[9, 9]]],
        action=[*CHAIN["action"], [0], [0]],
        reward=[1, 2, 50, 5],
        terminated=(3,),
        invalid=(2, 4),
        first=(0, 3),
    )
    # first episode as above: one step 4, 4; λ = 1: 3, 4.  second: 5, with Q = 7, error 2
    # errors: one step −1, 2, 2;  λ = 1: 0, 2, 2
    expected = {HALF: [3.0, 16 / 3, 13 / 3], FULL: [8 / 3, 16 / 3, 4.0]}[config]
    np.testing.assert_allclose(
        values(batch, readout(SAME), readout(SAME), config), expected, rtol=1e-6
    )


# QTRAN's joint Q reads hidden states and COMA's critic observations, as they are.
THROUGH_Q = [algo for algo in METHODS if algo not in ("qtran", "coma")]


@pytest.mark.parametrize(
    ("algo", "config"), [*((algo, LAMBDA) for algo in THROUGH_Q), ("qmix", OWN_MAX)]
)
def test_the_values_of_illegal_actions_never_reach_a_target(algo: str, config: TargetConfig):
    """The values of actions that are illegal at a slot are shifted by a lot, in all networks."""
    sizes, rng = Sizes(A=3, O=3, S=1, H=3), np.random.default_rng(0)
    agent = readout(np.eye(3), n_agents=sizes.N).agent
    mixer: Any = builders.random_mixer(rng, algo, sizes)
    critic = builders.random_critic(rng, algo, sizes)
    if algo == "qatten":  # its keys read hidden states
        mixer = eqx.tree_at(lambda m: m.keys, mixer, jax.tree.map(np.zeros_like, mixer.keys))
    if critic is not None:
        critic = eqx.tree_at(lambda c: c.agent, critic, agent)
    online = Networks(agent, mixer, critic)
    batch = random_batch(3, sizes, memory=0)
    mask = batch.slots.avail_actions
    assert not mask.all()
    plain = np.abs(batch.slots.obs)

    def result(shift: float) -> Any:
        obs = np.where(mask, plain, plain + np.float32(shift))
        spoilt = batch._replace(slots=batch.slots._replace(obs=obs))
        return forward(config, algo=algo)(online, online, spoilt)

    for shift in (10.0, 1e9):
        same_bits(result(shift), result(0.0))


# --- what is trained --------------------------------------------------------------------------


def test_no_gradient_reaches_the_target_networks():
    def loss(target: Networks, online: Networks, batch: Batch) -> jax.Array:
        return td_loss(online, target, batch, Objective(LAMBDA))[0]

    networks = (random_networks(seed, config=NO_MEMORY) for seed in (1, 2))
    grads = jax.jit(jax.grad(loss))(*networks, random_batch(0, memory=0))
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("algo", ["iql", "qmix"])
def test_every_parameter_of_agents_and_mixer_receives_a_gradient(algo: str):
    _, grads = differentiated(LAMBDA)(
        random_networks(1, algo), random_networks(2, algo), random_batch(0)
    )
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert (np.asarray(g) != 0).mean() > 0.5, jax.tree_util.keystr(path)


def test_the_target_is_a_constant_for_the_gradient():
    """Finite differences of the loss in which the target's choice and value are held fixed."""
    with jax.enable_x64(True):
        narrow = (
            random_networks(1, config=NO_MEMORY),
            random_networks(2, config=NO_MEMORY),
            random_batch(0, memory=0),
        )
        online, target, batch = double(narrow)
        grads = differentiated(OWN_MAX)(online, target, batch)[1]
        rng = np.random.default_rng(0)
        along = jax.tree.map(lambda x: rng.normal(size=x.shape), online)

        def at(step: float) -> float:
            moved = jax.tree.map(lambda x, d: x + step * d, online, along)
            return float(forward(OWN_MAX)(moved, target, batch)["loss"])

        numeric = (at(1e-6) - at(-1e-6)) / 2e-6
        dots = jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), grads, along))
        np.testing.assert_allclose(sum(dots), numeric, rtol=1e-6)
    assert jnp.zeros(()).dtype == jnp.float32


# --- burn-in ----------------------------------------------------------------------------------


def test_burn_in_slots_carry_no_loss():
    online, target, burn_in = random_networks(1), random_networks(2), 3
    batch = random_batch(0)
    got = forward(LAMBDA, burn_in)(online, target, batch)
    expected = oracle.loss("qmix", online, target, batch, objective_of(LAMBDA, burn_in))
    close(got, expected)


def test_no_gradient_passes_through_burn_in():
    """As if the sequence had been stored with the memory that burning in leaves behind."""
    online, burn_in = random_networks(1), 2
    batch = random_batch(0)
    slots = batch.slots
    batch = batch._replace(  # running streams: nothing is forgotten on the way
        slots=slots._replace(
            first=np.zeros_like(slots.first),
            valid=np.ones_like(slots.valid),
            terminated=np.zeros_like(slots.terminated),
        )
    )
    _, hidden = unroll_of(online.agent, batch)
    later = Batch(
        jax.tree.map(lambda x: x[burn_in:], batch.slots),
        SequenceStart(hidden[burn_in - 1], batch.slots.action[burn_in - 1]),
    )
    got = differentiated(LAMBDA, burn_in)(online, online, batch)
    close(got, differentiated(LAMBDA)(online, online, later))
    # and it would make a difference
    burnt = np.arange(SIZES.T + 1)[:, None] < burn_in
    masked = batch._replace(slots=batch.slots._replace(valid=~burnt & batch.slots.valid))
    through = differentiated(LAMBDA)(online, online, masked)
    weights = [x[1].agent.network.memory.weight_hh for x in (got, through)]
    assert not np.allclose(*weights, rtol=1e-3)


@pytest.mark.parametrize("burn_in", [1, 2, SIZES.T])
def test_burn_in_changes_no_value(burn_in: int):
    agent, batch = random_networks(1).agent, random_batch(0)
    close(unroll_of(agent, batch, burn_in=burn_in), unroll_of(agent, batch), rtol=1e-5, atol=1e-6)

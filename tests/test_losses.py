"""Every method's loss: plain loops, what is trained, seeds, sizes, stored memories."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from builders import SIZES, Sizes, agent_config, memory_of, random_batch, random_networks
from losses import (
    LAMBDA,
    N_STEP,
    ONE_STEP,
    OWN_MAX,
    close,
    differentiated,
    double,
    forward,
    gradient_equals_differences,
    objective_of,
    unroll_of,
)
from qtot.core.config import TargetConfig
from qtot.core.methods import METHODS, critic_class, loss_function, method, mixer_class
from qtot.core.networks import Networks
from qtot.errors import QtotError
from qtot.store.run_folder import METRICS
from qtot.types import Batch, SequenceStart

pytestmark = pytest.mark.usefixtures("quick_compile")

NO_MEMORY = agent_config(memory="none")
# One of each: of a loss, or of a mixer that treats gradients in its own way.
KINDS = ["qmix", "qatten", "qplex", "cw_qmix", "ow_qmix", "qtran", "coma"]


def both(algo: str, sizes: Sizes = SIZES, config: Any = None) -> tuple[Networks, Networks]:
    """Online and target networks."""
    return tuple(random_networks(seed, algo, sizes, config) for seed in (1, 2))  # pyright: ignore


# Against the plain loops ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "config", "burn_in"),
    [
        ("qatten", ONE_STEP, 0),
        ("qplex", LAMBDA, 0),
        ("cw_qmix", LAMBDA, 2),
        ("cw_qmix", OWN_MAX, 0),
        ("ow_qmix", N_STEP, 0),
        ("qtran", LAMBDA, 2),
        ("qtran", OWN_MAX, 0),
        ("coma", LAMBDA, 2),
        ("coma", TargetConfig(gamma=0.9, td_lambda=0.7, time_limit="end"), 0),
    ],
    ids=["qatten", "qplex", "cw", "cw-max", "ow", "qtran", "qtran-max", "coma", "coma-limit"],
)
def test_loss_and_metrics_equal_a_plain_loop(algo: str, config: TargetConfig, burn_in: int):
    online, target = both(algo)
    seen = []
    for seed in range(3):
        batch = random_batch(seed, whole=seed == 0 and not burn_in, memory=memory_of(online))
        objective = objective_of(config, burn_in)
        if config.time_limit == "end":  # what the loop is told of the ends
            s = batch.slots
            limit = s.valid & ~np.concatenate([s.valid[1:], np.ones_like(s.valid[:1])])
            told = batch._replace(slots=s._replace(terminated=s.terminated | limit))
        else:
            told = batch
        seen.append(forward(config, burn_in, algo)(online, target, batch))
        close(seen[-1], oracle.loss(algo, online, target, told, objective))
    if "weight" in seen[0]:  # some transitions count in full and some do not
        assert any(0.31 < float(s["weight"]) < 0.99 for s in seen)
    if "nopt_loss" in seen[0]:
        assert any(float(s["nopt_loss"]) > 0 for s in seen)


@pytest.mark.parametrize("algo", ["qatten", "qplex", "cw_qmix", "ow_qmix", "qtran", "coma"])
def test_sizes_of_one_do_not_broadcast(algo: str):
    for axes in ("TBNAOS", "B") if algo == "coma" else ("TBNAOS",):
        sizes = SIZES._replace(**dict.fromkeys(axes, 1))
        online, target = both(algo, sizes)
        batch = random_batch(4, sizes, whole=True, memory=memory_of(online))
        got = forward(LAMBDA, algo=algo)(online, target, batch)
        close(got, oracle.loss(algo, online, target, batch, objective_of(LAMBDA)))


# What every method promises -------------------------------------------------------------------


def test_losses_are_numbers_and_their_metrics_are_documented_with_the_methods_that_have_them():
    reported: dict[str, set[str]] = {}
    for algo in METHODS:
        online, target = both(algo, config=NO_MEMORY)
        run, batch = differentiated(LAMBDA, algo=algo), random_batch(0, memory=0)
        (loss, metrics), _ = jax.eval_shape(run, online, target, batch)
        for x in (loss, *metrics.values()):
            assert (x.shape, x.dtype) == ((), jnp.float32)
        for key in metrics:
            reported.setdefault(key, set()).add(algo)
    assert set(reported) <= set(METRICS)
    for key, about in METRICS.items():
        named = set(about.partition(":")[0].split(", "))
        if named <= set(METHODS):
            assert reported[key] == named, key


@pytest.mark.parametrize("algo", [a for a in METHODS if a not in ("vdn", "iql")])
def test_every_parameter_receives_a_gradient(algo: str):
    """Of agents, mixer and critic."""
    online, target = both(algo, config=NO_MEMORY)
    batch = random_batch(0, SIZES._replace(T=20), memory=0)
    _, grads = differentiated(LAMBDA, algo=algo)(online, target, batch)
    parts = {jax.tree_util.keystr(p)[:4] for p, _ in jax.tree_util.tree_leaves_with_path(grads)}
    assert len(parts) == 1 + (online.mixer is not None and algo != "qtran") + (
        online.critic is not None
    )
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(g).all(), jax.tree_util.keystr(path)
        assert (np.asarray(g) != 0).mean() > 0.5, jax.tree_util.keystr(path)


@pytest.mark.parametrize("algo", ["cw_qmix", "ow_qmix", "qtran", "coma"])
def test_no_gradient_reaches_the_target_networks(algo: str):
    def loss(target: Networks, online: Networks, batch: Batch) -> jax.Array:
        return loss_function(algo)(online, target, batch, objective_of(LAMBDA))[0]

    online, target = both(algo, config=NO_MEMORY)
    grads = jax.jit(jax.grad(loss))(target, online, random_batch(0, memory=0))
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("algo", KINDS)
def test_gradients_equal_finite_differences(algo: str):
    """All that passes through ``stop_gradient`` is held still; what must pass through it is the
    matter of the golden values and of the tests below.
    """
    with jax.enable_x64(True):
        online, target = (double(x) for x in both(algo, config=NO_MEMORY))
        batch = double(random_batch(0, memory=0))
        objective = objective_of(LAMBDA)

        def loss(online: Networks, target: Networks, batch: Batch) -> jax.Array:
            return loss_function(algo)(online, target, batch, objective)[0]

        gradient_equals_differences(loss, online, target, batch)
    assert jnp.zeros(()).dtype == jnp.float32


@pytest.mark.parametrize("algo", ["qplex", "cw_qmix", "qtran", "coma"])
def test_seeds_side_by_side_equal_one_at_a_time(algo: str):
    pairs = [[random_networks(i + k, algo, config=NO_MEMORY) for k in (1, 2)] for i in (0, 10, 20)]
    batches = [random_batch(i, memory=0) for i in range(3)]
    rows = [(*pair, batch) for pair, batch in zip(pairs, batches, strict=True)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *rows)
    run = differentiated(LAMBDA, algo=algo)
    together = jax.jit(jax.vmap(run))(*stacked)
    for i, row in enumerate(rows):
        close(jax.tree.map(lambda x: x[i], together), run(*row), atol=1e-5)  # noqa: B023


# What each trains -----------------------------------------------------------------------------


def gradient_of(algo: str, term: str) -> Networks:
    """Of one of the reported terms alone."""

    def of(online: Networks, target: Networks, batch: Batch) -> jax.Array:
        return loss_function(algo)(online, target, batch, objective_of(ONE_STEP))[1][term]

    online, target = both(algo, config=NO_MEMORY)
    return jax.jit(jax.grad(of))(online, target, random_batch(0, memory=0))


def moves(tree: Any) -> bool:
    return any((np.asarray(g) != 0).any() for g in jax.tree.leaves(tree))


@pytest.mark.parametrize("term", ["opt_loss", "nopt_loss"])
def test_qtrans_joint_q_is_fixed_in_the_losses_that_bind_the_sum_to_it(term: str):
    grads = gradient_of("qtran", term)
    assert moves(grads.agent)
    assert moves(grads.critic.value)
    assert not moves((grads.critic.joint, grads.critic.encoder))


def test_the_unrestricted_q_of_weighted_qmix_trains_neither_agents_nor_mixer():
    grads = gradient_of("cw_qmix", "critic_loss")
    assert moves(grads.critic.agent) and moves(grads.critic.mix) and moves(grads.critic.value)
    assert not moves((grads.agent, grads.mixer))


def test_comas_actors_and_critic_are_trained_by_a_loss_each():
    of_policy, of_critic = (gradient_of("coma", f"{k}_loss") for k in ("policy", "critic"))
    assert moves(of_policy.agent) and not moves(of_policy.critic)
    assert moves(of_critic.critic) and not moves(of_critic.agent)
    assert not moves(gradient_of("coma", "entropy"))  # it is reported, not sought


# A critic's own memory ------------------------------------------------------------------------


def test_a_piece_of_a_sequence_with_its_stored_memory_gives_the_same_central_values():
    online, _ = both("cw_qmix")
    agent, central, cut = online.agent, online.critic.agent, 3
    batch, width = random_batch(0, memory=memory_of(online)), agent.memory_size
    assert width == central.memory_size == SIZES.H
    q, hidden = unroll_of(agent, batch)
    central_q, central_hidden = unroll_of(central, batch, after=width)
    memory = np.concatenate([hidden[cut - 1], central_hidden[cut - 1]], axis=-1)
    later = Batch(
        jax.tree.map(lambda x: x[cut:], batch.slots),
        SequenceStart(memory, batch.slots.action[cut - 1]),
    )
    close(unroll_of(agent, later)[0], q[cut:], atol=1e-6)
    close(unroll_of(central, later, after=width)[0], central_q[cut:], atol=1e-6)
    swapped = later._replace(start=later.start._replace(memory=np.roll(memory, width, axis=-1)))
    assert not np.allclose(unroll_of(central, swapped, after=width)[0], central_q[cut:], atol=1e-3)


def test_stepping_stores_the_memory_of_the_agents_and_then_of_the_critics_own():
    online, _ = both("ow_qmix")
    batch = random_batch(0, memory=memory_of(online))
    q, hidden = unroll_of(online.agent, batch)
    _, central = unroll_of(online.critic.agent, batch, after=online.agent.memory_size)
    memory, previous = batch.start
    assert online.initial_memory(5).shape == (5, SIZES.N, 2 * SIZES.H)
    step = jax.jit(lambda networks, *args: networks.step(*args))
    for t in range(SIZES.T + 1):
        slots = batch.slots
        values, memory = step(online, slots.obs[t], previous, slots.first[t], memory)
        close(values, q[t], atol=1e-6)
        close(memory, np.concatenate([hidden[t], central[t]], axis=-1), atol=1e-6)
        previous = slots.action[t]


@pytest.mark.long
def test_burning_in_serves_a_critics_own_agents_too():
    """As if the sequence had been stored with the memories that burning in leaves behind."""
    online, burn_in = random_networks(1, "cw_qmix"), 2
    batch = random_batch(0, memory=memory_of(online))
    slots = batch.slots
    batch = batch._replace(
        slots=slots._replace(
            first=np.zeros_like(slots.first),
            valid=np.ones_like(slots.valid),
            terminated=np.zeros_like(slots.terminated),
        )
    )
    width = online.agent.memory_size
    hidden = [
        unroll_of(agent, batch, after=after)[1][burn_in - 1]
        for agent, after in ((online.agent, 0), (online.critic.agent, width))
    ]
    later = Batch(
        jax.tree.map(lambda x: x[burn_in:], batch.slots),
        SequenceStart(np.concatenate(hidden, axis=-1), batch.slots.action[burn_in - 1]),
    )
    run = differentiated(LAMBDA, burn_in, "cw_qmix")
    got = run(online, online, batch)
    close(got, differentiated(LAMBDA, algo="cw_qmix")(online, online, later))
    assert moves(got[1].critic.agent.network.memory)


# The registry ---------------------------------------------------------------------------------


def test_the_registry_names_parts_that_exist():
    for algo, m in METHODS.items():
        assert callable(loss_function(algo))
        assert (mixer_class(algo) is None) == (m.mixer is None)
        assert (critic_class(algo) is None) == (m.critic is None)
        assert m.about
    assert [algo for algo, m in METHODS.items() if m.on_policy] == ["coma"]
    assert method("coma").mixer is None


@pytest.mark.parametrize("part", [method, mixer_class, critic_class, loss_function])
def test_a_misspelt_method_names_the_nearest_one(part: Any):
    with pytest.raises(QtotError, match="unknown algorithm 'qmixx'; did you mean 'qmix'"):
        part("qmixx")

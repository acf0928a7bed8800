"""The core against the reference learners' numbers, on one batch.

Largest deviations seen (CPU, JAX 0.10.2), over all files:
    q, target_q 1.2e-7 · q_tot 4.8e-7 · loss 4.8e-7 of 7.4 · gradients 1.2e-6 of 8.6 (qmix_h1; the
    others 3.6e-7) · gradient norm 2.4e-7 · parameters after one step 1.1e-7 · TD(λ) 2.4e-7
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from golden import CASES, Golden, names_of, read_array
from qtot.core.exploration import policy
from qtot.core.learner import TrainState
from qtot.core.losses.base import Objective, mixer_inputs, returns_of, transitions
from qtot.core.losses.coma import counterfactual_advantage
from qtot.core.masks import pick
from qtot.core.methods import loss_function
from qtot.core.networks import Networks
from qtot.core.targets import lambda_returns
from qtot.core.unroll import previous_actions, unroll
from qtot.types import Batch

RTOL, ATOL = 1e-4, 1e-6


class Ours(NamedTuple):
    """What this library makes of the same batch and weights."""

    golden: Golden
    grads: Networks
    after: TrainState
    metrics: dict[str, jax.Array]


VALUE_BASED = [name for name in CASES if name != "coma"]
# The other files hold what their losses and gradients come to, which needs both to be right.
WITH_Q = ["iql", "vdn", "qmix", "qmix_h1", "qmix_nodouble"]


@pytest.fixture(scope="module", params=VALUE_BASED)
def ours(request: pytest.FixtureRequest) -> Ours:
    case = golden.load(request.param)
    learner = case.learner
    objective = Objective(learner.target, learner.loss)

    @jax.jit
    def both(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array], Networks]:
        def loss_of(online: Networks) -> jax.Array:
            return loss_function(learner.algo)(online, state.target, batch, objective)[0]

        return *learner.update(state, batch), jax.grad(loss_of)(state.online)

    after, metrics, grads = both(case.state, case.batch)
    return Ours(case, grads, after, metrics)


def named(ours: Ours, tree: Networks) -> dict[str, jax.Array]:
    """Our arrays under PyTorch's names."""
    names = names_of(tree, ours.golden.case)
    return dict(zip(names, jax.tree.leaves(tree), strict=True))


def close(actual: jax.Array, expected: np.ndarray, what: str = "") -> None:
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=ATOL, err_msg=what)


@pytest.mark.parametrize("ours", WITH_Q, indirect=True)
def test_agents_give_the_reference_q_values(ours: Ours):
    case = ours.golden
    filled = case.values["filled"].T  # transitions and final observations
    for networks, key in ((case.state.online, "q"), (case.state.target, "target_q")):
        q, _ = jax.jit(unroll)(networks.agent, case.batch)
        close(q[filled], np.swapaxes(case.values[key], 0, 1)[filled], key)


@pytest.mark.parametrize("ours", WITH_Q, indirect=True)
def test_mixer_gives_the_reference_q_tot(ours: Ours):
    case, slots = ours.golden, ours.golden.batch.slots
    q = jnp.asarray(np.swapaxes(case.values["q"], 0, 1))  # the reference's own, not ours
    hidden = jnp.zeros((*q.shape[:-1], case.meta["H"]))
    inputs = transitions(mixer_inputs(slots, q, hidden, slots.action))
    q_tot = jax.jit(lambda mixer, x: mixer(x))(case.state.online.mixer, inputs)
    if "q_tot" in case.values:
        close(q_tot, np.swapaxes(case.values["q_tot"], 0, 1))
    else:  # independent learning has no mixer
        close(q_tot, np.asarray(inputs.q_taken))


# The file's scalar: ours, which leaves out the weight.
SCALARS = {
    "loss": "loss",
    "central_loss": "critic_loss",
    "opt_loss": "opt_loss",
    "nopt_loss": "nopt_loss",
    "td_error_abs": "td_error_abs",
}


def test_losses_are_the_reference_losses(ours: Ours):
    meta = ours.golden.meta
    compared = [(theirs, mine) for theirs, mine in SCALARS.items() if theirs in meta]
    assert ("loss", "loss") in compared
    for theirs, mine in compared:
        close(ours.metrics[mine], meta[theirs], theirs)


def test_every_gradient_is_the_reference_gradient(ours: Ours):
    for name, grad in named(ours, ours.grads).items():
        close(grad, read_array(ours.golden.values, "grad.", name), name)


def test_gradient_norm_is_taken_before_clipping(ours: Ours):
    close(ours.metrics["grad_norm"], ours.golden.meta["grad_norm"])


def test_every_parameter_after_one_step_is_the_reference_parameter(ours: Ours):
    values, moved, compared = ours.golden.values, 0.0, 0
    new = named(ours, ours.after.online)
    for name, old in named(ours, ours.golden.state.online).items():
        if name.startswith("central"):  # the files keep what was done to agents and mixers
            continue
        expected = read_array(values, "new.", name)
        # The first step of RMSprop is near 10 lr for every weight: compare the steps themselves.
        step, expected_step = np.asarray(new[name]) - np.asarray(old), expected - np.asarray(old)
        np.testing.assert_allclose(step, expected_step, rtol=1e-3, atol=ATOL, err_msg=name)
        close(new[name], expected, name)
        moved, compared = max(moved, float(np.max(np.abs(step)))), compared + 1
    assert compared >= 8
    assert moved > ours.golden.meta["lr"]


def test_target_networks_stand_still_between_copies(ours: Ours):
    before, after = jax.tree.leaves(ours.golden.state.target), jax.tree.leaves(ours.after.target)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


# COMA ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coma() -> Golden:
    return golden.load("coma")


def batch_major(x: jax.Array) -> np.ndarray:
    return np.swapaxes(np.asarray(x), 0, 1)


def test_coma_critic_and_its_targets_are_the_references(coma: Golden):
    batch, slots = coma.batch, coma.batch.slots
    previous = jnp.where(slots.first[..., None], -1, previous_actions(batch))
    seen = (slots.state, slots.obs, slots.action, previous)
    # Nobody reads the slot after a true end, where the file holds something else.
    filled = coma.values["filled"].copy()
    filled[:, 1:] &= ~coma.values["terminated"][:, :-1]
    for networks, key in ((coma.state.online, "critic_q"), (coma.state.target, "target_critic_q")):
        assert networks.critic is not None
        q = jax.jit(lambda critic: critic(*seen))(networks.critic)
        close(batch_major(q)[filled], coma.values[key][filled], key)
    q_slow = pick(jnp.asarray(np.swapaxes(coma.values["target_critic_q"], 0, 1)), slots.action)
    returns = returns_of(slots, q_slow[1:], coma.learner.target)
    counted = coma.values["mask"].astype(bool)
    close(batch_major(returns)[counted], coma.values["td_lambda_targets"][counted])


def test_coma_policy_loss_and_gradients_are_the_references(coma: Golden):
    slots, values, meta = coma.batch.slots, coma.values, coma.meta
    counts = jnp.broadcast_to(slots.valid[:-1, :, None], slots.action[:-1].shape)
    q = jnp.asarray(np.swapaxes(values["q_vals_used"], 0, 1))
    taken = slots.action[:-1]

    @jax.jit
    def loss(online: Networks) -> tuple[jax.Array, jax.Array]:
        logits, _ = unroll(online.agent, coma.batch)
        everything = jnp.ones_like(slots.avail_actions)  # the file's is taken before the mask
        unmasked = policy(logits, everything, meta["epsilon"])[:-1]
        pi = policy(logits, slots.avail_actions, meta["epsilon"])[:-1]
        advantage = counterfactual_advantage(pi, q, taken)
        chosen = jnp.where(counts, pick(pi, taken), 1.0)
        return -jnp.sum(jnp.where(counts, advantage * jnp.log(chosen), 0.0)) / jnp.sum(
            counts
        ), unmasked

    (got, pi), grads = jax.value_and_grad(loss, has_aux=True)(coma.state.online)
    counted = values["mask"].astype(bool)
    close(batch_major(pi)[counted], values["pi"][counted], "pi")
    close(got, meta["coma_loss"])
    names, compared = names_of(grads, coma.case), 0
    for name, grad in zip(names, jax.tree.leaves(grads), strict=True):
        if name.startswith("agent."):
            close(grad, values[f"grad.{name}"], name)
            compared += 1
    assert compared == 8


def test_coma_loss_is_made_of_these_parts(coma: Golden):
    """With the critic's own values in place of those it had halfway through its many steps."""
    learner, values = coma.learner, coma.values
    _, metrics = jax.jit(learner.update)(coma.state, coma.batch)
    counted = values["mask"].astype(bool)
    action = values["actions"][:, :-1, :, None]
    q_taken = np.take_along_axis(values["critic_q"][:, :-1], action, -1)[..., 0]
    critic = np.mean((q_taken - values["td_lambda_targets"])[counted] ** 2)
    close(metrics["critic_loss"], critic)
    close(metrics["target"], values["td_lambda_targets"][counted].mean())
    legal = values["avail"][:, :-1] | ~counted[..., None, None]
    pi, q = values["pi"] * legal, values["critic_q"][:, :-1]
    pi = pi / pi.sum(-1, keepdims=True)
    advantage = q_taken - (pi * q).sum(-1)
    log_pi = np.log(np.where(counted[..., None], np.take_along_axis(pi, action, -1)[..., 0], 1.0))
    close(metrics["policy_loss"], -(advantage * log_pi)[counted].mean())
    close(metrics["loss"], metrics["policy_loss"] + metrics["critic_loss"])
    close(metrics["advantage_abs"], np.abs(advantage[counted]).mean())


LAMBDAS = (0.0, 0.3, 0.6, 0.95)


def follows_of(valid: np.ndarray) -> np.ndarray:
    """Slot t+1 is a transition; never after the last."""
    return np.concatenate([valid[1:], np.zeros_like(valid[:1])])


@pytest.mark.parametrize("lam", LAMBDAS)
def test_lambda_returns_are_the_reference_targets(lam: float):
    # The one truncated episode here ends at the batch's last index, where the published
    # recursion begins, so it is right there, too.
    values, meta = golden.read("td_lambda")
    valid = values["mask"].T.astype(bool)
    returns = lambda_returns(
        jnp.asarray(values["reward"].T[:-1]),
        jnp.asarray(values["terminated"].T[:-1]),
        jnp.asarray(follows_of(valid)),
        jnp.asarray(values["target_max_q"].T[1:]),
        gamma=meta["gamma"],
        lam=lam,
    )
    close(returns[valid], values[f"td_lambda_{lam}"].T[valid])


def test_lambda_returns_of_an_episode_truncated_before_the_last_index():
    """Where the published recursion would use padding: episode 1, cut after three transitions."""
    values, _ = golden.read("td_lambda")
    rewards, next_values = values["reward"][1, :7], values["target_max_q"][1, 1:]
    np.testing.assert_allclose(rewards[:3], [-0.24019493, -0.83026206, -0.13184342])
    np.testing.assert_allclose(next_values[:3], [-0.02898353, -0.69761837, 0.9037518])
    valid = np.arange(7) < 3
    returns = lambda_returns(
        jnp.asarray(rewards),
        jnp.zeros(7, bool),
        jnp.asarray(follows_of(valid)),
        jnp.asarray(next_values),
        gamma=0.99,
        lam=0.6,
    )
    # G_2 = -0.13184342 + 0.99 · 0.9037518                                = 0.76287085
    # G_1 = -0.83026206 + 0.99 · (0.4 · -0.69761837 + 0.6 ·  0.76287085) = -0.65337365
    # G_0 = -0.24019493 + 0.99 · (0.4 · -0.02898353 + 0.6 · -0.65337365) = -0.63977636
    close(returns[:3], np.array([-0.63977636, -0.65337365, 0.76287085]))

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
from golden import CASES, Golden, parameter, parameter_names
from qtot.core.learner import TrainState
from qtot.core.losses.td import Networks, td_loss
from qtot.core.masks import masked_max, pick
from qtot.core.mixers.base import MixerInputs
from qtot.core.targets import lambda_returns
from qtot.core.unroll import unroll
from qtot.types import Batch

RTOL, ATOL = 1e-4, 1e-6


class Ours(NamedTuple):
    """What this library makes of the same batch and weights."""

    golden: Golden
    grads: Networks
    after: TrainState
    metrics: dict[str, jax.Array]


@pytest.fixture(scope="module", params=CASES)
def ours(request: pytest.FixtureRequest) -> Ours:
    case = golden.load(request.param)

    @jax.jit
    def both(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array], Networks]:
        def loss_of(online: Networks) -> jax.Array:
            return td_loss(online, state.target, batch, config=case.learner.target)[0]

        return *case.learner.update(state, batch), jax.grad(loss_of)(state.online)

    after, metrics, grads = both(case.state, case.batch)
    return Ours(case, grads, after, metrics)


def close(actual: jax.Array, expected: np.ndarray, what: str = "") -> None:
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=ATOL, err_msg=what)


def test_agents_give_the_reference_q_values(ours: Ours):
    case = ours.golden
    filled = case.values["filled"].T  # transitions and final observations
    for networks, key in ((case.state.online, "q"), (case.state.target, "target_q")):
        q, _ = jax.jit(unroll)(networks.agent, case.batch)
        close(q[filled], np.swapaxes(case.values[key], 0, 1)[filled], key)


def test_mixer_gives_the_reference_q_tot(ours: Ours):
    case, slots = ours.golden, ours.golden.batch.slots
    q = jnp.asarray(np.swapaxes(case.values["q"], 0, 1))  # the reference's own, not ours
    inputs = MixerInputs(
        q_taken=pick(q, slots.action),
        q_greedy=masked_max(q, slots.avail_actions),
        q=q,
        action=slots.action,
        hidden=jnp.zeros((*q.shape[:-1], case.meta["H"])),
        state=slots.state,
        avail_actions=slots.avail_actions,
        alive=slots.alive,
    )
    inputs = jax.tree.map(lambda x: x[:-1], inputs)
    q_tot = jax.jit(lambda mixer, x: mixer(x))(case.state.online.mixer, inputs)
    if "q_tot" in case.values:
        close(q_tot, np.swapaxes(case.values["q_tot"], 0, 1))
    else:  # independent learning has no mixer
        close(q_tot, np.asarray(inputs.q_taken))


def test_loss_is_the_reference_loss(ours: Ours):
    close(ours.metrics["loss"], ours.golden.meta["loss"])


def test_every_gradient_is_the_reference_gradient(ours: Ours):
    values = ours.golden.values
    for name in parameter_names(values):
        close(parameter(ours.grads, name), values[f"grad.{name}"], name)


def test_gradient_norm_is_taken_before_clipping(ours: Ours):
    close(ours.metrics["grad_norm"], ours.golden.meta["grad_norm"])


def test_every_parameter_after_one_step_is_the_reference_parameter(ours: Ours):
    values, moved = ours.golden.values, 0.0
    for name in parameter_names(values):
        new = parameter(ours.after.online, name)
        # The first step of RMSprop is near 10 lr for every weight: compare the steps themselves.
        step, expected = np.asarray(new) - values[name], values[f"new.{name}"] - values[name]
        np.testing.assert_allclose(step, expected, rtol=1e-3, atol=ATOL, err_msg=name)
        close(new, values[f"new.{name}"], name)
        moved = max(moved, float(np.max(np.abs(step))))
    assert moved > ours.golden.meta["lr"]


def test_target_networks_stand_still_between_copies(ours: Ours):
    before, after = jax.tree.leaves(ours.golden.state.target), jax.tree.leaves(ours.after.target)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


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

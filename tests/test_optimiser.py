"""Optimiser steps against PyTorch's formulas, schedules, and the target networks' turn."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import builders
from qtot.core.config import CriticConfig, ExplorationConfig, OptimiserConfig, TargetConfig
from qtot.core.learner import Learner, TrainState, vectors_of
from qtot.core.optimiser import clip, learning_rate, make_optimiser

pytestmark = pytest.mark.usefixtures("quick_compile")

STEPS, LR = 6, 5e-4


def gradients(scale: float) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {"w": scale * rng.normal(size=(3, 2)), "b": scale * rng.normal(size=2)}
        for _ in range(STEPS)
    ]


def clipped(grads: dict[str, np.ndarray], largest: float) -> dict[str, np.ndarray]:
    """``torch.nn.utils.clip_grad_norm_``, without its 1e-6."""
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    return {k: g * min(1.0, largest / norm) for k, g in grads.items()}


def ours(config: OptimiserConfig, grads: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """The steps that are subtracted from the parameters, before the learning rate."""
    optimiser = make_optimiser(config)
    state, update = optimiser.init(jax.tree.map(jnp.float32, grads[0])), jax.jit(optimiser.update)
    steps = []
    for g in grads:
        step, state = update(clip(jax.tree.map(jnp.float32, g), config.clip), state)
        steps.append(step)
    return steps


# Gradients far below eps, around it, and above the clip.
SCALES = [1e-6, 1e-4, 1.0, 100.0]


@pytest.mark.parametrize("scale", SCALES)
def test_rmsprop_is_pytorchs(scale: float):
    """v ← .99 v + .01 g²;  step = g / (√v + eps): eps outside the root, no bias correction."""
    config = OptimiserConfig(name="rmsprop", eps=1e-5, clip=10.0)
    grads = gradients(scale)
    v = {k: np.zeros_like(g) for k, g in grads[0].items()}
    for step, raw in zip(ours(config, grads), grads, strict=True):
        for k, g in clipped(raw, 10.0).items():
            v[k] = 0.99 * v[k] + 0.01 * g**2
            np.testing.assert_allclose(step[k], g / (np.sqrt(v[k]) + 1e-5), rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_adam_is_pytorchs(scale: float):
    """m, v with bias correction;  step = m̂ / (√v̂ + eps)."""
    config = OptimiserConfig(name="adam", eps=1e-5, clip=10.0)
    grads = gradients(scale)
    m = {k: np.zeros_like(g) for k, g in grads[0].items()}
    v = {k: np.zeros_like(g) for k, g in grads[0].items()}
    for i, (step, raw) in enumerate(zip(ours(config, grads), grads, strict=True), start=1):
        for k, g in clipped(raw, 10.0).items():
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g**2
            expected = (m[k] / (1 - 0.9**i)) / (np.sqrt(v[k] / (1 - 0.999**i)) + 1e-5)
            np.testing.assert_allclose(step[k], expected, rtol=1e-3, atol=1e-6)


def test_radam_is_momentum_at_first_and_adam_with_a_factor_later():
    """Liu et al. 2020: with β₂ = .999 the variance is not used before step 6."""
    grads = gradients(1.0)
    steps = ours(OptimiserConfig(name="radam", eps=1e-5, clip=1e9), grads)
    m = v = 0.0
    for i, (step, raw) in enumerate(zip(steps, grads, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * raw["w"], 0.999 * v + 0.001 * raw["w"] ** 2
        longest = 2 / (1 - 0.999) - 1
        rho = longest - 2 * i * 0.999**i / (1 - 0.999**i)
        expected = m / (1 - 0.9**i)
        assert (rho > 5) == (i >= 6)
        if rho > 5:
            factor = np.sqrt(
                (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
            )
            expected = factor * expected / (np.sqrt(v / (1 - 0.999**i)) + 1e-5)
        # Optax computes ρ − 4, near 1 here, in float32
        np.testing.assert_allclose(step["w"], expected, rtol=1e-2)


@pytest.mark.parametrize(("scale", "factor"), [(0.1, 1.0), (1.0, 1.0), (10.0, 0.1), (1e6, 1e-6)])
def test_the_gradient_is_clipped_by_its_norm_over_all_parameters(scale: float, factor: float):
    """The gradient (3, 4) · scale in two arrays has norm 5 · scale; at most 5 is left of it. The
    first RMSprop step with a large eps is the clipped gradient, g / (.1 |g| + eps), read back.
    """
    eps = 1.0
    config = OptimiserConfig(name="rmsprop", eps=eps, clip=5.0)
    raw = {"w": np.full((1, 1), 3.0 * scale), "b": np.array([4.0 * scale])}
    (step,) = ours(config, [raw])
    for k, g in raw.items():
        got = np.asarray(step[k]).item()
        clipped_to = got * eps / (1 - 0.1 * got)  # inverse of g / (.1 g + eps)
        assert clipped_to == pytest.approx(g.item() * factor, rel=1e-3)


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [(0, 5e-4), (250, 4e-4), (500, 3e-4), (1_000, 1e-4), (1_001, 1e-4), (2**31 - 1, 1e-4)],
)
def test_the_learning_rate_falls_linearly_to_its_end(env_steps: int, expected: float):
    # 5e-4 · (1 + n / 1000 · (.2 − 1))
    config = OptimiserConfig(lr=5e-4, lr_end=0.2)
    assert float(learning_rate(config, jnp.asarray(env_steps), 1_000)) == pytest.approx(expected)


def test_the_learning_rate_is_constant_unless_asked():
    for env_steps in (0, 10, 10**6):
        rate = learning_rate(OptimiserConfig(lr=5e-4), jnp.asarray(env_steps), 100)
        assert float(rate) == np.float32(5e-4)


# --- the learner --------------------------------------------------------------------------------

# The smallest learner that has everything.
SIZES = builders.Sizes(T=2, B=2)
BATCH = builders.random_batch(0, SIZES, memory=0)


def small(**changes: Any) -> tuple[Learner, TrainState]:
    """A learner whose target networks differ from the online ones."""
    learner = builders.make_learner(
        "vdn_s", SIZES, agent=builders.agent_config(SIZES, memory="none"), **changes
    )
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    rng = np.random.default_rng(0)
    return learner, state._replace(
        online=builders.randomised(rng, shapes.online),
        target=builders.randomised(rng, shapes.target),
    )


def trees(learner: Learner, state: TrainState, updates: int) -> list[TrainState]:
    """The states before and after every update."""
    update, states = jax.jit(learner.update), [state]
    for _ in range(updates):
        states.append(update(states[-1], BATCH)[0])
    return [jax.tree.map(np.asarray, s) for s in states]


def equal(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_learning_rate_follows_environment_steps_and_not_updates():
    optimiser = OptimiserConfig(lr=1e-3, lr_end=0.0)
    learner, state = small(optimiser=optimiser, total_steps=100)
    update = jax.jit(learner.update)
    for env_steps, expected in [(0, 1e-3), (0, 1e-3), (50, 5e-4), (50, 5e-4), (100, 0.0)]:
        before = state = state._replace(env_steps=np.int32(env_steps))
        state, metrics = update(state, BATCH)
        assert float(metrics["lr"]) == pytest.approx(expected)
        # and it is this rate that moves the parameters
        assert equal(before.online, state.online) == (expected == 0.0)
    assert int(state.updates) == 5
    assert int(state.env_steps) == 100  # counted where they are collected, not here


def test_the_step_is_the_rate_times_the_optimisers_step():
    learner, state = small(optimiser=OptimiserConfig(name="rmsprop", lr=1e-3))
    double, _ = small(optimiser=OptimiserConfig(name="rmsprop", lr=2e-3))
    one, two = (trees(x, state, 1)[1].online for x in (learner, double))
    for start, a, b in zip(*(jax.tree.leaves(x) for x in (state.online, one, two)), strict=True):
        np.testing.assert_allclose(b - start, 2 * (a - start), rtol=1e-2, atol=1e-6)
        assert not np.array_equal(a, start)


def test_hard_targets_are_copied_at_every_interval_and_stand_still_between():
    learner, state = small(target=TargetConfig(update="hard", interval=3))
    states = trees(learner, state, 7)
    for i, s in enumerate(states):
        copied = 3 * (i // 3)
        expected = states[copied].online if copied else state.target
        assert equal(s.target, expected), i
        assert int(s.updates) == i
    assert not equal(states[3].online, states[4].online)


def test_soft_targets_move_a_fraction_of_the_way_at_every_update():
    tau = 0.2
    learner, state = small(target=TargetConfig(update="soft", tau=tau))
    states = trees(learner, state, 3)
    for before, after in itertools.pairwise(states):
        for old, online, new in zip(
            *(jax.tree.leaves(x) for x in (before.target, after.online, after.target)), strict=True
        ):
            np.testing.assert_allclose(new, (1 - tau) * old + tau * online, rtol=1e-5, atol=1e-6)


def test_target_networks_begin_as_copies():
    learner = builders.make_learner("vdn", SIZES, agent=builders.agent_config(SIZES, encoder=()))
    state = jax.jit(learner.init)(jax.random.key(0))
    assert equal(state.online, state.target)
    assert int(state.updates) == int(state.env_steps) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves((state.opt_state, state.stats)))


# A norm and a rate for each -------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "apart"), [("qtran", False), ("coma", True)])
def test_actors_and_their_critic_are_clipped_apart_and_all_else_together(algo: str, apart: bool):
    """The critic's gradient is a million times that of the agents."""
    learner = builders.make_learner(algo, optimiser=OptimiserConfig(clip=2.0))
    shapes = builders.random_networks(0, algo)
    grads = builders.randomised(np.random.default_rng(0), shapes, 1.0)
    vectors = vectors_of(grads)
    clipped = learner._clip({**vectors, "critic": 1e6 * vectors["critic"]})
    assert set(clipped) == ({"agent", "critic"} if apart else {"agent", "mixer", "critic"})

    def norm(part: str) -> float:
        return float(np.sqrt((np.asarray(clipped[part], np.float64) ** 2).sum()))

    assert norm("critic") == pytest.approx(2.0, rel=1e-4)
    if apart:
        assert norm("agent") == pytest.approx(2.0, rel=1e-4)
    else:
        assert 0 < norm("agent") < 1e-3


@pytest.mark.parametrize(
    "algo", ["coma", *(pytest.param(x, marks=pytest.mark.long) for x in ("cw_qmix", "qtran"))]
)
def test_a_critic_moves_at_its_own_multiple_of_the_rate(algo: str):
    after, at = {}, {}
    for multiple in (1.0, 3.0):
        learner = builders.make_learner(
            algo,
            SIZES,
            agent=builders.agent_config(SIZES, memory="none"),
            critic=CriticConfig(embed=6, lr_ratio=multiple),
            exploration=ExplorationConfig(start=0.1, end=0.1),
        )
        shapes = jax.eval_shape(learner.init, jax.random.key(0))
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        networks = [builders.random_networks(i, algo, SIZES, learner.agent) for i in (1, 2)]
        state = state._replace(online=networks[0], target=networks[1])
        after[multiple] = jax.jit(learner.update)(state, BATCH)[0].online
        at[multiple] = state.online
    for part, factor in (("agent", 1.0), ("mixer", 1.0), ("critic", 3.0)):
        start, one, three = (getattr(x, part) for x in (at[1.0], after[1.0], after[3.0]))
        moved = False
        for x, a, b in zip(*(jax.tree.leaves(y) for y in (start, one, three)), strict=True):
            np.testing.assert_allclose(b - x, factor * (a - x), rtol=1e-2, atol=1e-6)
            moved |= bool((np.asarray(a) != x).any())
        assert moved or start is None or not jax.tree.leaves(start)

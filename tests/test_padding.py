"""Padding never changes a loss: compiled as in training, compared bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import builders
from builders import SIZES, agent_config, memory_of, random_batch, random_networks
from losses import LAMBDA, N_STEP, close, differentiated, forward, same_bits
from qtot.core.config import ScalingConfig
from qtot.core.learner import TrainState
from qtot.core.methods import METHODS, method
from qtot.types import Batch, SequenceStart, Slots

NO_MEMORY = agent_config(memory="none")
NASTY = np.array([np.nan, np.inf, -np.inf, 1e30, -9999999.0, 0.0], np.float32)


def with_garbage(batch: Batch, seed: int, *, next_action: bool = False) -> Batch:
    """Rubbish wherever nothing may look: in padding, and in what a final observation has no
    meaning for (its action, reward and ``terminated``). On-policy, the action that would have been
    played after a time limit is bootstrapped from (``next_action``).
    """
    rng = np.random.default_rng(seed)
    valid = batch.slots.valid
    read = valid | np.concatenate([np.zeros_like(valid[:1]), valid[:-1]])

    def spoil(x: np.ndarray, keep: np.ndarray, rubbish: np.ndarray) -> np.ndarray:
        mask = keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim))
        return np.where(mask, x, rubbish.astype(x.dtype))

    s = batch.slots
    goes_on = valid & ~s.terminated
    acted = valid | np.concatenate([np.zeros_like(valid[:1]), goes_on[:-1]])
    acted = acted if next_action else valid
    return batch._replace(
        slots=Slots(
            obs=spoil(s.obs, read, rng.choice(NASTY, s.obs.shape)),
            state=spoil(s.state, read, rng.choice(NASTY, s.state.shape)),
            avail_actions=spoil(s.avail_actions, read, rng.random(s.avail_actions.shape) < 0.5),
            alive=spoil(s.alive, read, rng.random(s.alive.shape) < 0.5),
            action=spoil(s.action, acted, rng.integers(-1, SIZES.A + 9, s.action.shape)),
            reward=spoil(s.reward, valid, rng.choice(NASTY, s.reward.shape)),
            terminated=spoil(s.terminated, valid, rng.random(valid.shape) < 0.5),
            first=spoil(s.first, read, rng.random(valid.shape) < 0.5),
            valid=s.valid,
        )
    )


@pytest.mark.parametrize("algo", METHODS)
def test_garbage_in_padding_changes_no_bit_of_loss_or_gradient(algo: str):
    # Through a GRU once; it compiles slowly, and the mixers differ only after it.
    config, agent = (LAMBDA, agent_config()) if algo == "qmix" else (N_STEP, NO_MEMORY)
    online, target = (random_networks(seed, algo, config=agent) for seed in (1, 2))
    run, next_action = differentiated(config, algo=algo), method(algo).on_policy
    for whole in (True, False):
        batch = random_batch(0, whole=whole, memory=memory_of(online))
        assert not batch.slots.valid[:-1].all()  # there is padding, or a final observation inside
        clean = run(online, target, batch)
        for seed in range(3):
            spoilt = with_garbage(batch, seed, next_action=next_action)
            same_bits(run(online, target, spoilt), clean)


def test_an_on_policy_batch_reads_the_action_after_a_time_limit():
    online, target = (random_networks(seed, "coma", config=NO_MEMORY) for seed in (1, 2))
    batch = random_batch(0, whole=True, memory=0)
    s = batch.slots
    goes_on = s.valid & ~s.terminated
    read = ~s.valid & np.concatenate([np.zeros_like(goes_on[:1]), goes_on[:-1]])
    assert read.any()
    other = np.where(read[..., None], (s.action + 1) % SIZES.A, s.action)
    run = differentiated(N_STEP, algo="coma")
    targets = [
        float(run(online, target, batch._replace(slots=s._replace(action=action)))[0][1]["target"])
        for action in (s.action, other)
    ]
    assert targets[0] != targets[1]


@pytest.mark.parametrize("algo", ["qmix", "cw_qmix", "qtran", "coma"])
def test_what_is_seen_after_a_true_end_changes_no_bit(algo: str):
    """Nothing is bootstrapped from it, so an environment may show anything there."""
    config, agent = (LAMBDA, agent_config()) if algo == "qmix" else (N_STEP, NO_MEMORY)
    online, target = (random_networks(seed, algo, config=agent) for seed in (1, 2))
    batch, rng = random_batch(0, whole=True, memory=memory_of(online)), np.random.default_rng(0)
    s = batch.slots
    over = np.concatenate([np.zeros_like(s.terminated[:1]), s.terminated[:-1]])
    assert over.any()
    run = differentiated(config, algo=algo)
    clean = run(online, target, batch)
    for rubbish in NASTY:
        spoilt = s._replace(
            obs=np.where(over[..., None, None], rubbish, s.obs),
            state=np.where(over[..., None], rubbish, s.state),
            avail_actions=s.avail_actions & ~over[..., None, None],
            alive=s.alive & ~over[..., None] & (rng.random(s.alive.shape) < 0.5),
        )
        same_bits(run(online, target, batch._replace(slots=spoilt)), clean)


@pytest.mark.parametrize("algo", ["qmix", "ow_qmix", "qtran", "coma"])
def test_more_padding_changes_nothing(algo: str):
    """The mean is over transitions, not over the padded tensor."""
    online, target = (random_networks(seed, algo, config=NO_MEMORY) for seed in (1, 2))
    batch, run = random_batch(0, whole=True, memory=0), forward(LAMBDA, algo=algo)

    def longer(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((4, *x.shape[1:]), x.dtype)])

    padded = batch._replace(slots=jax.tree.map(longer, batch.slots))
    close(run(online, target, batch), run(online, target, padded))


@pytest.mark.parametrize("algo", ["qmix", "cw_qmix", "qtran", "coma"])
def test_a_batch_without_transitions_has_loss_0_and_no_gradient(algo: str):
    config, agent = (LAMBDA, agent_config()) if algo == "qmix" else (N_STEP, NO_MEMORY)
    online, target = (random_networks(seed, algo, config=agent) for seed in (1, 2))
    batch = random_batch(0, whole=True, memory=memory_of(online))
    empty = batch._replace(slots=batch.slots._replace(valid=np.zeros_like(batch.slots.valid)))
    run = differentiated(config, algo=algo)
    (loss, _), grads = run(online, target, with_garbage(empty, 0))
    assert loss == 0.0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_a_start_that_an_episode_forgets_may_hold_anything():
    online, target = random_networks(1), random_networks(2)
    batch = random_batch(0, whole=True)
    start = SequenceStart(
        np.full_like(batch.start.memory, np.nan), np.full_like(batch.start.prev_action, 2)
    )
    clean = differentiated(LAMBDA)(online, target, batch)
    same_bits(differentiated(LAMBDA)(online, target, batch._replace(start=start)), clean)


def test_garbage_in_padding_changes_no_bit_of_an_update_with_scaling():
    scaling = ScalingConfig(
        reward_scale=2.0, standardise_rewards=True, normalise_obs=True, normalise_state=True
    )
    learner = builders.make_learner("qmix", scaling=scaling, agent=NO_MEMORY)
    batch = random_batch(0, whole=True, memory=0)
    state = builders.randomised(
        np.random.default_rng(0), jax.eval_shape(learner.init, jax.random.key(0))
    )
    state = state._replace(  # second moments are not negative
        opt_state=jax.tree.map(np.abs, state.opt_state),
        stats=jax.tree.map(np.zeros_like, state.stats),
    )

    @jax.jit
    def update(state: TrainState, batch: Batch) -> Any:
        seen = state._replace(stats=learner.observe(state.stats, batch.slots))
        return learner.update(seen, batch)

    clean = update(state, batch)
    for seed in range(2):
        same_bits(update(state, with_garbage(batch, seed)), clean)

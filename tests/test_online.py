"""Learning online: fresh rollouts in epochs of minibatches, without replay or target networks; and
updates in pieces.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import SIZES, make_learner, memory_of, random_batch, random_networks
from losses import close
from qtot.core.methods import METHODS
from qtot.envs import make_env
from qtot.envs.probes import KNOWN
from qtot.errors import QtotError
from qtot.presets import preset_config
from qtot.training.ingraph import Program
from qtot.training.state import SeedState
from qtot.types import Batch
from qtot.validation import validate
from small import q_tot_by_state, small_config, trained

VALUE_BASED = [algo for algo, method in METHODS.items() if not method.on_policy]


def online_config(env: str, algo: str = "qmix", **changes: Any) -> Any:
    base = {"data": "online", "online": {"epochs": 2, "minibatches": 4}, "collect": {"envs": 8}}
    return small_config(env, algo, **{**base, **changes})


def random_state(algo: str, **changes: Any) -> Any:
    """A learner, its state with random networks, and a batch."""
    learner = make_learner(algo, **changes)
    online, target = random_networks(0, algo), random_networks(1, algo)
    state = jax.jit(learner.init)(jax.random.key(0))
    batch = random_batch(2, memory=memory_of(online))
    return learner, state._replace(online=online, target=target), batch


OFTEN = ("coma", "qmix")
"""one of each way to learn; the others take minutes to compile"""


@pytest.mark.parametrize(
    "algo",
    [pytest.param(x, marks=() if x in OFTEN else pytest.mark.long) for x in sorted(METHODS)],
)
def test_pieces_of_a_batch_make_the_update_of_the_whole(algo: str, quick_compile: None):
    learner, state, batch = random_state(algo)

    @functools.partial(jax.jit, static_argnums=2)
    def update(state: Any, batch: Batch, pieces: int) -> Any:
        def read(chosen: jax.Array) -> Batch:
            slots = jax.tree.map(lambda x: x[:, chosen], batch.slots)
            return Batch(slots, jax.tree.map(lambda x: x[chosen], batch.start))

        return learner.update(state, jnp.arange(SIZES.B).reshape(pieces, -1), read)

    whole, metrics = jax.jit(learner.update)(state, batch)
    for pieces in (1, 2, SIZES.B):
        got, said = update(state, batch, pieces)
        close(got.online, whole.online)
        close(said, metrics)


@pytest.mark.parametrize("algo", VALUE_BASED)
def test_what_the_target_networks_say_may_be_known_already(algo: str, quick_compile: None):
    learner, state, batch = random_state(algo)

    @jax.jit
    def foreseen(state: Any, batch: Batch) -> Any:
        return learner.update(state, learner.foresee(state, batch))

    close(foreseen(state, batch), jax.jit(learner.update)(state, batch), rtol=1e-5, atol=1e-6)


def test_an_epoch_deals_every_environment_once():
    program = Program.make(
        make_env("probe/chain"), online_config("probe/chain", collect={"envs": 32})
    )
    deal = jax.jit(program.online.deal)
    dealt = [np.asarray(deal(jax.random.key(i))) for i in range(2)]
    for order in dealt:
        assert order.shape == (4, 8)
        assert sorted(order.ravel()) == list(range(32))
        pieces = program.collector.shards.pieces  # of every shard equally many in each minibatch
        for part in order:
            assert (np.bincount(part // (32 // pieces), minlength=pieces) == 8 // pieces).all()
    assert (dealt[0] != dealt[1]).any()


def test_values_of_the_chain_are_learned_online():
    """No target networks, and yet the values that are known."""
    config = online_config("probe/chain", steps=12_000, optimiser={"lr": 3e-3})
    values = q_tot_by_state(*trained(config))
    for k, known in enumerate(KNOWN["chain"].values):
        np.testing.assert_allclose(values[k], known, atol=0.05)


def test_nothing_is_stored_and_updates_are_as_many_as_asked_for():
    config = online_config("probe/chain", steps=500, replay={"length": 8})
    program, state = trained(config)
    assert program.replay is None and state.seeds.replay is None
    assert int(state.seeds.train.updates[0]) == int(state.iteration) * 2 * 4


@pytest.mark.long
def test_the_networks_that_value_a_rollout_stay_as_they_were_when_it_ended():
    """They are those that the rollout was played by, through all its epochs."""
    config = online_config("probe/chain", target={"interval": 1})
    program = Program.make(make_env(config.env), config)
    before = jax.jit(program.init_seed)(jnp.int32(0))
    after, _ = jax.jit(program.iterate)(before, jnp.int32(0))
    close(after.train.target, before.train.online, rtol=0, atol=0)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.train.online, before.train.online)
    assert any(jax.tree.leaves(moved))


def test_data_decides_the_presets_defaults():
    online, replay = preset_config("smax/3m"), preset_config("smax/3m", data="replay")
    assert (online.data, online.collect.envs, online.optimiser.clip) == ("online", 64, 1.0)
    assert (replay.data, replay.collect.envs, replay.optimiser.clip) == ("replay", 32, 10.0)
    assert preset_config("smax/3m", preset="paper").data == "replay"
    assert preset_config("matrix/two_step", "coma").data == "online"
    validate(preset_config("matrix/two_step", data="online"))
    with pytest.raises(QtotError, match="did you mean 'online'"):
        preset_config("smax/3m", data="onlin")


def test_what_cannot_be_learned_online_is_said():
    with pytest.raises(QtotError, match=r"online.minibatches 3 must divide collect.envs 8"):
        validate(online_config("probe/chain", online={"minibatches": 3}))
    with pytest.raises(QtotError, match="coma learns on-policy: --data must be online"):
        validate(online_config("probe/chain", "coma", data="replay"))


@pytest.mark.long
def test_seeds_abreast_learn_what_they_learn_one_after_another(quick_compile: None):
    """As on a GPU, and as on a CPU."""
    config = online_config("probe/chain", seeds=3)
    program = Program.make(make_env(config.env), config)
    state = jax.jit(program.init)(config.seed).seeds
    layout = program.layout
    assert layout.abreast == 1

    def both(seeds: SeedState) -> Any:
        step = functools.partial(layout.side_by_side, program.iterate, out_axes=(layout.axes, 0))
        one_by_one = step(in_axes=(layout.axes, None))(seeds, jnp.int32(0))
        return one_by_one, jax.vmap(program.iterate, (0, None))(seeds, jnp.int32(0))

    one_by_one, abreast = jax.jit(both)(state)
    close(one_by_one[0].train, abreast[0].train, rtol=1e-5, atol=1e-6)
    close(one_by_one[1], abreast[1], rtol=1e-5, atol=1e-6)
    moved = jax.tree.leaves(one_by_one[0].train.online)[0]
    assert (moved[0] != moved[1]).any()

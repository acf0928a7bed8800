"""COMA's program: each rollout is learned from once, by the very policy that played it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import everything
import oracle
import qtot
from qtot.api import train_config
from qtot.core.learner import Learner, Statistics, TrainState
from qtot.envs import make_env
from qtot.errors import QtotError
from qtot.training import resources
from qtot.training.compile import traced_init
from qtot.training.ingraph import Program
from qtot.training.state import RunState
from qtot.training.timing import parts
from qtot.types import Batch
from small import small_config

pytestmark = pytest.mark.usefixtures("quick_compile")

ENVS, LENGTH, ROLLOUTS = 4, 5, 5


@pytest.fixture(autouse=True)
def _game() -> Iterator[None]:
    with everything.registered():
        yield


class Spy(Learner):
    """Reports what it acts by, and what it is given to learn from."""

    def explore(self, noise: Any, values: Any, avail_actions: Any, epsilon: Any) -> Any:
        action = super().explore(noise, values, avail_actions, epsilon)
        note(ACTED, (values, action, epsilon))
        return action

    def update(self, state: TrainState, batch: Any, read: Any) -> Any:
        whole = read(jnp.concatenate(list(batch)))
        note(LEARNED, (whole, self.epsilon(state.env_steps), state.stats))
        return super().update(state, batch, read)


ACTED: list[Any] = []
LEARNED: list[Any] = []


def note(where: list[Any], what: Any) -> None:
    """From inside the compiled program, in order."""
    jax.debug.callback(
        lambda seen: where.append(jax.tree.map(np.asarray, seen)), what, ordered=True
    )


class Rollout(NamedTuple):
    """One collection with its update."""

    before: TrainState
    batch: Batch
    epsilon: float
    stats: Statistics
    """by which it was learned from"""
    acted: list[tuple[np.ndarray, ...]]
    """logits, actions and epsilon of every slot played, and of the one that was only seen"""
    after: TrainState


def config_of(**changes: Any) -> Any:
    base: dict[str, Any] = {
        "agent": {"memory": "gru", "prev_action": True, "hidden": 8, "encoder": (8,)},
        "critic": {"embed": 8},
        "collect": {"envs": ENVS},
        "replay": {"length": LENGTH},
        "exploration": {"start": 0.9, "end": 0.1, "steps": 60},
        "scaling": {"normalise_obs": True, "normalise_state": True, "standardise_rewards": True},
        "optimiser": {"lr": 1e-2},
    }
    config = small_config(everything.NAME, "coma", **base)
    return qtot.api.nested_replace(config, changes)


@functools.cache
def played(sequences: str) -> list[Rollout]:
    """A few iterations of the program, watched."""
    program = Program.make(
        make_env(everything.NAME), config_of(replay={"length": LENGTH, "sequences": sequences})
    )
    learner = Spy(**vars(program.learner))
    collector = program.collector._replace(learner=learner)
    program = program._replace(learner=learner, collector=collector)
    assert program.replay is None
    state = jax.jit(program.init_seed)(jnp.int32(0))
    iterate, rollouts = jax.jit(program.iterate), []
    for i in range(ROLLOUTS):
        ACTED.clear()
        LEARNED.clear()
        before = state.train
        state, progress = iterate(state, jnp.int32(i))
        jax.effects_barrier()
        assert float(progress.updates) == len(LEARNED) == 1
        batch, epsilon, stats = LEARNED[0]
        rollouts.append(Rollout(before, batch, float(epsilon), stats, list(ACTED), state.train))
    return rollouts


SEQUENCES = ["segments", "episodes"]


@pytest.mark.parametrize("sequences", SEQUENCES)
def test_the_rollout_is_learned_from_by_the_policy_that_played_it(sequences: str):
    """Same parameters, statistics and epsilon: the probability of each action under the batch is
    what it was when it was drawn.
    """
    learner = Learner(**vars(Program.make(make_env(everything.NAME), config_of()).learner))

    @jax.jit
    def logits_of(train: TrainState, batch: Batch) -> jax.Array:
        slots = learner.scale(train.stats, batch.slots)
        previous = jnp.concatenate([batch.start.prev_action[None], slots.action[:-1]])
        first, memory = slots.first, batch.start.memory
        return train.online.agent.unroll(slots.obs, previous, first, memory)[0]

    epsilons = []
    for rollout in played(sequences):
        slots = rollout.batch.slots
        assert len(rollout.acted) == len(slots.valid)
        logits = np.asarray(logits_of(rollout.before, rollout.batch))
        for t, (values, action, epsilon) in enumerate(rollout.acted):
            np.testing.assert_array_equal(action, slots.action[t])
            assert float(epsilon) == rollout.epsilon
            np.testing.assert_allclose(logits[t], values, rtol=1e-4, atol=1e-5)
            for e, n in np.ndindex(*action.shape):
                legal = slots.avail_actions[t, e, n]
                if legal.any():
                    pi = oracle.policy(oracle.f64(logits[t, e, n]), legal, rollout.epsilon)
                    assert pi[action[e, n]] > 0
        epsilons.append(rollout.epsilon)
    assert epsilons == sorted(set(epsilons), reverse=True)  # they do change from one to the next
    first, *_, last = played(sequences)
    assert not np.allclose(first.before.stats.obs.mean, last.before.stats.obs.mean)


@pytest.mark.parametrize("sequences", SEQUENCES)
def test_what_agents_see_by_is_counted_after_it_is_learned_from(sequences: str):
    """States and rewards, by which nobody acts, are counted before: else the first rollout would
    be learned from raw.
    """
    for rollout in played(sequences):
        valid = rollout.batch.slots.valid[: LENGTH if sequences == "segments" else None]
        steps = int(rollout.after.env_steps) - int(rollout.before.env_steps)
        assert steps == valid.sum() > 0
        assert float(rollout.after.stats.obs.n) == float(rollout.after.env_steps)
        assert float(rollout.stats.obs.n) == float(rollout.before.env_steps)
        for known in (rollout.stats.state, rollout.stats.reward):
            assert float(known.n) == float(rollout.after.env_steps)
        assert int(rollout.after.updates) == int(rollout.before.updates) + 1
        expected = 0.9 - 0.8 * min(int(rollout.before.env_steps) / 60, 1)
        assert rollout.epsilon == pytest.approx(expected, rel=1e-5)


def test_a_piece_of_a_stream_goes_on_where_the_last_one_ended():
    """Slot T, which is only bootstrapped from, is slot 0 of the next rollout."""
    kinds = set()
    for one, following in zip(played("segments"), played("segments")[1:], strict=False):
        for name in ("obs", "state", "avail_actions", "alive", "first", "valid"):
            last, opens = (getattr(r.batch.slots, name) for r in (one, following))
            assert len(last) == LENGTH + 1
            np.testing.assert_array_equal(last[-1], opens[0], err_msg=name)
        kinds |= set(zip(following.batch.slots.first[0], last[-1], strict=True))
        np.testing.assert_array_equal(
            following.batch.start.prev_action, one.batch.slots.action[LENGTH - 1]
        )
        assert (one.batch.slots.reward[-1] == 0).all()
        assert not one.batch.slots.terminated[-1].any()
        avail, action = one.batch.slots.avail_actions[-1], one.batch.slots.action[-1]
        assert np.take_along_axis(avail, action[..., None].astype(int), axis=-1).all()
    # It falls on openings, on final observations and in between.
    assert len(kinds) == 3
    assert any(r.batch.start.memory.any() for r in played("segments"))


def test_whole_episodes_begin_anew_with_an_empty_memory():
    for rollout in played("episodes"):
        slots, start = rollout.batch.slots, rollout.batch.start
        assert slots.valid.shape == (everything.LIMIT + 1, ENVS)
        assert slots.first[0].all() and not slots.first[1:].any()
        assert slots.valid[:-1].all() and not slots.valid[-1].any()
        assert not start.memory.any() and (start.prev_action == -1).all()


# The whole program ----------------------------------------------------------------------------


@functools.cache
def small_program() -> tuple[Any, RunState]:
    """Its compiled chunk, and where it begins: two seeds of 200 steps."""
    config = config_of(seeds=2, steps=200)
    program = Program.make(make_env(config.env), config)
    return jax.jit(program.chunk), jax.jit(program.init)(program.config.seed)


def same(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_every_rollout_is_learned_from_once_and_a_finished_seed_stands_still():
    chunk, state = small_program()
    state = chunk(state, jnp.int32(100))
    progress = state.progress
    seeds = state.seeds
    assert int(state.iteration) > 3
    np.testing.assert_array_equal(seeds.train.updates, [state.iteration] * 2)
    np.testing.assert_array_equal(progress.updates, [state.iteration] * 2)
    np.testing.assert_array_equal(seeds.train.env_steps, progress.collected.transitions)
    assert not same(*(jax.tree.map(lambda x, i=i: x[i], seeds.train.online) for i in (0, 1)))

    # Seed 1 has taken all its steps, seed 0 has not.
    done = seeds.train._replace(env_steps=seeds.train.env_steps.at[1].set(200))
    before = state._replace(seeds=seeds._replace(train=done))
    after = chunk(before, jnp.int32(200))
    progress = after.progress
    old, new = (jax.tree.map(lambda x: x[1], s.seeds.train) for s in (before, after))
    assert same(old, new)
    zeros = jax.tree.map(lambda x: float(x[1]), (progress.updates, progress.learned))
    assert not any(jax.tree.leaves(zeros))
    assert float(progress.collected.transitions[1]) == 0
    old, new = (jax.tree.map(lambda x: x[0], s.seeds.train) for s in (before, after))
    assert int(new.updates) - int(old.updates) == int(after.iteration) - int(before.iteration)
    assert not same(old.online, new.online)


def test_where_a_chunk_ends_changes_nothing():
    chunk, start = small_program()
    whole, cut = chunk(start, jnp.int32(160)), start
    for until in (1, 70, 160):
        cut = chunk(cut, jnp.int32(until))
    for x, y in zip(jax.tree.leaves(whole.seeds), jax.tree.leaves(cut.seeds), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("sequences", SEQUENCES)
def test_its_parts_can_be_timed_and_its_memory_is_known(sequences: str):
    config = config_of(seeds=2, replay={"length": LENGTH, "sequences": sequences})
    program = Program.make(make_env(config.env), config)
    state = jax.eval_shape(program.init, program.config.seed)
    for part in parts(program).values():
        assert jax.tree.leaves(jax.eval_shape(part, state))
    need = resources.check_memory(program, traced_init(program).out_info)
    assert need["replay"] == 0
    slots = (LENGTH if sequences == "segments" else everything.LIMIT + 1) * ENVS * 2
    assert need["rollout"] > 4 * slots * 2 * 4  # the observations alone


def test_what_does_not_fit_is_not_blamed_on_a_replay(monkeypatch: pytest.MonkeyPatch):
    program = Program.make(make_env(everything.NAME), config_of(collect={"envs": 50_000}))
    monkeypatch.setattr(resources, "free_memory", lambda: 2**20)
    with pytest.raises(QtotError, match=r"use fewer --seeds or --collect\.envs"):
        resources.check_memory(program, traced_init(program).out_info)


@pytest.mark.parametrize(
    ("env", "good", "sequences"),
    [("probe/own_obs", 2.0, "segments"), ("matrix/two_step", 7.0, "episodes")],
)
def test_actors_learn(env: str, good: float, sequences: str, tmp_path: Any):
    """At random: .75 and 4.75. (Where one joint action of many pays, actors settle too soon.)"""
    config = small_config(
        env,
        "coma",
        seeds=3,
        steps=16_000,
        critic={"embed": 32, "lr_ratio": 3.0},
        target={"td_lambda": 0.8},
        exploration={"start": 0.5, "end": 0.02, "steps": 8_000},
        replay={"sequences": sequences},
        log_every=16_000,
    )
    run = train_config(config, tmp_path / "run", quiet=True)
    returns = [row["return"] for row in qtot.evaluate(run, episodes=64)]
    assert sorted(returns)[1] >= good, returns  # at least two seeds of three

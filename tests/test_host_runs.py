"""Whole runs on environments in Python: what fails is counted, what cannot be closed or was stopped
ends cleanly.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import jax
import numpy as np
import pytest

import faulty_hosts as faults
import qtot
from faulty_hosts import HARMLESS, SPEC, Clinging, Strict, seed_of
from qtot.api import FRESH, train_config
from qtot.config import TrainConfig
from qtot.core.learner import PolicyParams
from qtot.envs.host.config import HostConfig
from qtot.errors import QtotError
from qtot.evaluation.teams import Seen, greedy_program
from qtot.store.checkpoints import Checkpoints
from qtot.training.acting import Sight, act_program, acting
from qtot.training.compile import traced_init
from qtot.training.ingraph import Program
from qtot.training.keeping import newest
from qtot.training.onhost import OnHost
from qtot.training.ray_actor import Collecting, Job
from qtot.training.shown import Shown
from qtot.training.world import World
from qtot.types import Observation
from qtot.validation import validate
from small import small_config

LONG = {"length": 8}


def run_config(workers: int = 0, **changes: Any) -> TrainConfig:
    config = small_config("own:test", "vdn", **{"steps": 600, "replay": {"length": 4}} | changes)
    return replace(config, host=HostConfig(workers=workers))


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> qtot.Run:
    """Nothing of it can be closed. Of two workers' eight environments, number 0 ends its worker in
    a slot in which number 1 shows its final observation, while 6 and 7, which are the same
    worker's, run; in the other worker 2 fails in a step, and 3 before its episode begins.
    """
    each: dict[int, dict[str, Any]] = {
        0: {"at": 3, "fault": faults.leave},
        1: {"length": 2},
        2: {"at": 3, "fault": HARMLESS["raise"]},
        3: {"at": 0, "fault": HARMLESS["raise"]},
    }
    plan = {seed_of(0, number, 0): {**LONG, **given} for number, given in each.items()}
    out = tmp_path_factory.mktemp("rough") / "run"
    return train_config(run_config(2), out, env=partial(Clinging, plan, LONG), quiet=True)


def test_episodes_are_discarded_that_ran_where_something_failed(rough: qtot.Run):
    rows = rough.metrics()
    assert {row["env_failures"] for row in rows[1:]} == {3}
    assert {row["discarded_episodes"] for row in rows[1:]} == {3 + 1 + 0}
    assert rough.result()[0]["env_steps"] >= 600


def test_an_evaluation_warns_of_failures(rough: qtot.Run):
    plan = {seed_of(0, 1, 0, salt=(1, FRESH, 0)): {"at": 1, "fault": HARMLESS["raise"]}}
    with pytest.warns(UserWarning, match=r"failed 1 times, and these .* not count; .* boo") as told:
        (row,) = qtot.evaluate(rough, episodes=11, env=partial(Clinging, plan, LONG))
    assert (row["episodes"], row["length"]) == (11, 8.0)
    assert [one.filename for one in told] == [__file__]
    qtot.evaluate(rough, episodes=11, env=partial(Clinging, {}, LONG))  # does not


@pytest.mark.parametrize("error", [RuntimeError("still in use"), SystemExit(3)])
def test_what_cannot_be_closed_is_opened(error: BaseException):
    def make() -> Strict:
        env = Strict()
        env.close = partial(faults.throw, error)
        return env

    assert World.open(make, HostConfig()).spec == SPEC


@pytest.mark.parametrize("name", ["return", "length", "episodes", "seed", "return_std"])
def test_scalars_are_not_called_as_metrics_are(name: str):
    with pytest.raises(QtotError, match=rf"host\.info '{name}' is the name of a metric already"):
        validate(replace(run_config(), host=HostConfig(info=("luck", name))))


@pytest.mark.parametrize("info", [("return",), ("won", "win_rate"), ("luck", "luck")])
def test_nor_are_an_environments_own(info: tuple[str, ...]):
    class Named(Strict):
        spec = replace(SPEC, info=info)

    with pytest.raises(QtotError, match=f"reports '{info[-1]}', which is the name of a metric"):
        World.open(Named, HostConfig())
    (told,) = qtot.check_env(Named, steps=50).problems
    assert told.message.startswith("spec.info: expected names that no other metric has")


def chunks(stops: list[Callable[[], bool]]) -> tuple[list[int], list[Any]]:
    """A run to 600 steps in so many parts: the transitions of each, and all that it counted, which
    are what the engine and the learner hold, and what was learned.
    """
    program = Program.make(Shown(SPEC), run_config())
    engine = OnHost(program, traced_init(program), Strict, SPEC)
    try:
        state, parts = engine.start(), []
        for stop in stops:
            state = engine.chunk(state, 600, stop)
            progress = state.progress
            parts.append(jax.tree.map(np.asarray, progress))
            total = jax.tree.map(lambda *x: sum(x), *parts)
            assert total.collected.transitions == engine.steps == state.seeds.train.env_steps
            assert total.updates == state.seeds.train.updates
        taken = [int(part.collected.transitions[0]) for part in parts]
        return taken, jax.tree.leaves((total, jax.tree.map(np.asarray, state.seeds.train)))
    finally:
        engine.close()


def test_a_stop_between_rollouts_ends_a_chunk_and_changes_nothing_else(quick_compile: None):
    def second() -> bool:
        return next(asked) == 2

    asked = iter(range(1, 3))
    parts, stopped = chunks([second, lambda: True, lambda: False])
    (alone,), whole = chunks([lambda: False])
    rollout = 8 * 4  # slots, of which some are no transitions
    assert rollout < parts[0] <= 2 * rollout and parts[1] <= rollout
    assert sum(parts) == alone >= 600
    for one, other in zip(stopped, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_ctrl_c_is_heard_after_the_rollout(tmp_path: Path, quick_compile: None):
    """Not when the next log is due."""

    class Interrupted(Strict):
        steps = 0

        def step(self, actions: Any) -> Any:
            Interrupted.steps += 1
            if Interrupted.steps == 200:
                signal.raise_signal(signal.SIGINT)
            return super().step(actions)

    config = run_config(steps=4_000, log_every=2_000)
    with pytest.raises(KeyboardInterrupt):
        train_config(config, tmp_path / "run", env=Interrupted, quiet=True)
    run = qtot.load(tmp_path / "run")
    found, _ = newest(Checkpoints(run.path / "checkpoints"), 1)
    assert found is not None and 200 <= found.step <= 232
    assert [row["env_steps"] for row in run.metrics()] == [0]
    run.params()


@pytest.mark.parametrize("greedy", [False, True])
def test_nothing_is_remembered_where_an_episode_begins(greedy: bool, quick_compile: None):
    """Of two environments the first opens one."""
    config = run_config(agent={"memory": "gru", "hidden": 8, "prev_action": True})
    program = Program.make(Shown(SPEC), config)
    policy = PolicyParams.of(jax.jit(program.init_seed)(np.int32(0)).train)
    shown = [Strict().reset(seed) for seed in (0, 1)]
    seen, first = Observation(*map(np.stack, zip(*shown, strict=True))), np.array([True, False])

    def remembered(previous: int, memory: float) -> np.ndarray:
        before = np.full((2, 3), previous, np.int8), np.full((2, 3, 8), memory, np.float32)
        if greedy:
            play = greedy_program([program.learner], "float32")
            shown = Seen(seen.obs, seen.avail_actions, first, ~first)
            return np.asarray(play((policy,), shown, before[0], (before[1],))[2][0])
        act = act_program(program.collector, policy, 1, "float32")
        sight = jax.tree.map(lambda x: x[None], Sight(seen, first, np.zeros((2, 2, 3))))
        leaves = [x[None] for x in jax.tree.leaves(acting(program.collector, policy))]
        return np.asarray(act(leaves, np.zeros(1, np.int32), sight, *(x[None] for x in before))[1])[
            0
        ]

    one, other = remembered(-1, 0.0), remembered(1, 0.5)
    np.testing.assert_array_equal(one[0], other[0])
    assert (one[1] != other[1]).all()


def test_a_ray_actor_acts_by_the_policies_that_it_is_given_last(quick_compile: None):
    greedy = run_config(exploration={"start": 0.0, "end": 0.0})
    program = Program.make(Shown(SPEC), greedy)
    sizes = {"slots": program.collector.slots, "envs": 8, "place": 0, "life": 0, "begun": 0}
    job = Job(cloudpickle.dumps(Strict), (), SPEC, greedy, **sizes, keep=False)

    def policies(seed: int) -> list[np.ndarray]:
        train = jax.jit(program.init_seed)(np.int32(seed)).train
        used = acting(program.collector, PolicyParams.of(train))
        return [np.asarray(x)[None] for x in jax.tree.leaves(used)]

    def actions(*given: list[np.ndarray]) -> np.ndarray:
        actor, steps = Collecting(job), np.zeros(1, np.int32)
        return np.stack([actor.gather(leaves, steps).rollout.slots.action for leaves in given])

    one, other = policies(0), policies(1)
    changed, always = actions(one, other), actions(other, other)
    assert (changed[0] != always[0]).any()
    np.testing.assert_array_equal(changed[1], always[1])  # agents without memory

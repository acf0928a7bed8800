"""Numbers that are not finite stop a run before a bad checkpoint follows a good one; values that no
reward explains are warned of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
import qtot.training.engine as engines
from faulty_hosts import Strict
from qtot.api import train_config
from qtot.cli import main
from qtot.config import nested_replace
from qtot.envs import jax_env
from qtot.errors import QtotError
from qtot.store.checkpoints import Checkpoints
from qtot.training.health import Health
from qtot.training.ingraph import Program
from qtot.training.keeping import Keeper, newest, on_host
from qtot.training.nans import explained
from qtot.training.resources import check_bytes
from qtot.training.world import World
from qtot.types import Observation
from small import BUSY, small_config, trained

EXPLODING: dict[str, Any] = {
    "steps": 4_000,
    "log_every": 100,
    "optimiser": {"lr": 1e9},
    "checkpoint": {"steps": 100},
    "replay": {"warmup": 128},  # of 4 transitions each: checkpoints are kept before learning begins
}


@pytest.fixture(scope="module")
def learning(request: pytest.FixtureRequest) -> Any:
    """A learner's state after some updates, and a batch of its replay."""
    config = small_config("probe/coordination", steps=1_000)
    program, state = trained(config)
    train = jax.tree.map(lambda x: x[0], state.seeds.train)
    ring = state.seeds.replay
    assert ring is not None and program.replay is not None
    stored = ring._replace(
        slots=jax.tree.map(lambda x: x[0], ring.slots),
        start=jax.tree.map(lambda x: x[0], ring.start),
    )
    batch = program.replay.read(stored, *program.replay.pick(stored, jax.random.key(0), 8))
    slots: Any = batch.slots
    batch = batch._replace(slots=program.from_replay.codec.decode(slots))
    memory = train.online.initial_memory(8)
    return program.learner, train, batch._replace(start=batch.start._replace(memory=memory))


@pytest.mark.parametrize(
    ("reward", "first"),
    [(np.nan, "target"), (np.inf, "target"), (1e25, "loss"), (1e19, "grad_norm"), (1.0, None)],
)
def test_the_first_quantity_is_named(learning: Any, reward: float, first: str | None):
    learner, train, batch = learning
    slots = batch.slots
    one = jnp.zeros_like(slots.valid).at[0, 0].set(slots.valid[0].any())
    slots = slots._replace(reward=jnp.full_like(slots.reward, reward), valid=one)
    bad = batch._replace(slots=slots)
    after, _ = learner.update(train, bad)
    quantities = (None, *learner.quantities, "parameters")
    assert quantities[int(after.trouble[0])] == first
    if first is not None:
        assert after.trouble[1:].tolist() == [int(train.updates) + 1, int(train.env_steps)]
        again, _ = learner.update(after, batch)
        assert again.trouble.tolist() == after.trouble.tolist()  # the first one stays


def test_a_parameter_that_is_lost_is_named(learning: Any):
    """By what is first seen of it."""
    learner, train, batch = learning

    def spoilt(tree: Any) -> Any:
        return jax.tree.map(lambda x: x * jnp.nan if x.dtype.kind == "f" else x, tree)

    for lost, first in (
        (train._replace(online=spoilt(train.online)), "q_tot"),
        (train._replace(opt_state=spoilt(train.opt_state)), "parameters"),
    ):
        after, _ = learner.update(lost, batch)
        assert (None, *learner.quantities, "parameters")[int(after.trouble[0])] == first


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("env", "algo", "data"),
    [
        ("probe/coordination", "qmix", "replay"),
        ("probe/coordination", "coma", "online"),
        (Strict, "vdn", "replay"),
    ],
)
def test_a_run_stops_before_it_keeps_what_is_lost(tmp_path: Path, env: Any, algo: str, data: str):
    """The last row says what is lost, and what was saved before is whole."""
    given = None if isinstance(env, str) else env
    name = env if isinstance(env, str) else "own:strict"
    config = small_config(name, algo, data=data, **EXPLODING)
    last = r"the last checkpoint is of step \d+" if data == "replay" else "none was kept"
    said = (
        rf"of seed 0 is not finite at update \d+, step [\d,]+; the run is stopped, and {last}\. A"
    )
    with pytest.raises(QtotError, match=said):
        train_config(config, tmp_path / "run", env=given, quiet=True)
    run = qtot.load(tmp_path / "run")
    assert run.result() == []
    assert None in run.metrics()[-1].values()
    found, wrong = newest(Checkpoints(run.path / "checkpoints"), 1)
    assert wrong == []
    if data == "replay":
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.params().online))
        assert found is not None and 0 < found.step < run.metrics()[-1]["env_steps"]
        world = World.open(env, config.host)
        fresh = jax.jit(Program.make(world.in_graph, config).init)(0)
        arrays = jax.tree.leaves(on_host(found.state(fresh).seeds.train))
        assert all(np.isfinite(x).all() for x in arrays if x.dtype.kind == "f")


def test_the_command_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "run")
    flags = ["--env", "matrix/climbing", "--steps", "50000", "--optimiser.lr", "1e9", "--quiet"]
    assert main(["train", *flags, "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is not finite at update" in said and "--debug-nans" in said


def test_a_checkpoint_never_holds_what_is_not_finite(tmp_path: Path):
    """Whoever made it so."""
    program, state = trained(small_config("probe/coordination", steps=100))
    train = state.seeds.train
    wrong = train._replace(target=jax.tree.map(lambda x: x.at[...].set(jnp.nan), train.target))
    keeper = Keeper(Checkpoints(tmp_path), program.config.checkpoint)
    with pytest.raises(QtotError, match=r"^target\.agent\S+ is not finite at step 100"):
        keeper.keep(100, state._replace(seeds=state.seeds._replace(train=wrong)), {})
    keeper.wait()
    assert not Checkpoints(tmp_path).all()


def row(q_tot: float) -> list[dict[str, Any]]:
    return [{"seed": 3, "env_steps": 1_000, "q_tot": q_tot}]


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({"target": {"gamma": 0.9}}, 2.0 * 10),
        ({"target": {"gamma": 0.9, "time_limit": "end"}}, 2.0 * (1 - 0.9**7) / 0.1),
        ({"target": {"gamma": 1.0}}, 2.0 * 7),
        ({"target": {"gamma": 0.5}, "scaling": {"reward_scale": 10.0}}, 2.0 * 10 * 2),
        ({"target": {"gamma": 0.5}, "scaling": {"standardise_rewards": True}}, (2 + 1) / 0.5 * 2),
    ],
)
def test_values_far_outside_of_what_rewards_allow_are_warned_of(changes: Any, largest: float):
    config = nested_replace(small_config("probe/coordination"), changes)
    program = Program.make(jax_env(config.env), config)
    train = jax.tree.map(lambda x: x[None], program.learner.init(jax.random.key(0)))
    reward = train.stats.reward._replace(
        n=jnp.array([4.0]), mean=jnp.array([-1.0]), m2=jnp.array([1.0])
    )
    train = train._replace(
        largest_reward=jnp.array([2.0]), stats=train.stats._replace(reward=reward)
    )
    health = Health(config, program.learner, 7)
    assert health.warning(row(2.9 * largest), train) is None
    for q_tot in (3.1 * largest, -3.1 * largest):
        said = health.warning(row(q_tot), train)
        assert said and "Q_tot of seed 3 at step 1,000" in said and f"than {largest:.3g} " in said
    assert health.warning(row(1e9), train._replace(largest_reward=jnp.zeros(1))) is None


@pytest.mark.usefixtures("quick_compile")
def test_the_largest_reward_is_that_of_the_environment():
    """Raw, whatever the learner is shown of it."""
    config = small_config("matrix/climbing", steps=4_000, **BUSY)
    _, state = trained(config)
    assert state.seeds.train.largest_reward.tolist() == [30.0]


def test_a_run_that_diverges_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qtot.training.health.FAR", 1e-3)
    config = small_config("probe/coordination", steps=2_000)
    train_config(config, tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("allow no more than") == 1 and "diverges; try a smaller" in said


NETWORK = """
import equinox as eqx
import jax
import jax.numpy as jnp

class Reader(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        y = self.layer(x)
        return jnp.sqrt(y - 0.1) * 2.0

def reader(key, shape):
    return Reader(eqx.nn.Linear(shape[0], 8, key=key))
"""


@pytest.mark.parametrize(
    "env",
    [pytest.param(env, marks=pytest.mark.long) for env in ("probe/coordination", "own:strict")],
)
def test_debug_nans_finds_the_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str):
    (tmp_path / "rooting.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config(env, "vdn", steps=2_000, agent={"module": "rooting:reader"})
    given = Strict if env.startswith("own") else None
    with pytest.raises(QtotError, match=r"rooting\.py:11 \(__call__: return jnp\.sqrt\(y - 0\.1\)"):
        train_config(config, tmp_path / "run", env=given, quiet=True, debug_nans=True)


@pytest.mark.parametrize(
    ("algo", "data"),
    [
        pytest.param("qmix", "replay", marks=pytest.mark.long),
        pytest.param("qplex", "online", marks=pytest.mark.long),
        pytest.param("coma", "online", marks=pytest.mark.long),
    ],
)
def test_a_healthy_iteration_is_healthy_operation_by_operation(algo: str, data: str):
    """Nothing that is masked away afterwards is a NaN on its way."""
    tiny: Any = {"replay": {"length": 2, "batch": 2}, "collect": {"envs": 2}} | {"steps": 200}
    online: Any = {"online": {"epochs": 1, "minibatches": 1}} if data == "online" else {}
    config = small_config("probe/masks", algo, data=data, **tiny, **online)
    program, state = trained(config)
    assert explained(program, state, 0).startswith("no operation made a NaN")


def test_the_environments_own_numbers_are_told_apart():
    program, state = trained(small_config("probe/coordination", steps=200))
    one = jax.tree.map(lambda x: x[0], state.seeds._replace(replay=None))
    key = program.keys(one, state.iteration)[0]
    collected = program.collect(key, one.actors, one.train, jnp.ones(()))
    slots = collected[1]
    wrong = slots._replace(reward=slots.reward.at[1, 2].set(jnp.nan))
    said = explained(program, state, 0, (collected[0], wrong, *collected[2:]))
    assert said == "the environment's reward was the first: it is not finite by itself"


def test_whole_numbers_alone_are_kept_as_bytes(tmp_path: Path):
    config = small_config("probe/memory", steps=500, replay={"dtype": "uint8"})
    train_config(config, tmp_path / "fine", quiet=True)
    config = small_config("own:strict", "vdn", steps=500, replay={"dtype": "uint8"})
    with pytest.raises(QtotError, match=r"from 0 to 255, but the environment's obs holds -?\d"):
        train_config(config, tmp_path / "not", env=Strict, quiet=True)
    seen = Observation(*(jnp.full((2, 3), 0.5) for _ in range(4)))
    with pytest.raises(QtotError, match=r"obs holds 0\.5; take float16 or float32"):
        check_bytes(config, seen)


def test_a_program_that_would_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its working memory is known when it is compiled, before it runs."""
    ran = []
    monkeypatch.setattr(engines.InGraph, "chunk", lambda *args, **kwargs: ran.append(args))
    monkeypatch.setattr("qtot.training.resources.check_memory", lambda *args: {})
    check = engines.check_program

    def small(compiled: Any) -> int:
        with monkeypatch.context() as patch:
            patch.setattr("qtot.training.resources.free_memory", lambda: 1_000)
            return check(compiled)

    monkeypatch.setattr(engines, "check_program", small)
    with pytest.raises(
        QtotError, match=r"program works in \d.* GiB, but only 0.00 GiB may be used"
    ):
        train_config(small_config("probe/coordination"), tmp_path / "run", quiet=True)
    assert not ran


def test_peak_memory_is_in_the_closing_table(tmp_path: Path):
    run = train_config(small_config("probe/coordination", steps=500), tmp_path / "x", quiet=True)
    (told,) = json.loads((run.path / "result.json").read_text())
    assert 0.1 < told["peak_gib"] < 64

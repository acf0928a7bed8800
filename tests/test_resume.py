"""A resumed run is the run that was never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
import qtot.training.engine as engines
from faulty_hosts import Strict
from qtot.api import resume, train_config
from qtot.cli import main
from qtot.config import nested_replace
from qtot.envs import jax_env
from qtot.errors import QtotError
from qtot.store.checkpoints import Checkpoints
from qtot.training.compile import traced_init
from qtot.training.engine import InGraph
from qtot.training.ingraph import Program
from qtot.training.keeping import Keeper, newest, on_host
from qtot.training.launch import differences
from qtot.training.loop import Training
from qtot.training.onhost import OnHost
from small import small_config

CLOCKS = ("wall_s", "compile_s", "steps_per_s", "peak_gib")
STATEFUL: Any = {
    "steps": 4_000,
    "agent": {"memory": "gru", "prev_action": True},
    "exploration": {"steps": 2_000},
    "scaling": {"standardise_rewards": True, "normalise_obs": True, "normalise_state": True},
    "evaluation": {"every": 1_000},
}


def record(step: int, seeds: int) -> dict[str, Any]:
    """What a training loop would have known."""
    return {
        "step": step,
        "episodes": [0.0] * seeds,
        "rows": [],
        "best": [],
        "best_mean": [0.0, 0.0],
        "looked": 0,
        "spent": 0.0,
        "afresh": False,
        "warned": False,
        "counts": {},
        "wall_s": 0.0,
        "metrics_bytes": 0,
    }


def numbers(tree: Any) -> list[np.ndarray]:
    return jax.tree.leaves(on_host(tree))


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("algo", "data", "seeds"),
    [
        ("coma", "online", 2),
        pytest.param("cw_qmix", "replay", 2, marks=pytest.mark.long),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (
                ("iql", "replay", 2),
                ("qmix", "replay", 1),
                ("qmix", "online", 2),
                ("qtran", "online", 1),
                ("qplex", "replay", 1),
            )
        ),
    ],
)
def test_the_state_goes_on_bit_for_bit(tmp_path: Path, algo: str, data: str, seeds: int):
    """Through the files: networks, targets, optimiser, replay, environments, keys, statistics."""
    config = small_config("probe/memory", algo, data=data, seeds=seeds, **STATEFUL)
    program = Program.make(jax_env(config.env), config)
    engine = InGraph(program, traced_init(program))
    state = engine.start()
    state = engine.chunk(state, 1_500, lambda: False)
    keeper = Keeper(Checkpoints(tmp_path), config.checkpoint)
    keeper.keep(1_500, state, record(1_500, seeds))
    state = engine.chunk(state, 3_000, lambda: False, afresh=False)
    keeper.wait()
    saved = newest(Checkpoints(tmp_path), seeds)[0]
    again = saved.state(jax.jit(program.init)(config.seed))
    assert float(np.asarray(again.seeds.train.updates).min()) > 0
    again = engine.chunk(again, 3_000, lambda: False, afresh=False)
    for x, y in zip(numbers(state), numbers(again), strict=True):
        np.testing.assert_array_equal(x, y)


def stopped(
    monkeypatch: pytest.MonkeyPatch, config: Any, out: Path, pauses: int, **given: Any
) -> None:
    """A run that is asked to stop when it has gone on for so many iterations."""
    pause, seen = Training._pause, []

    def asking(self: Training) -> bool:
        seen.append(1)
        self.stop.asked |= len(seen) == pauses
        return pause(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_pause", asking)
        patch.setattr(engines, "PIECE", 0.0)  # one iteration at a time
        with pytest.raises(KeyboardInterrupt):
            train_config(config, out, quiet=True, **given)


def without_clocks(run: qtot.Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in run.metrics()]


def params(run: qtot.Run) -> list[np.ndarray]:
    return [x for seed in run.seeds for x in numbers(run.params(seed))]


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(("data", "pauses"), [("replay", 41), ("online", 70)])
def test_a_stopped_run_ends_as_if_never_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: str, pauses: int
):
    """Metrics, closing table, last and best parameters; stopped between two logs, and after a crash
    that left more metrics.
    """
    config = small_config("probe/memory", data=data, seeds=2, **STATEFUL)
    whole = train_config(config, tmp_path / "whole", quiet=True)
    stopped(monkeypatch, config, tmp_path / "cut", pauses)
    found, _ = newest(Checkpoints(tmp_path / "cut" / "checkpoints"), 2)
    assert found is not None
    assert found.step % config.log_every and not found.record["afresh"]
    cut = qtot.load(tmp_path / "cut")
    with pytest.raises(QtotError, match="--steps says how many there shall be in all"):
        resume(cut.path, steps=5, quiet=True)
    assert cut.result() == []
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:  # rows that came after, one cut
        file.write(json.dumps(cut.metrics()[-1]) + '\n{"seed": 0, "env')
    cut = resume(tmp_path / "cut", quiet=True)
    assert without_clocks(cut) == without_clocks(whole)
    for which in ("last", "best"):
        ours, theirs = (params(qtot.load(run.path, which)) for run in (cut, whole))
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)
    drop = lambda rows: [{k: v for k, v in r.items() if k not in CLOCKS} for r in rows]  # noqa: E731
    assert drop(cut.result()) == drop(whole.result())
    times = [row["wall_s"] for row in cut.metrics()]
    assert times == sorted(times)


@pytest.mark.usefixtures("quick_compile")
def test_a_finished_run_goes_further_only_if_asked(tmp_path: Path):
    config = small_config("probe/coordination", steps=1_000)
    run = train_config(config, tmp_path / "run", quiet=True)
    for steps in (None, 1_000, 5):
        with pytest.raises(
            QtotError, match=r"has taken 1,0\d\d steps, and .* --steps says how many"
        ):
            resume(run.path, steps=steps, quiet=True)
    longer = resume(run.path, steps=2_000, quiet=True)
    assert longer.config.steps == 2_000
    assert longer.config.optimiser.steps == 1_000  # its schedule stays
    assert longer.metrics()[-1]["lr"] == pytest.approx(0.0)
    assert [row["env_steps"] >= 2_000 for row in longer.result()] == [True]
    assert longer.config == nested_replace(run.config, {"steps": 2_000})
    longest = resume(run.path, steps=3_000, reschedule=True, quiet=True)
    assert longest.config.optimiser.steps == 3_000
    assert longest.metrics()[-1]["lr"] > 0


@pytest.mark.usefixtures("quick_compile")
def test_a_damaged_checkpoint_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = small_config("probe/coordination", steps=2_000, checkpoint={"steps": 500})
    out = tmp_path / "run"
    stopped(monkeypatch, config, out, 40)
    last, before = [x for x in Checkpoints(out / "checkpoints").all() if not x.best]
    harmed = max((last.path / "arrays").rglob("*"), key=lambda x: x.is_file() and x.stat().st_size)
    content = bytearray(harmed.read_bytes())
    content[len(content) // 2] ^= 4
    harmed.write_bytes(content)
    assert main(["resume", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"checkpoint {last.path.name} is left out" in said
    assert f"going on from step {before.step:,}" in said
    whole = train_config(config, tmp_path / "whole", quiet=True)
    assert without_clocks(qtot.load(out)) == without_clocks(whole)


def test_without_a_whole_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path):
    run = train_config(small_config("probe/coordination", steps=500), tmp_path / "x", quiet=True)
    for found in Checkpoints(run.path / "checkpoints").all():
        (found.path / "run.json").write_text("{}")
    with pytest.raises(QtotError, match=r"no whole checkpoint.*step-\d+ is left out: run.json"):
        resume(run.path, steps=1_000, quiet=True)


@pytest.mark.long
@pytest.mark.usefixtures("quick_compile")
def test_a_run_stopped_before_its_first_log_ends_as_if_never_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    config = small_config("probe/memory", **STATEFUL)
    whole = train_config(config, tmp_path / "whole", quiet=True)
    stopped(monkeypatch, config, tmp_path / "cut", 1)
    assert [row["env_steps"] for row in qtot.load(tmp_path / "cut").metrics()] == [0]
    assert without_clocks(resume(tmp_path / "cut", quiet=True)) == without_clocks(whole)


@pytest.mark.usefixtures("quick_compile")
def test_what_lies_after_a_damaged_end_does_not_push_out_new_checkpoints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Nor is a checkpoint without its replay preferred to one that is older and exact."""
    config = small_config("probe/coordination", steps=4_000, checkpoint={"steps": 500})
    out = tmp_path / "run"
    stopped(monkeypatch, config, out, 60)
    last, before = [x for x in Checkpoints(out / "checkpoints").all() if not x.best]
    (last.path / "run.json").write_text("{}")
    later = last.path.with_name(f"step-{last.step:012d}-best")
    shutil.rmtree(later, ignore_errors=True)
    shutil.copytree(before.path, later)
    found, _ = newest(Checkpoints(out / "checkpoints"), 1)
    assert found is not None and found.path == before.path
    with monkeypatch.context() as patch:  # stopped again, before it comes that far
        patch.setattr(Training, "_pause", lambda self: setattr(self.stop, "asked", True) or True)
        patch.setattr(engines, "PIECE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            resume(out, quiet=True)
    again, _ = newest(Checkpoints(out / "checkpoints"), 1)
    assert again is not None and before.step < again.step < last.step
    assert max(x.step for x in Checkpoints(out / "checkpoints").all()) == again.step


def test_an_evaluation_that_failed_comes_when_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    config = small_config("probe/coordination", steps=1_000)
    whole = train_config(config, tmp_path / "whole", quiet=True)
    evaluate = engines.InGraph.evaluate

    def failing(self: Any, train: Any, steps: int, part: int) -> Any:
        if steps == config.steps:
            raise QtotError("environments give up")
        return evaluate(self, train, steps, part)

    with monkeypatch.context() as patch:
        patch.setattr(engines.InGraph, "evaluate", failing)
        with pytest.raises(QtotError, match="give up"):
            train_config(config, tmp_path / "run", quiet=True)
    run = resume(tmp_path / "run", quiet=True)
    for key in ("eval/return", "eval/episodes", "best/return", "updates", "episodes"):
        assert run.result()[0][key] == whole.result()[0][key], key


def test_a_folder_that_is_refused_stays_as_it_was(tmp_path: Path):
    """Its metrics are shorter than its checkpoint says."""
    run = train_config(small_config("probe/coordination", steps=500), tmp_path / "x", quiet=True)
    (run.path / "metrics.jsonl").write_text("")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != "lock"}
    for wrong, said in (
        ({"steps": 1_000}, "is shorter than when the checkpoint was written"),
        ({"reschedule": True}, "--reschedule goes with --steps"),
    ):
        with pytest.raises(QtotError, match=said):
            resume(run.path, quiet=True, **wrong)
    assert before == {p: p.read_bytes() for p in before}


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path):
    config = small_config("probe/coordination", steps=1_000)
    whole = train_config(config, tmp_path / "whole", quiet=True)
    killed = tmp_path / "killed"
    shutil.copytree(whole.path, killed)
    shutil.rmtree(killed / "checkpoints")
    (killed / "result.json").unlink()
    assert without_clocks(resume(killed, quiet=True)) == without_clocks(whole)


def test_a_run_killed_before_its_closing_table_gets_it(tmp_path: Path):
    config = small_config("probe/coordination", steps=1_000)
    run = train_config(config, tmp_path / "run", quiet=True)
    told = run.result()
    (run.path / "result.json").unlink()
    again = resume(run.path, quiet=True)
    for row in told:
        del row["peak_gib"]
    assert again.result() == told
    assert len(again.metrics()) == len(run.metrics())


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("replay", ["always", "never"])
def test_environments_in_python_open_new_episodes_and_nothing_learned_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, replay: str
):
    """The weaker promise; kept twice, it comes out the same."""
    config = small_config("own:strict", "vdn", steps=1_200, checkpoint={"replay": replay})
    stopped(monkeypatch, config, tmp_path / "run", 20, env=Strict)
    cut = qtot.load(tmp_path / "run")
    found, _ = newest(Checkpoints(cut.path / "checkpoints"), 1)
    assert found is not None
    assert found.record["replay"] == (replay == "always")
    for trust in (False, True):  # there is no name to trust
        with pytest.raises(QtotError, match=r"object of your own \(strict\), .* --env MODULE"):
            resume(cut.path, trust=trust, quiet=True)
    shutil.copytree(cut.path, tmp_path / "twin")
    start, salts = OnHost.start, []

    def started(self: OnHost, resumed: Any) -> Any:
        state = start(self, resumed)
        salts.append(self.pools["train"].board.salt[:, 3].tolist())
        return state

    monkeypatch.setattr(OnHost, "start", started)
    run, twin = (resume(path, env=Strict, quiet=True) for path in (cut.path, tmp_path / "twin"))
    assert without_clocks(run) == without_clocks(twin)
    assert salts == [[found.step] * 8] * 2  # no episode of before comes again
    before, after = found.record["rows"][0], run.result()[0]
    assert after["env_steps"] >= 1_200 > found.step
    steps = [row["env_steps"] for row in run.metrics()]
    assert steps == sorted(set(steps))
    earned = (after["env_steps"] - found.step) / 8
    waits = {"always": 8, "never": 2 * 16}[replay]  # for the replay to be warm again
    assert earned - waits <= after["updates"] - before["updates"] <= earned + 600 / 8


def severed(replay: Any, program: Program) -> Any:
    return program.from_replay.codec.decode(replay.slots)


def test_the_transition_whose_next_observation_was_lost_does_not_count(quick_compile: None):
    """The next row of a resumed run is another episode's."""
    config = small_config("probe/memory", replay={"capacity": 64, "length": 4})
    program = Program.make(jax_env(config.env), config)
    state = jax.jit(program.init)(0)
    state = jax.jit(program.chunk)(state, jnp.int32(300))
    one = jax.tree.map(lambda x: x[0], state.seeds._replace(replay=None))
    ring = state.seeds.replay
    assert ring is not None
    mine = ring._replace(
        slots=jax.tree.map(lambda x: x[0], ring.slots),
        start=jax.tree.map(lambda x: x[0], ring.start),
    )
    cut = program.from_replay.severed(one._replace(replay=mine)).replay
    before, after = severed(mine, program), severed(cut, program)
    assert program.replay is not None
    at = (int(ring.written) * 4 - 1) % (program.replay.rows * 4)
    assert before.valid[:, at].any() and not after.valid[:, at].any()
    for name in before._fields:
        x, y = np.asarray(getattr(before, name)), np.asarray(getattr(after, name))
        rest = np.arange(x.shape[1]) != at
        np.testing.assert_array_equal(x[:, rest], y[:, rest])
        if name != "valid":
            np.testing.assert_array_equal(x, y)


def test_what_makes_a_resumed_run_differ_is_said():
    then = {"versions": {"jax": "0.6"}, "device": {"kind": "cpu", "mesh": {"seed": 1, "data": 2}}}
    now = {"versions": {"jax": "0.7"}, "device": {"kind": "cpu", "mesh": {"seed": 1, "data": 1}}}
    same: dict[str, Any] = {"settings": {}}
    (said,) = differences(then | same, now | same)
    assert "versions jax: 0.6 then, 0.7 now" in said and "device mesh" in said
    assert differences(now | same, now | same) == []


def test_a_folder_of_an_older_version_is_read_but_not_gone_on_with(tmp_path: Path):
    run = train_config(small_config("probe/coordination", steps=500), tmp_path / "x", quiet=True)
    path = run.path / "config.json"
    facts = json.loads(path.read_text()) | {"schema": 2}
    del facts["config"]["checkpoint"]
    path.write_text(json.dumps(facts))
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "result.json").unlink()
    assert qtot.load(run.path).metrics() == run.metrics()
    with pytest.raises(QtotError, match="no checkpoints to go on from"):
        resume(run.path, steps=1_000, quiet=True)


def test_an_environment_of_other_sizes_is_refused(tmp_path: Path):
    run = train_config(small_config("probe/coordination", steps=500), tmp_path / "x", quiet=True)
    with pytest.raises(QtotError, match=r"probe/memory has \w+ .*, but run .* was begun with"):
        resume(run.path, steps=1_000, env="probe/memory", quiet=True)
    assert run.result()  # and nothing has changed

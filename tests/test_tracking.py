"""Trackers hold what metrics.jsonl holds; they end no run, and nothing is sent unasked."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args
from urllib.parse import quote

import pytest

import qtot.tracking.tensorboard as to_tensorboard
from command import plain, run
from extras import needs, package
from made_runs import made_run
from qtot.api import resume, train_config
from qtot.errors import QtotError, QtotWarning
from qtot.store.checkpoints import Checkpoints
from qtot.store.run_folder import RunFolder
from qtot.tracking import trackers
from qtot.tracking.base import TRACKERS, Facts, Name, Row, asked_for, make_tracker
from qtot.tracking.mlflow import alone
from qtot.tracking.record import Record, behind
from qtot.tracking.trackers import Trackers, track
from small import small_config

CLOCKS = ("wall_s", "compile_s", "steps_per_s", "peak_gib")
BESIDE = ("best/", "peak_", "share/")
"""what only the closing table has"""
EVALUATION = {"every": 1_000, "episodes": 8, "final_episodes": 8}
Points = dict[tuple[int, int], dict[str, float]]
"""values by seed and step"""

pytestmark = [
    pytest.mark.usefixtures("apart"),
    # what the packages say of themselves and of each other
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """From this machine's trackers, their keys, and whatever they would reach."""
    for name in [x for x in os.environ if x.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "netrc").write_text("")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.chdir(tmp_path)
    yield
    for thread in threading.enumerate():
        if thread.name in {f"qtot-{name}" for name in TRACKERS}:
            thread.join(10)
            assert not thread.is_alive(), thread.name


@pytest.fixture
def tidy() -> Iterator[None]:
    """After the packages: no process of theirs stays, and files that they left open are closed
    here, where nothing is said of them.
    """
    yield
    if teardown := getattr(sys.modules.get("wandb"), "teardown", None):
        teardown()
    gc.collect()


def config(**changes: Any) -> Any:
    quick = {"steps": 2_000, "seeds": 2, "evaluation": EVALUATION}
    return small_config("probe/coordination", **{**quick, **changes})


def metrics(folder: Path, *, clocks: bool = True) -> Points:
    """What the trackers should hold."""
    points: Points = {}
    for row in RunFolder(folder).metrics():
        at = points.setdefault((row["seed"], row["env_steps"]), {})
        at |= {k: v for k, v in row.items() if k not in ("seed", "env_steps") and v is not None}
    return points if clocks else without(points, CLOCKS)


def without(points: Points, keys: tuple[str, ...]) -> Points:
    return {at: {k: v for k, v in x.items() if k not in keys} for at, x in points.items()}


def put(points: Points, seed: int, step: int, name: str, value: float) -> None:
    at = points.setdefault((seed, step), {})
    assert name not in at, f"{name} came twice at step {step}"
    at[name] = value


# Each tracker's own files, read apart from the code that wrote them ----------------------------


def tensorboard(folder: Path) -> tuple[Points, Points]:
    """As TensorBoard reads them: files in the order of their names; a session's start takes back
    what lies at or after its step. What belongs to the closing table comes apart.
    """
    events = package("tensorboardX.proto.event_pb2", "tensorboard")
    logs: Points = {}
    beside: Points = {}
    for one in sorted((folder / "tensorboard").iterdir()):
        seed, found = int(one.name.removeprefix("seed-")), []
        for path in sorted(one.iterdir()):
            data, at = path.read_bytes(), 0
            while at < len(data):
                (size,) = struct.unpack_from("<Q", data, at)
                event = events.Event.FromString(data[at + 12 : at + 12 + size])
                at += 12 + size + 4
                if event.HasField("session_log"):
                    found = [x for x in found if x.step < event.step]
                found.append(event)
        for event in found:
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    best = value.tag.startswith(BESIDE)
                    put(beside if best else logs, seed, event.step, value.tag, value.simple_value)
    return logs, beside


def wandb(folder: Path) -> tuple[Points, list[Any], list[dict[str, Any]]]:
    """Histories, runs and summaries of all offline files, which are logs as LevelDB has them."""
    records = package("wandb.proto.wandb_internal_pb2", "wandb")
    points: Points = {}
    runs, summaries = [], []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, parts, summary = path.read_bytes(), 7, b"", {}
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            if 2**15 - at % 2**15 < 7:
                at += 2**15 - at % 2**15
                continue
            _, size, kind = struct.unpack_from("<IHB", data, at)
            parts += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind not in (1, 4):  # full, last
                continue
            record, parts = records.Record.FromString(parts), b""
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("summary"):
                summary |= {x.key: json.loads(x.value_json) for x in record.summary.update}
            if record.HasField("history"):
                items = record.history.item
                row = {x.key or x.nested_key[0]: json.loads(x.value_json) for x in items}
                seed = int(runs[-1].display_name.rpartition(" ")[2])
                step = row.get("_step", record.history.step.num)
                assert row["env_steps"] == step
                for name in row.keys() - {"env_steps", "_step", "_runtime", "_timestamp"}:
                    put(points, seed, step, name, row[name])
        summaries.append(summary)
    return points, runs, summaries


def mlflow() -> tuple[Points, Points, list[Any]]:
    """Wherever it tracks now."""
    client = package("mlflow", "mlflow").MlflowClient()
    ids = [client.get_experiment_by_name("qtot").experiment_id]
    runs = client.search_runs(ids, order_by=["tags.`qtot.seed`"])
    logs: Points = {}
    beside: Points = {}
    for one in runs:
        for name in one.data.metrics:
            best = name.startswith(BESIDE)
            for x in client.get_metric_history(one.info.run_id, name):
                put(
                    beside if best else logs, int(one.data.tags["qtot.seed"]), x.step, name, x.value
                )
    return logs, beside, runs


def close(got: Points, wanted: Points, tolerance: float = 0.0) -> None:
    assert got.keys() == wanted.keys()
    for at, values in wanted.items():
        assert got[at] == pytest.approx(values, rel=tolerance, abs=tolerance), at


# ------------------------------------------------------------------------------------------------


@pytest.mark.long
@needs("tensorboardX")
@needs("wandb")
@needs("mlflow")
@pytest.mark.usefixtures("quick_compile", "tidy")
def test_each_tracker_holds_the_metrics_also_of_a_run_that_goes_on(tmp_path: Path):
    """From a checkpoint before rows that the trackers have: in the same tracker runs, and no step
    comes twice.
    """
    folder = tmp_path / "run"
    names = ("tensorboard", "wandb", "mlflow")
    done = train_config(
        config(checkpoint={"steps": 500, "keep": 9}), folder, quiet=True, track=names
    )
    found = metrics(folder)
    assert len(found) == 2 * 5
    logs, beside = tensorboard(folder)
    close(logs, found, 1e-6)  # its values are float32
    points, runs, summaries = wandb(folder)
    close(points, found)
    assert [x.run_group for x in runs] == ["run"] * 2 and {x.project for x in runs} == {"qtot"}
    assert not any(x.resumed for x in runs)
    logs, more, first = mlflow()
    close(logs, found)
    for row, summary, one in zip(done.result(), summaries, first, strict=True):
        at = row["seed"], row["env_steps"]
        for name in ("best/return", "best/env_steps"):
            assert summary[name] == more[at][name] == row[name]
            assert beside[at][name] == pytest.approx(row[name])
        params = one.data.params
        assert params["agent.hidden"] == "32" and params["env"] == "probe/coordination"
        assert params["agent.encoder"] == "[32]" and one.info.status == "FINISHED"
    settings = {x.key or x.nested_key[0]: json.loads(x.value_json) for x in runs[0].config.update}
    assert settings["agent.hidden"] == 32 and settings["steps"] == 2_000

    saved = Checkpoints(folder / "checkpoints").all()
    for one in saved:  # as if killed after all rows were logged, with a checkpoint long before
        if one.step > min(x.step for x in saved):
            shutil.rmtree(one.path)
    resume(folder, steps=2_500, quiet=True)
    again = metrics(folder, clocks=False)
    assert len(again) == 2 * 6 and again.items() >= without(found, CLOCKS).items()
    close(tensorboard(folder)[0], metrics(folder), 1e-6)
    points, runs, _ = wandb(folder)  # what it had already is not given again, clocks and all
    close(without(points, CLOCKS), again)
    assert points.items() >= found.items()
    assert len(runs) == 4 and len({x.run_id for x in runs}) == 2
    logs, _, second = mlflow()
    close(without(logs, CLOCKS), again)
    assert logs.items() >= found.items()
    assert [x.info.run_id for x in second] == [x.info.run_id for x in first]
    assert {x.info.status for x in second} == {"FINISHED"}


@pytest.mark.long
@needs("mlflow")
@needs("tensorboardX")
@pytest.mark.usefixtures("quick_compile", "tidy")
def test_a_tracker_that_fails_is_told_of_once_and_the_run_ends_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    log, seen = to_tensorboard.Tracker.log, []

    def failing(self: Any, rows: list[Row]) -> None:
        seen.append(rows)
        if len(seen) > 1:
            raise OSError("no space\nleft")
        log(self, rows)

    folder, given = tmp_path / "run", config(seeds=1, steps=1_000)
    with monkeypatch.context() as patch:
        patch.setattr(to_tensorboard.Tracker, "log", failing)
        with pytest.warns(QtotWarning) as told:
            done = train_config(given, folder, quiet=True, track=("tensorboard",))
    (said,) = [str(x.message) for x in told]
    assert "tracker tensorboard is left out from here: OSError: no space left" in said
    assert len([rows for rows in seen if rows]) == 2 and done.result()
    assert len(tensorboard(folder)[0]) < len(metrics(folder))
    # It gets what it lacks, and so does one that comes later.
    resume(folder, steps=1_500, quiet=True, track=("mlflow",))
    close(tensorboard(folder)[0], metrics(folder), 1e-6)
    logs, beside, _ = mlflow()
    close(logs, metrics(folder))
    (folder / "result.json").unlink()  # killed before its closing table, and gone on with
    resume(folder, quiet=True)
    logs, again, runs = mlflow()
    close(logs, metrics(folder))
    assert again == beside and runs[0].info.status == "FINISHED"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tensorboard", marks=needs("tensorboardX")),
        pytest.param("wandb", marks=needs("wandb")),
        pytest.param("mlflow", marks=needs("mlflow")),
    ],
)
@pytest.mark.usefixtures("tidy")
def test_a_tracker_gets_what_it_lacks_of_a_run_that_has_ended(tmp_path: Path, name: str):
    """Whether it was left out, or is asked for now; the run stays as it is."""
    folder = made_run(tmp_path / "run", seeds=(0, 1))
    kept = [(folder / part).read_bytes() for part in ("metrics.jsonl", "result.json")]
    (done, other) = RunFolder(folder).result()
    closing = {"peak_gib": done["peak_gib"], "share/learner": done["share/learner"]}
    found = metrics(folder)

    def held() -> None:
        if name == "wandb":
            points, runs, summaries = wandb(folder)
            assert {x.project for x in runs} == {"qtot"}
            assert all(one.items() >= closing.items() for one in summaries if one)
            return close(points, found)
        logs, beside, *_ = tensorboard(folder) if name == "tensorboard" else mlflow()
        assert beside == {(row["seed"], row["env_steps"]): closing for row in (done, other)}
        return close(logs, found, 1e-6 if name == "tensorboard" else 0.0)

    for line in (f"resume {folder} --track {name}", f"resume {folder} --track {name} --quiet"):
        answer = run(line)
        assert (answer.code, answer.err) == (0, ""), answer.err
        assert ("its trackers get what they lack" in answer.out) == ("--quiet" not in line)
        held()
    refused = run(f"resume {folder}")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    if name == "tensorboard":  # as if it had been left out: from here, no more need be said
        Record.of(RunFolder(folder)).give(name, {0: 300, 1: 700})
        assert run(f"resume {folder}").code == 0
        held()
    assert kept == [(folder / part).read_bytes() for part in ("metrics.jsonl", "result.json")]


@needs("mlflow")
@pytest.mark.usefixtures("tidy")
def test_a_scalar_may_have_any_name(tmp_path: Path):
    """MLflow would refuse them, and with them all others."""
    names = {
        "eval/food (all), %": "eval/food _all__ _",
        "eval/../../x": "eval/.._.._x",
        "eval/..": "eval/_",
        "eval/x/y": "eval/x_y",
        "eval/x": "eval/x",
        "eval/" + "é" * 300: "eval/" + "é" * 100,
    }
    result = [{"seed": 0, "env_steps": 1, "best/a?": 2.0}]
    row = {"seed": 0, "env_steps": 1} | dict.fromkeys(names, 1.0)
    for _ in range(2):
        with begun(tmp_path / "run", make_tracker("mlflow"), name="mlflow") as tracked:
            tracked.log([row])
            tracked.conclude(result)
    logs, beside, _ = mlflow()
    assert logs == {(0, 1): dict.fromkeys(names.values(), 1.0)}
    assert beside == {(0, 1): {"best/a_": 2.0}}


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("tensorboard", "tensorboardX", "tensorboard"),
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow", "mlflow"),
    ],
)
def test_a_missing_package_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, module: str, extra: str
):
    monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "run"
    answer = run(f"train --env probe/coordination --out {out} --track {name}")
    assert answer.code == 2 and f"pip install 'qtot[{extra}]'" in answer.err
    assert f"--track {name} needs the package {module!r}" in answer.err
    assert len(answer.err.splitlines()) == 1 and not out.exists()


def test_a_tracker_that_there_is_not(tmp_path: Path):
    out = tmp_path / "run"
    answer = run(f"train --env probe/coordination --out {out} --track wandbb")
    assert answer.code == 2 and "wandb" in plain(answer.err) and not out.exists()
    for wrong, said in ((("wandbb",), "did you mean 'wandb'"), ("wandb", "sequence of names")):
        with pytest.raises(QtotError, match=said):
            train_config(config(), out, track=wrong)
    assert not out.exists()


# Trackers that misbehave, without a run ---------------------------------------------------------


class Fake:
    """Does what it is told, and writes down what it gets."""

    rewinds, sends = False, False

    def __init__(self, **given: Any) -> None:
        self.said: list[str] = []
        self.rows: list[Row] = []
        self.status: str | None = None
        self.waits = threading.Event()
        vars(self).update(given)

    def begin(self, facts: Facts, since: Mapping[int, int] | None) -> set[int]:
        self.facts, self.since = facts, since
        return set(facts.ids) if since is not None else set()

    def log(self, rows: list[Row]) -> None:
        self.rows += rows

    def close(self, status: str, result: list[Row]) -> None:
        self.status, self.result = status, result


def logged(step: int) -> list[dict[str, Any]]:
    return [{"seed": 0, "env_steps": step, "loss": 1.0 * step, "lr": None}]


def begun(
    folder: Path,
    fake: Any,
    rows: int = 0,
    *,
    name: str = "wandb",
    goes_on: bool = True,
    seeds: int = 1,
) -> Trackers:
    """In a folder with so many rows of each seed."""
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({**logged(step)[0], "seed": seed}) + "\n"
        for step in range(1, rows + 1)
        for seed in range(seeds)
    ]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return track(RunFolder(folder), config(seeds=seeds), {name: fake}, goes_on=goes_on)


def test_rows_come_once_and_all_of_them(tmp_path: Path):
    """Killed after step 5 with a checkpoint at 3; left out after that, until step 8."""
    first = Fake()
    with begun(tmp_path / "run", first, goes_on=False) as tracked:
        for step in range(1, 6):
            tracked.log(logged(step))
    assert [x.step for x in first.rows] == [1, 2, 3, 4, 5] and first.since is None
    assert first.rows[0] == Row(0, 1, {"loss": 1.0}) and first.status == "finished"
    # The last row that stays comes again where it can: the closing table would lie at its step.
    for rewinds, since, steps in ((False, 3, [6, 7]), (True, 2, [3, 4, 5, 6, 7])):
        shutil.copytree(tmp_path / "run", tmp_path / f"{rewinds}")
        second = Fake(rewinds=rewinds)
        with begun(tmp_path / f"{rewinds}", second, rows=3) as tracked:
            for step in range(4, 8):
                tracked.log(logged(step))
        assert second.since == {0: since} and second.facts.ids == first.facts.ids
        assert [x.step for x in second.rows] == steps
    third = Fake()
    with begun(tmp_path / "False", third, rows=9) as tracked:
        tracked.log(logged(10))
    assert [x.step for x in third.rows] == [8, 9, 10]
    fourth = Fake(begin=lambda facts, since: set())  # it has nothing of what it was given
    with begun(tmp_path / "False", fourth, rows=9):
        pass
    assert [x.step for x in fourth.rows] == list(range(1, 10))


def test_one_that_did_not_take_the_end_is_behind(tmp_path: Path):
    """It has all rows, and its server went down, or it is stopped, before the closing table."""

    def failing(status: str, result: list[Row]) -> None:
        raise OSError("no server")

    def ends(fake: Fake, rows: int = 3, raised: Any = None) -> list[str]:
        tracked = begun(tmp_path / "run", fake, rows)
        tracked.conclude(logged(rows))
        tracked.catch_up()
        tracked.__exit__(raised)
        return behind(folder)

    folder = RunFolder(tmp_path / "run")
    with pytest.warns(QtotWarning, match="OSError: no server.* 'qtot resume' gives"):
        assert ends(Fake(close=failing)) == ["wandb"]
    assert Record.of(folder).given == {"wandb": {0: 3}}
    assert ends(Fake(), raised=KeyboardInterrupt) == ["wandb"]
    assert ends(Fake()) == []
    with begun(folder.path, Fake(), rows=3):  # a session that has not seen the end
        assert behind(folder) == ["wandb"]
    assert ends(Fake(), rows=4) == []
    value = folder.tracking()
    assert value.pop("ended") == ["wandb"]
    folder.write_tracking(value)  # as before this was noted
    assert behind(folder) == ["wandb"] and ends(Fake(), rows=4) == []


class Slow(Fake):
    """Takes rows once it is told to."""

    def __init__(self, **given: Any) -> None:
        self.waits, self.entered, self.calls = threading.Event(), threading.Event(), []
        super().__init__(**given)

    def log(self, rows: list[Row]) -> None:
        self.entered.set()
        assert self.waits.wait(30)
        self.calls.append(rows)
        self.rows += rows


def test_earlier_rows_hold_up_no_beginning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """They come afterwards, before new ones, many of a seed at once."""
    monkeypatch.setattr(trackers, "BEGIN_S", 5.0)
    slow = Slow()
    with begun(tmp_path / "run", slow, rows=100, seeds=2) as tracked:
        tracked.log(logged(101))
        assert slow.entered.wait(10) and not slow.rows
        slow.waits.set()
    assert [[x.seed for x in rows] for rows in slow.calls] == [
        *([seed] * size for seed in (0, 1) for size in (40, 40, 20)),
        [0],
    ]
    assert [x.step for x in slow.rows] == [*range(1, 101), *range(1, 101), 101]


def test_a_run_that_is_stopped_leaves_earlier_rows_for_later(tmp_path: Path):
    slow, again = Slow(), Fake()
    tracked = begun(tmp_path / "run", slow, rows=100)
    tracked.log(logged(101))
    assert slow.entered.wait(10)
    threading.Timer(0.3, slow.waits.set).start()
    tracked.__exit__(KeyboardInterrupt)
    assert [x.step for x in slow.rows] == [*range(1, 41)] and slow.status == "stopped"
    with begun(tmp_path / "run", again, rows=101):
        pass
    assert [x.step for x in again.rows] == [*range(41, 102)]


def test_what_a_tracker_lacks_of_an_ended_run_may_take_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(trackers, "FINISH_S", 1.5)
    slow = Fake(log=lambda rows: time.sleep(0.5))
    with begun(tmp_path / "run", slow, rows=200) as tracked:
        tracked.catch_up()
    assert Record.of(RunFolder(tmp_path / "run")).given["wandb"] == {0: 200}
    assert slow.status == "finished"
    hangs = Slow()
    warned = pytest.warns(QtotWarning, match=r"wandb is left out from here: it took nothing for")
    with warned, begun(tmp_path / "run", hangs, rows=201) as tracked:
        tracked.catch_up()
    hangs.waits.set()


@pytest.mark.parametrize("rewinds", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_tracker_that_comes_back_too_late_undoes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rewinds: bool, fails: bool
):
    """The run is another session's by then, and so is the tracker run."""
    monkeypatch.setattr(trackers, "FINISH_S", 0.2)
    late, folder = Slow(rewinds=rewinds), tmp_path / "run"

    def log(rows: list[Row]) -> None:
        late.entered.set()
        assert late.waits.wait(30)
        if fails:
            raise OSError("no server")

    late.log = log  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.warns(QtotWarning, match="it did not end within"), begun(folder, late) as tracked:
        tracked.log(logged(0))
        assert late.entered.wait(10)
    with begun(folder, Fake(rewinds=rewinds), rows=3):
        pass
    kept = (folder / "tracking.json").read_bytes()
    assert Record.of(RunFolder(folder)).given["wandb"] == {0: 3}
    late.waits.set()
    for thread in threading.enumerate():
        if thread.name == "qtot-wandb":
            thread.join(10)
    assert (folder / "tracking.json").read_bytes() == kept and late.status is None


@pytest.mark.parametrize("raised", [KeyboardInterrupt, QtotError, None])
def test_a_tracker_that_hangs_holds_up_no_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: Any
):
    monkeypatch.setattr(trackers, "STOP_S", 0.2)
    monkeypatch.setattr(trackers, "FINISH_S", 0.2)
    fake = Fake()
    fake.close = lambda status, result: fake.waits.wait()  # pyright: ignore[reportAttributeAccessIssue]
    tracked = begun(tmp_path / "run", fake)
    began = time.monotonic()
    with pytest.warns(QtotWarning, match=r"wandb is left out from here: it did not end within"):
        tracked.__exit__(raised)
    assert time.monotonic() - began < 5
    fake.waits.set()


@pytest.mark.parametrize(
    ("raised", "status"), [(SystemExit, "failed"), (KeyboardInterrupt, "stopped")]
)
def test_one_that_has_begun_is_closed_also_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: Any, status: str
):
    """Whoever reads the header leaves, or Ctrl-C comes just then."""

    def leaving(*_: Any, **__: Any) -> dict[str, str]:
        raise raised

    fake = Fake()
    monkeypatch.setattr("qtot.tracking.base.make_tracker", lambda name: fake)
    monkeypatch.setattr("qtot.training.launch.header", leaving)
    with pytest.raises(raised):
        train_config(config(seeds=1), tmp_path / "run", quiet=True, track=("wandb",))
    assert fake.status == status


def test_how_a_run_ended_is_told(tmp_path: Path):
    for raised, status in ((KeyboardInterrupt, "stopped"), (QtotError, "failed")):
        fake = Fake()
        tracked = begun(tmp_path / status, fake)
        tracked.conclude(logged(1))
        tracked.__exit__(raised)
        assert fake.status == status and fake.result[0].values == {"loss": 1.0}


@pytest.mark.parametrize("raised", [KeyboardInterrupt, QtotError])
def test_a_run_that_has_ended_stays_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: Any
):
    """Where giving its trackers what they lack is stopped, or fails: the rest comes another time"""

    def stopping(tracked: Trackers) -> None:
        assert made[-1].entered.wait(10)
        threading.Timer(0.2, made[-1].waits.set).start()
        raise raised

    def failing(rows: list[Row]) -> None:
        raise OSError("no server")

    folder = made_run(tmp_path / "run", seeds=(0,))
    made: list[Any] = [Slow()]
    monkeypatch.setattr("qtot.tracking.base.make_tracker", lambda name: made[-1])
    monkeypatch.setattr(trackers, "make_tracker", lambda name: made[-1])
    monkeypatch.setattr(trackers, "AT_ONCE", 1)
    with monkeypatch.context() as patch, pytest.raises(raised):
        patch.setattr(Trackers, "catch_up", stopping)
        resume(folder, quiet=True, track=("wandb",))
    assert made[-1].status == "finished" and behind(RunFolder(folder)) == ["wandb"]
    made.append(Fake(log=failing))
    with pytest.warns(QtotWarning, match="no server"):
        resume(folder, quiet=True)
    assert made[-1].status == "finished" and behind(RunFolder(folder)) == ["wandb"]
    made.append(Fake())
    resume(folder, quiet=True)
    rows = [row for one in made for row in one.rows]
    steps = [row["env_steps"] for row in RunFolder(folder).metrics()]
    assert [row.step for row in rows] == steps and behind(RunFolder(folder)) == []
    assert made[-1].result


def test_a_tracker_that_hangs_holds_up_no_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(trackers, "BEHIND", 3)
    fake = Fake()
    fake.log = lambda rows: fake.waits.wait()  # pyright: ignore[reportAttributeAccessIssue]
    tracked = begun(tmp_path / "run", fake)
    with pytest.warns(QtotWarning, match="it is 3 logs behind") as told:
        for step in range(9):
            tracked.log(logged(step))
        tracked.__exit__(None)
    assert len(told) == 1
    fake.waits.set()


def test_one_that_cannot_begin_is_an_error_if_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def failing(facts: Facts, since: Any) -> set[int]:
        raise RuntimeError("no\nserver")

    folder = tmp_path / "run"
    said = r"tracker wandb cannot begin \(RuntimeError: no server\); .* qtot resume .*--track wandb"
    with pytest.raises(QtotError, match=said):
        begun(folder, Fake(begin=failing), goes_on=False)
    assert not (folder / "tracking.json").exists()
    ended: list[str] = []
    broken = Fake(begin=failing, close=lambda status, result: ended.append(status))
    other = Fake()
    with pytest.raises(QtotError, match="tracker mlflow cannot begin"):
        track(RunFolder(folder), config(seeds=1), {"wandb": other, "mlflow": broken}, goes_on=False)
    assert other.status == "failed" and ended == ["failed"]  # closed when it is told of
    with pytest.raises(QtotError, match="tracker wandb cannot begin"):  # and in one line
        both = {"wandb": Fake(begin=failing), "mlflow": Fake(begin=failing)}
        track(RunFolder(folder), config(seeds=1), both, goes_on=False)
    slow = Fake()
    slow.begin = lambda facts, since: slow.waits.wait()  # pyright: ignore[reportAttributeAccessIssue]
    with monkeypatch.context() as patch, pytest.raises(QtotError, match="did not begin within"):
        patch.setattr(trackers, "BEGIN_S", 0.1)
        begun(tmp_path / "slow", slow)
    slow.waits.set()
    Record(RunFolder(folder)).give("mlflow", {0: 1})
    monkeypatch.setattr(trackers, "make_tracker", lambda name: Fake(begin=failing))
    with pytest.warns(QtotWarning, match="mlflow is left out from here: RuntimeError"):
        track(RunFolder(folder), config(seeds=1), {}, goes_on=True)


# Run folders of strangers -----------------------------------------------------------------------

ID = "0" * 32


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"id": "../../x", "given": {}},
        {"id": 3, "given": {}},
        {"id": ID + "\n", "given": {}},
        {"id": ID, "given": []},
        {"id": ID, "given": {"http://example.org": {}}},
        {"id": ID, "given": {"wandb": {"../x": 1}}},
        {"id": ID, "given": {"wandb": {"0": "http://example.org"}}},
        {"id": ID, "given": {"wandb": {"0": 2**80}}},
        {"id": ID, "given": {"wandb": {"0": True}}},
        {"id": ID, "given": {}, "ended": "wandb"},
        {"id": ID, "given": {}, "ended": ["http://example.org"]},
        {"id": ID, "given": {}, "ended": [{}]},
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, value: Any):
    (tmp_path / "tracking.json").write_text(json.dumps(value))
    with pytest.raises(QtotError, match=r"tracking\.json is damaged .* delete it"):
        Record.of(RunFolder(tmp_path))


def test_a_record_names_no_run_that_is_there(tmp_path: Path):
    """What a tracker's run is called is a digest, and seeds have others."""
    mine, theirs = Record(RunFolder(tmp_path)), Record(RunFolder(tmp_path))
    assert mine.id != theirs.id and mine.id_of(0) != mine.id_of(1)
    assert theirs.id_of(0) not in (theirs.id, mine.id_of(0))
    mine.give("wandb", {0: 3})
    assert Record.of(RunFolder(tmp_path)).id_of(0) == mine.id_of(0)


def test_no_tracker_writes_through_a_link(tmp_path: Path):
    elsewhere, folder = tmp_path / "elsewhere", RunFolder(tmp_path / "run")
    elsewhere.mkdir()
    (folder.path / "tensorboard").mkdir(parents=True)
    (folder.path / "wandb").symlink_to(elsewhere)
    (folder.path / "tensorboard" / "seed-0").symlink_to(elsewhere)
    for name in ("wandb", "tensorboard"):
        with pytest.raises(QtotError, match="leads out of the run folder"):
            folder.tracker_folder(name)


def facts(folder: Path, *, named: bool) -> Facts:
    return Facts("run", folder / "wandb", {}, {0: "a" * 16}, named)


@pytest.mark.parametrize(
    ("key", "mode", "named", "expected"),
    [
        (True, None, True, "online"),
        (True, None, False, "offline"),
        (True, "online", False, "online"),
        (True, "offline", True, "offline"),
        (True, "disabled", True, "disabled"),
        (False, None, True, "offline"),
        (False, None, False, "offline"),
        (False, "online", True, None),
    ],
)
def test_wandb_sends_only_with_a_key_and_if_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key: bool,
    mode: str | None,
    named: bool,
    expected: str | None,
):
    """A run folder's word is not enough; and it never asks for a key."""
    began: list[dict[str, Any]] = []

    def init(**given: Any) -> Any:
        began.append(given)
        return SimpleNamespace(resumed=False, url="https://example.org")

    fake: Any = ModuleType("wandb")
    settings = SimpleNamespace(
        mode=mode or "online", base_url="https://example.org", project=None, run_group=None
    )
    fake.setup, fake.init = lambda: SimpleNamespace(settings=settings), init
    fake.Settings = lambda **given: given
    monkeypatch.setitem(sys.modules, "wandb", fake)
    if key:
        (tmp_path / "netrc").write_text("machine example.org login user password secret\n")
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    tracker = make_tracker("wandb")
    if expected is None:
        with pytest.raises(QtotError, match="WANDB_MODE is online, and there is no key"):
            tracker.begin(facts(tmp_path, named=named), since=None)
        return
    tracker.begin(facts(tmp_path, named=named), since=None)
    (given,) = began
    assert given["mode"] == expected and given["project"] == "qtot"
    assert tracker.sends == (expected == "online")
    assert len(tracker.said) == (expected != "disabled" and mode != "offline")


@needs("wandb")
@pytest.mark.usefixtures("tidy")
def test_no_settings_of_wandb_are_taken_from_a_run_folder(tmp_path: Path):
    for name in ("wandb/settings", ".wandb"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[default]\nbase_url = https://example.org\n")
        with pytest.raises(QtotError, match="would say where wandb sends or writes"):
            make_tracker("wandb").begin(facts(tmp_path / "run", named=True), since={0: 1})
        path.unlink()


@pytest.mark.long
@needs("mlflow")
@pytest.mark.usefixtures("tidy")
def test_mlflow_tracks_by_itself_in_a_database_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder = tmp_path / "run"
    for rows in (2, 4):  # it goes on there, and parameters may come again
        with begun(folder, make_tracker("mlflow"), rows, name="mlflow"):
            pass
    assert (tmp_path / "mlflow.db").exists()
    logs, _, runs = mlflow()
    close(logs, metrics(folder))
    assert len(runs) == 1 and len(logs) == 4


@pytest.mark.long
@needs("mlflow")
@pytest.mark.usefixtures("tidy")
def test_processes_that_make_mlflows_database_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As the first trials of a sweep; MLflow by itself leaves it broken. It quotes the folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "a folder, über").mkdir()
    monkeypatch.chdir(tmp_path / "a folder, über")
    source = (
        "import sys; from pathlib import Path; from qtot.tracking.base import Facts, make_tracker\n"
        "tracker, name = make_tracker('mlflow'), sys.argv[1]; print(flush=True); input()\n"
        "tracker.begin(Facts(name, Path(name) / 'mlflow', {'a': 1}, {0: name}, True), None)\n"
        "tracker.close('finished', [])"
    )
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([sys.executable, "-c", source, name], stdin=pipe, stdout=pipe, stderr=pipe)
        for name in "abc"
    ]
    for process in processes:  # all have imported it
        assert process.stdout is not None and process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, said
    runs = mlflow()[2]
    assert {x.data.tags["qtot.run"] for x in runs} == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["plain", "a folder, über"])
@pytest.mark.parametrize("options", ["", "?timeout=3"])
def test_the_folder_of_mlflows_database_is_locked(tmp_path: Path, name: str, options: str):
    folder = tmp_path / name
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        uri = f"sqlite:///{quote(str(folder))}/mlflow.db{options}"
        with alone(uri), pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


@needs("mlflow")
@pytest.mark.usefixtures("tidy")
def test_mlflow_has_no_store_in_a_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "run" / "mlruns").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / "mlruns")
    with pytest.raises(QtotError, match="its store would lie in the run folder"):
        make_tracker("mlflow").begin(facts(tmp_path / "run", named=True), since=None)


def test_names_of_the_command_are_those_of_the_trackers():
    assert get_args(Name) == tuple(TRACKERS)
    for command in ("train", "resume", "sweep"):
        assert "{" + ",".join(TRACKERS) + "}" in plain(run(f"{command} --help").out)
    assert asked_for(()) == {}

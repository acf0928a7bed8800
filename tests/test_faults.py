"""What goes wrong around a run: the disk, the clock, another process, links that lead elsewhere."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qtot
from qtot.api import resume, train_config
from qtot.cli import main
from qtot.envs.host.config import HostConfig
from qtot.errors import QtotError, QtotWarning
from qtot.store.checkpoints import Checkpoints
from qtot.store.lock import only_writer
from qtot.store.run_folder import RunFolder
from qtot.training.keeping import Keeper
from qtot.training.loop import Training
from small import small_config
from test_resume import without_clocks

RUN: dict[str, Any] = {"steps": 2_000, "checkpoint": {"steps": 500}, "evaluation": {"every": 1_000}}


@contextlib.contextmanager
def full(room: int) -> Iterator[None]:
    """No file of this process may become larger: what a full disk does to whoever writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> qtot.Run:
    """A run to which nothing happened."""
    config = small_config("probe/coordination", **RUN)
    return train_config(config, tmp_path_factory.mktemp("whole") / "run", quiet=True)


@pytest.fixture
def in_turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing else is written while a checkpoint is: the limit is the whole process's."""
    keep = Keeper.keep

    def keeping(self: Keeper, *args: Any, write: bool = True) -> None:
        keep(self, *args, write=write)
        if self._writing is not None:
            self._writing.join()

    monkeypatch.setattr(Keeper, "keep", keeping)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Orbax leaves of an event loop when it fails
        gc.collect()


ORBAX = "ignore::pytest.PytestUnraisableExceptionWarning"


@pytest.mark.filterwarnings(ORBAX)
@pytest.mark.usefixtures("in_turns")
def test_a_full_disk_costs_checkpoints_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    whole: qtot.Run,
):
    """The second and third find no room; before and after, all is well."""
    write, tried = Checkpoints.write, []

    def cramped(self: Checkpoints, step: int, *args: Any, **kwargs: Any) -> Path:
        tried.append(step)
        with full(1_000) if len(tried) in (2, 3) else contextlib.nullcontext():
            return write(self, step, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "write", cramped)
    run = train_config(small_config("probe/coordination", **RUN), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert "a checkpoint could not be written to" in said
    assert any(path.name.endswith("-best") for path in (run.path / "checkpoints").iterdir())
    assert f"So far, the last checkpoint is of step {tried[0]:,}" in said
    assert without_clocks(run) == without_clocks(whole)
    names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert names and all(name.startswith("step-") for name in names)
    assert all(wrong is None for _, wrong in Checkpoints(run.path / "checkpoints").whole())


@pytest.mark.usefixtures("in_turns")
def test_a_full_disk_cuts_no_line_of_the_metrics(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    whole: qtot.Run,
):
    """Rows wait until there is room again."""
    flush, tried = RunFolder.flush, []

    def cramped(self: RunFolder) -> None:
        tried.append(self.metrics_bytes)
        with full(self.metrics_bytes + 50) if len(tried) in (3, 4) else contextlib.nullcontext():
            try:
                flush(self)
            finally:
                assert self.metrics() == whole_rows(self)

    def whole_rows(folder: RunFolder) -> list[Any]:
        text = (folder.path / "metrics.jsonl").read_text()
        assert text == "" or text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    monkeypatch.setattr(RunFolder, "flush", cramped)
    run = train_config(small_config("probe/coordination", **RUN), tmp_path / "run")
    assert capsys.readouterr().out.count("metrics could not be written") == 1
    assert without_clocks(run) == without_clocks(whole)


@pytest.mark.filterwarnings(ORBAX)
@pytest.mark.usefixtures("in_turns")
def test_a_stop_that_cannot_be_saved_is_no_quiet_loss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    write, log = Checkpoints.write, Training._log

    def cramped(*args: Any, **kwargs: Any) -> Path:
        with full(1_000):
            return write(*args, **kwargs)

    def asking(self: Training, *args: Any) -> None:
        log(self, *args)
        self.stop.asked = True

    monkeypatch.setattr(Checkpoints, "write", cramped)
    monkeypatch.setattr(Training, "_log", asking)
    with pytest.raises(QtotError, match=r"a checkpoint could not be written to .*; there is none"):
        train_config(small_config("probe/coordination"), tmp_path / "run", quiet=True)


def test_output_that_finds_no_room_ends_no_run(tmp_path: Path):
    """As with ``> train.log``; /dev/full is always full."""
    out = tmp_path / "run"
    flags = ["--env", "matrix/climbing", "--steps", "3000", "--out", str(out)]
    with Path("/dev/full").open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "qtot", "train", *flags],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert qtot.load(out).result(), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, whole: qtot.Run, code: int
):
    """Root may write where others may not, so the system's answer is played."""
    opened = os.open

    def refusing(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if str(path).startswith(str(whole.path)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(QtotError, match=rf"cannot write the run folder .*\({os.strerror(code)}\)"):
        resume(whole.path, steps=3_000, quiet=True)
    assert qtot.load(whole.path).result()  # reading is another matter


def test_a_second_process_is_refused(whole: qtot.Run, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(whole.path, out)
    with only_writer(out / "lock"):
        for again in (
            lambda: resume(out, steps=3_000, quiet=True),
            lambda: train_config(small_config("probe/coordination"), out, quiet=True),
        ):
            with pytest.raises(QtotError, match=rf"is being written by process {os.getpid()} on"):
                again()
    with pytest.raises(QtotError, match="already holds a run; go on with it: qtot resume"):
        train_config(small_config("probe/coordination"), out, quiet=True)


def test_where_nothing_can_be_locked_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def unknown(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with (
        pytest.warns(QtotWarning, match=r"cannot be locked \(No locks available\)"),
        only_writer(tmp_path / "lock"),
    ):
        pass


def test_a_clock_that_jumps_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: qtot.Run
):
    """Back by years, forth by days."""
    real, jumps = time.time, iter(range(10**9))

    def jumping() -> float:
        return real() + (-1e8 if next(jumps) % 2 else 1e6)

    monkeypatch.setattr(time, "time", jumping)
    run = train_config(small_config("probe/coordination", **RUN), tmp_path / "run", quiet=True)
    assert without_clocks(run) == without_clocks(whole)
    for key in ("wall_s", "steps_per_s"):
        assert all(row.get(key, 0) >= 0 for row in run.metrics())
    times = [row["wall_s"] for row in run.metrics()]
    assert times == sorted(times) and times[-1] < 600
    steps = [found.step for found in Checkpoints(run.path / "checkpoints").all()]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "result.json", "checkpoints", "params", "lock"]
)
def test_no_link_leads_out_of_a_run_folder(whole: qtot.Run, tmp_path: Path, name: str):
    """Neither what is read there nor what is written."""
    out, away = tmp_path / "run", tmp_path / "away"
    shutil.copytree(whole.path, out)
    (out / name).rename(away)
    (out / name).symlink_to(away)
    before = {p: p.read_bytes() for p in [away, *away.rglob("*")] if p.is_file()}
    said = "leads out of the run folder"
    if name == "config.json":
        with pytest.raises(QtotError, match=said):
            qtot.load(out)
    elif name != "lock":
        run = qtot.load(out)
        for read in (run.metrics, run.result, run.params):
            with contextlib.suppress(QtotError):
                read()
    with pytest.raises(QtotError, match=said):
        resume(out, steps=3_000, quiet=True)
        qtot.load(out).params()
    assert before == {p: p.read_bytes() for p in before}


def test_a_run_folder_may_itself_be_a_link(whole: qtot.Run, tmp_path: Path):
    (tmp_path / "link").symlink_to(whole.path)
    assert qtot.load(tmp_path / "link").params() is not None


TROJAN = "raise SystemExit('this was imported')"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"env": "trojan:make"}, "'trojan:make', whose code is imported only if you"),
        ({"env": "pettingzoo/trojan"}, "whose code is imported only if you"),
        ({"env": "gym/trojan:Env-v0"}, "whose code is imported only if you"),
        (
            {"agent": {"module": "trojan:make"}},
            "'trojan:make', which is imported only if you trust",
        ),
    ],
)
def test_no_code_is_imported_on_a_run_folders_word(
    whole: qtot.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: dict[str, Any],
    said: str,
):
    out = tmp_path / "run"
    shutil.copytree(whole.path, out)
    facts = json.loads((out / "config.json").read_text())
    for key, value in named.items():
        facts["config"][key] = facts["config"][key] | value if isinstance(value, dict) else value
    (out / "config.json").write_text(json.dumps(facts))
    (tmp_path / "trojan.py").write_text(TROJAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = qtot.load(out)
    assert run.metrics() and run.result()
    for use in (
        lambda: qtot.evaluate(out, 4),
        lambda: resume(out, steps=3_000, quiet=True),
    ):
        with pytest.raises(QtotError, match=said):
            use()
    for line in (["eval", str(out)], ["resume", str(out), "--steps", "3000"]):
        assert main(line) == 2
        assert "--trust" in capsys.readouterr().err
    if "agent" in named:
        with pytest.raises(QtotError, match=said):
            run.agent("agent_0")
    if named != {"env": "gym/trojan:Env-v0"}:
        with pytest.raises((SystemExit, QtotError), match="this was imported"):
            qtot.evaluate(qtot.load(out, trust=True), 4)


def test_a_host_configuration_names_no_code() -> None:
    """What a folder says of its environments is data; a field that were code would need trust."""
    fields = {"args", "team_reward", "episode_limit", "info", "workers", "timeout_s", "failures"}
    assert set(HostConfig.__dataclass_fields__) == fields

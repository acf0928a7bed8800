"""Signals save a run, and end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qtot
from qtot.store.checkpoints import Checkpoints
from qtot.training.keeping import newest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: int):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "qtot", "train", "--env", "matrix/climbing", "--steps"]
    command += ["100000000", "--log-every", "2000", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " steps · return" in line:
                break
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 128 + number
    assert f"go on with: qtot resume {out}" in rest
    found, wrong = newest(Checkpoints(out / "checkpoints"), 1)
    assert not wrong
    assert found.step == qtot.load(out).metrics()[-1]["env_steps"]


def test_a_second_signal_ends_at_once(tmp_path: Path):
    """While the first is still saving; what was there before stays."""
    out = tmp_path / "run"
    code = (
        "import sys, time, qtot.store.checkpoints as c; from qtot.cli import command\n"
        "write = c.Checkpoints.write\n"
        "def slow(*a, **k):\n"
        "    print('writing', flush=True); time.sleep(60); return write(*a, **k)\n"
        "c.Checkpoints.write = slow\n"
        "command()"
    )
    flags = ["--env", "matrix/climbing", "--steps", "100000000", "--log-every", "2000"]
    command = [sys.executable, "-c", code, "train", *flags, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " steps · return" in line:
                process.send_signal(signal.SIGINT)
            if line.startswith("writing"):
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                break
        process.wait(30)
        assert time.monotonic() - began < 20
    assert process.returncode == 128 + signal.SIGINT
    assert qtot.load(out).metrics()
    assert not Checkpoints(out / "checkpoints").all()


def family(parent: int) -> list[int]:
    """A process and all that it has started."""
    found = [parent]
    for pid in found:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found += map(int, children)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_sigterm_to_all_processes_at_once_stops_the_run_alone(tmp_path: Path):
    """As clusters do it: workers leave it to their parent."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "qtot", "train", "--env", "faulty_hosts:Strict", "--algo"]
    command += ["vdn", "--steps", "100000000", "--log-every", "500", "--host.workers", "2"]
    command += ["--evaluation.episodes", "4", "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " steps · return" in line:
                break
        everyone = family(process.pid)
        assert len(everyone) > 4
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert f"go on with: qtot resume {out} --env faulty_hosts:Strict" in rest
    assert qtot.load(out).metrics()[-1]["env_failures"] == 0
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in everyone):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in everyone)


def test_two_signals_end_a_compilation(tmp_path: Path):
    """Without waiting for it, and without a trace."""
    command = [sys.executable, "-m", "qtot", "train", "--env", "smax/3m", "--no-cache"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("compiling"):
                break
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said

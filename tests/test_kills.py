"""kill -9 at any moment: nothing is lost but the time since the last checkpoint, and the run ends
as if it had never been killed, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qtot
from qtot.store.checkpoints import Checkpoints
from qtot.training.keeping import newest
from test_resume import params, without_clocks

FLAGS = {
    "env": "probe/memory",
    "seeds": "2",
    "steps": "100000",
    "log-every": "1000",
    "agent.hidden": "8",
    "mixer.embed": "4",
    "replay.capacity": "64",
    "replay.length": "4",
    "replay.warmup": "16",
    "collect.envs": "8",
    "evaluation.every": "5000",
    "evaluation.episodes": "16",
    "evaluation.final-episodes": "16",
    "checkpoint.steps": "1000",
}


def command(out: Path, seed: int) -> list[str]:
    """Begins a run, or goes on with it."""
    start = [sys.executable, "-m", "qtot"]
    if (out / "config.json").exists():
        return [*start, "resume", str(out)]
    flags = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
    return [*start, "train", *flags, "--seed", str(seed), "--out", str(out)]


def begun(out: Path, seed: int, cache: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "QTOT_CACHE": str(cache), "QTOT_TUNE": "1"}
    return subprocess.Popen(
        command(out, seed), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def killed(process: subprocess.Popen[str], rng: random.Random) -> str:
    """At some moment of its start, or of its training; what it had said."""
    assert process.stdout is not None
    said = []
    if rng.random() < 0.2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 6))
    else:
        for line in process.stdout:
            said.append(line)
            if line.startswith("compiled in"):
                break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 2))
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return "".join(said) + rest


def kept(out: Path) -> int:
    """The step of the checkpoint from which the run would go on; the folder reads well."""
    if not (out / "config.json").exists():
        return 0
    run = qtot.load(out)
    steps = [row["env_steps"] for row in run.metrics()]
    assert steps == sorted(steps)
    found, wrong = newest(Checkpoints(out / "checkpoints"), 2)
    assert wrong == []  # a checkpoint is there as a whole, or not at all
    return 0 if found is None else found.step


def survive(folder: Path, seed: int, rng: random.Random, most: int) -> int:
    """Kill a run again and again until it ends, or has been killed ``most`` times; then let it end,
    and compare it with one that was left alone.

    Returns:
        How often it was killed.
    """
    out, cache, before, kills = folder / f"run-{seed}", folder / "cache", 0, 0
    while kills < most and not (out / "result.json").exists():
        process = begun(out, seed, cache)
        said = killed(process, rng)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
        if before and "going on from" in said:
            assert f"going on from step {before:,}" in said
        now = kept(out)
        assert now >= before, said
        before = now
    while not (out / "result.json").exists():
        said, _ = (process := begun(out, seed, cache)).communicate()
        assert process.returncode == 0, said
    run = qtot.load(out)
    alone = begun(folder / f"alone-{seed}", seed, cache)
    said, _ = alone.communicate()
    assert alone.returncode == 0, said
    other = qtot.load(folder / f"alone-{seed}")
    assert without_clocks(run) == without_clocks(other)
    for x, y in zip(params(run), params(other), strict=True):
        np.testing.assert_array_equal(x, y)
    names = {path.name for path in (out / "checkpoints").iterdir()}
    assert all(name.startswith("step-") for name in names), names
    for path in (out, other.path):
        shutil.rmtree(path)
    return kills


def test_a_run_survives_being_killed(tmp_path: Path):
    assert survive(tmp_path, 0, random.Random(0), most=2) > 0


@pytest.mark.soak
def test_runs_survive_hundreds_of_kills(tmp_path: Path, record_property: Any):
    """As many runs as it takes, for at most 40 minutes."""
    rng, kills, seed, began = random.Random(1), 0, 0, time.monotonic()
    while kills < 300 and time.monotonic() - began < 2400:
        seed += 1
        kills += survive(tmp_path, 2 * seed, rng, most=60)
    with (tmp_path.parent / "kills.txt").open("w") as file:
        file.write(f"{kills} kills of {seed} runs\n")
    record_property("kills", kills)
    assert kills >= 200

"""Runs on several devices, and on several hosts, against runs on one."""

from __future__ import annotations

import functools
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qtot
from qtot.errors import QtotError
from qtot.presets import preset_config
from qtot.training.devices import lay_out, logical_shards
from qtot.training.hosts import join
from small import small_config

HERE = Path(__file__).parent
FLOAT = 1e-5  # sums in another order; see tests/on_devices.py


@functools.cache
def on_devices() -> dict[str, Any]:
    """What ``on_devices.py`` found, in a process that has eight devices."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(HERE / "on_devices.py")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


CASES = [("replay", 2, [1, 2]), ("replay", 8, [1, 8]), ("on_policy", 8, [1, 8])]
CASES += [("six_seeds_online", 8, [2, 4])]


@pytest.mark.parametrize(("case", "devices", "mesh"), CASES)
def test_a_run_on_many_devices_is_the_run_on_one(case: str, devices: int, mesh: list[int]):
    """Same environments and samples exactly; parameters after several updates, statistics, sums
    and greedy evaluation to float accuracy.
    """
    one, many = on_devices()[case]["1"], on_devices()[case][str(devices)]
    assert many["mesh"] == mesh and one["mesh"] == [1, 1]
    assert one["updates"] == many["updates"] and min(many["updates"]) >= 3
    assert many["same_play"]
    assert 0.0 < many["params"] < FLOAT  # not the very same program either
    assert many["sums"] < FLOAT and many["greedy"] < FLOAT


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("seeds", [1, 2, 3, 8])
@pytest.mark.parametrize(("envs", "batch"), [(1, 32), (8, 32), (64, 32), (12, 6), (5, 7)])
def test_the_mesh_divides_everything(devices: int, seeds: int, envs: int, batch: int):
    config = small_config(
        "probe/chain", seeds=seeds, collect={"envs": envs}, replay={"batch": batch}
    )
    mesh, shards = lay_out(config, [jax.devices()[0]] * devices)
    by_seed, by_data = mesh.devices.shape
    assert by_seed * by_data <= devices and seeds % by_seed == 0
    assert by_seed == math.gcd(seeds, devices)  # seeds first: they need not talk
    assert shards.pieces == logical_shards(config) and shards.pieces % by_data == 0
    assert envs % shards.pieces == 0 and batch % shards.pieces == 0
    assert (shards.axis is None) == (by_data == 1)


def test_the_default_presets_use_eight_devices():
    for env in ("smax/3m", "mpe/simple_spread", "matrix/two_step", "probe/chain", "lbf/8x8-2p-2f"):
        assert logical_shards(preset_config(env)) == 8, env


HOST = """
import json, sys, qtot
from qtot.training.hosts import join
join(sys.argv[2])
import everything
with everything.registered():
    from qtot.api import train_config
    from small import BUSY, small_config
    changes = json.loads(sys.argv[3])
    if changes.pop("full", False):
        from qtot.store.checkpoints import Checkpoints

        def write(*args, **kwargs):
            raise OSError(28, "No space left on device")

        Checkpoints.write = write
    if "resume" in changes:
        qtot.resume(sys.argv[1], steps=changes["resume"], quiet=True)
        sys.exit()
    config = small_config(everything.NAME, **{**BUSY, "steps": 120, "log_every": 60, **changes})
    train_config(config, sys.argv[1], quiet=True)
"""


def launch(out: Path, hosts: str, devices: int, **changes: Any) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "QTOT_TUNE": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-c", HOST, str(out), hosts, json.dumps(changes)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def finish(*hosts: subprocess.Popen[str]) -> None:
    for host in hosts:
        _, err = host.communicate(timeout=600)
        assert host.returncode == 0, err


def two_hosts(out: Path, **changes: Any) -> None:
    """Two processes of two devices each, one run folder, written by the first."""
    address = f"127.0.0.1:{free_port()}"
    finish(*(launch(out, f"{address},2,{i}", 2, **changes) for i in range(2)))


@pytest.mark.long
def test_two_hosts_train_what_one_would(tmp_path: Path):
    """And go on with it."""
    for changes in ({}, {"resume": 180}):
        two_hosts(tmp_path / "two", **changes)
        finish(launch(tmp_path / "one", f"127.0.0.1:{free_port()},1,0", 1, **changes))
    one, two = qtot.load(tmp_path / "one"), qtot.load(tmp_path / "two")
    assert len(one.metrics()) == len(two.metrics()) == 4
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        for key in set(a) - {"wall_s", "compile_s", "steps_per_s"}:
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-5), key
    for a, b in zip(
        jax.tree.leaves(one.params().online), jax.tree.leaves(two.params().online), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_full_disk_of_the_first_host_stops_no_host(tmp_path: Path):
    """What only the first one finds out keeps no other one waiting."""
    two_hosts(tmp_path / "run", full=True, checkpoint={"steps": 30})
    run = qtot.load(tmp_path / "run")
    assert run.result() and not (run.path / "checkpoints").exists()


def test_agents_without_memory_train_on_two_devices(tmp_path: Path):
    """XLA does not spread arrays that are empty."""
    agent = {"memory": "none"}
    run = launch(tmp_path / "run", f"127.0.0.1:{free_port()},1,0", 2, agent=agent)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 0, err


def test_what_one_host_refuses_stops_all(tmp_path: Path):
    """The folder that only the first process writes holds a run already."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "config.json").write_text("{}")
    address = f"127.0.0.1:{free_port()}"
    hosts = [launch(taken, f"{address},2,{i}", 1) for i in range(2)]
    said = ("already holds a run", "another process could not start; it says why")
    for host, words in zip(hosts, said, strict=True):
        _, err = host.communicate(timeout=120)
        assert host.returncode != 0
        assert words in err


@pytest.mark.parametrize("hosts", ["", "here", "a:1,2", "a:1,2,2", "a,2,0", "a:1,2,0,3"])
def test_hosts_that_make_no_sense_are_refused(hosts: str):
    with pytest.raises(QtotError, match="address:port,processes,index"):
        join(hosts)

"""The settings of the process: what is set, what is respected, what is left alone."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qtot.envs.packages import package_module
from qtot.process import Settings, cores, default_devices

OWN = ("XLA_FLAGS", "QTOT_", "JAX_", "MALLOC_", "GLIBC_TUNABLES")
NOTHING = {"devices": None, "allocator": False, "patience": False, "cache": None}
REPORT = """
import json, os
import jax
from qtot.process import prepare
made = prepare()
print(json.dumps({**made.to_dict(), "line": str(made), "here": jax.local_device_count(),
                  "flags": os.environ.get("XLA_FLAGS", ""), "again": prepare() is made,
                  "folder": jax.config.jax_compilation_cache_dir}))
"""


def python(source: str, cache: Path, **env: str) -> Any:
    """The last line that a fresh process prints, read as JSON; it must say nothing on stderr."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(OWN)}
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**clean, "JAX_PLATFORMS": "cpu", "QTOT_CACHE": str(cache), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_set_by_default(tmp_path: Path):
    got = python(REPORT, tmp_path / "new" / "cache")
    assert got["here"] == got["devices"] == default_devices(cores())
    assert got["folder"] == got["cache"]
    assert Path(got["cache"]).parent == tmp_path / "new" / "cache"
    assert Path(got["cache"]).stat().st_mode & 0o777 == 0o700
    assert got["patience"] == ("terminate_timeout_seconds=1200" in got["flags"])
    assert (got["lost"], got["again"]) == ("", True)
    assert "compiled programs kept in" in got["line"]


def test_a_running_jax_is_left_alone(tmp_path: Path):
    got = python("import jax; jax.devices()\n" + REPORT, tmp_path / "none")
    assert (got["devices"], got["allocator"], got["cache"], got["folder"]) == (
        None,
        False,
        None,
        None,
    )
    assert (got["here"], got["flags"], got["patience"]) == (1, "", False)
    assert got["line"].startswith("untouched, since JAX ran before qtot; lost: a device per core")
    assert not (tmp_path / "none").exists()


def test_it_can_be_switched_off(tmp_path: Path):
    got = python(REPORT, tmp_path, QTOT_TUNE="0", QTOT_CACHE="off")
    assert (got["devices"], got["allocator"], got["patience"], got["cache"]) == (
        None,
        False,
        False,
        None,
    )
    assert (got["here"], got["flags"]) == (1, "")
    assert got["line"] == "not tuned, as asked · no compiled programs kept, as asked"


def test_what_the_user_has_set_stays(tmp_path: Path):
    mine = "--xla_force_host_platform_device_count=3"
    late = "xla_cpu_collective_call_terminate_timeout_seconds"
    folder = str(tmp_path / "mine")
    got = python(
        REPORT,
        tmp_path,
        XLA_FLAGS=f"{mine} --{late}=99",
        JAX_COMPILATION_CACHE_DIR=folder,
        MALLOC_ARENA_MAX="2",
    )
    assert (got["here"], got["devices"], got["allocator"]) == (3, None, False)
    assert got["flags"].startswith(f"{mine} --{late}=99")
    assert got["flags"].count(late) == 1
    assert got["folder"] == got["cache"] == folder
    assert python(REPORT, tmp_path, JAX_NUM_CPU_DEVICES="3")["here"] == 3


def test_the_api_makes_the_settings_and_importing_the_package_does_not_import_jax(tmp_path: Path):
    source = """
import json, sys
import qtot, qtot.process
before = "jax" in sys.modules
qtot.train
import jax
print(json.dumps([before, jax.local_device_count(), qtot.process.prepare().devices]))
"""
    assert python(source, tmp_path) == [False, default_devices(cores()), default_devices(cores())]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")
def test_freed_memory_is_not_paid_for_again(tmp_path: Path):
    source = """
import json, resource
from qtot.process import prepare
made = prepare()
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(json.dumps([made.allocator, sum(faults() for _ in range(4)) < first]))
"""
    assert python(source, tmp_path) == [True, True]
    assert python(source, tmp_path, QTOT_TUNE="0") == [False, False]


def test_a_folder_that_cannot_be_made_costs_a_word_only(tmp_path: Path):
    (tmp_path / "file").write_text("")
    got = python(REPORT, tmp_path / "file" / "cache")
    assert (got["cache"], got["folder"], got["here"]) == (None, None, default_devices(cores()))
    assert got["line"].count("compiled programs are not kept: ") == 1


def test_devices_divide_the_shards():
    assert [default_devices(n) for n in (1, 2, 3, 4, 6, 8, 12, 64)] == [1, 2, 2, 4, 4, 8, 8, 8]
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_the_header_says_one_line():
    made = Settings(devices=2, allocator=True, cache=str(Path.home() / ".cache" / "qtot"))
    assert str(made) == (
        "2 CPU devices · freed memory kept · compiled programs kept in ~/.cache/qtot"
    )


def test_of_a_package_only_the_module_asked_for_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "slowpack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from slowpack.inner import wanted\nGATHERED = wanted.X\n")
    (package / "inner" / "__init__.py").write_text("from . import wanted, other\n")
    (package / "inner" / "wanted.py").write_text("X = object()\n")
    (package / "inner" / "other.py").write_text("Y = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = package_module("slowpack.inner.wanted", "slowpack")
    assert "slowpack.inner.other" not in sys.modules
    import slowpack  # pyright: ignore[reportMissingImports]

    assert slowpack.GATHERED is wanted.X
    assert slowpack.inner.wanted is wanted
    assert slowpack.inner.other.Y == 1
    assert type(slowpack) is type(sys)
    with pytest.raises(AttributeError, match="nothing"):
        _ = slowpack.nothing
    for name in [name for name in sys.modules if name.startswith("slowpack")]:
        monkeypatch.delitem(sys.modules, name)

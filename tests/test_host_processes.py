"""Worker processes: how they may be started, and that nothing is left of them."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import faulty_hosts as faults
import qtot
from faulty_hosts import Planned, Strict
from host_oracle import gather, gatherer_of, noise_for, played

HERE = Path(__file__).parent
SRC = Path(qtot.__file__).parent.parent
SECONDS = 15.0
"""within which what should be gone must be, on a busy machine"""


def lives(pid: int) -> bool:
    """Also of a process whose parent has not heard yet that it ended: no."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def group_of(leaders: Sequence[int]) -> list[str]:
    """Names of the processes that live in the groups of these, themselves included."""
    names = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            state, _, group = rest.split()[:3]
            names += [name] * (state != "Z" and int(group) in leaders)
    return names


def soon(fine: Callable[[], bool]) -> bool:
    end = time.monotonic() + SECONDS
    while not fine() and time.monotonic() < end:
        time.sleep(0.02)
    return fine()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SRC), **more}


@pytest.mark.parametrize(
    ("mode", "signum"),
    [
        ("stepping", signal.SIGKILL),
        ("stepping", signal.SIGTERM),
        ("stepping", signal.SIGINT),
        ("stepping", None),
        ("sleeping", signal.SIGKILL),
        ("in C", signal.SIGKILL),
        ("in C", signal.SIGINT),
        ("starting", signal.SIGKILL),
        ("parents", signal.SIGKILL),
        ("parents", signal.SIGTERM),
        ("parents", None),
        pytest.param("starting", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("spinning", signal.SIGKILL, marks=pytest.mark.long),
        pytest.param("spinning", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_no_worker_outlives_its_parent(mode: str, signum: Any, tmp_path: Path):
    """Nor does what its environments have started."""
    shm = set(Path("/dev/shm").glob("*qtot*"))
    with subprocess.Popen(
        [sys.executable, str(HERE / "host_script.py"), mode, "0" if signum is None else "600"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert parent.stdout.readline() == "stepping\n"
        assert len(workers) == 2
        if signum is not None:
            assert all(lives(pid) for pid in workers)
            assert group_of(workers).count("sleep") == (4 if mode == "parents" else 0)
            time.sleep(0.1)
            os.killpg(parent.pid, signum)
        parent.wait(SECONDS)
    assert soon(lambda: not group_of(workers)), group_of(workers)
    assert list(tmp_path.iterdir()) == []
    assert not set(Path("/dev/shm").glob("*qtot*")) - shm


def test_what_an_environment_started_goes_with_its_worker(capfd: pytest.CaptureFixture[str]):
    make = partial(Planned, {}, {"length": 9, "at": 2, "fault": faults.child})
    gatherer = gatherer_of(make, envs=1, slots=3, workers=1)
    gather(gatherer, noise_for(gatherer)[0])
    children = [int(line.split()[1]) for line in capfd.readouterr().out.splitlines()]
    gatherer.pool.close()
    assert children and soon(lambda: not any(lives(pid) for pid in children))


def held() -> tuple[int, int, int]:
    """Open files, children and, in MiB, memory of this process."""
    gc.collect()
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return len(list(Path("/proc/self/fd").iterdir())), len(children), memory


def replaced(times: int) -> None:
    make = partial(Planned, {}, {"length": 2, "at": 1, "fault": faults.leave})
    gatherer = gatherer_of(make, envs=1, slots=1, workers=1)
    sizes = []
    for i in range(times + 1):
        gather(gatherer, noise_for(gatherer)[0])
        assert len(gatherer.pool.failures) == 1
        gatherer.pool.failures.clear()
        if i:
            sizes.append(held())
    gatherer.pool.close()
    assert {size[:2] for size in sizes} == {sizes[0][:2]}
    assert sizes[-1][2] - sizes[len(sizes) // 4][2] <= 2


def test_replaced_workers_leave_nothing():
    before = held()[:2]
    replaced(3)
    assert held()[:2] == before


@pytest.mark.long
def test_many_replaced_workers_leave_nothing():
    replaced(200)


@pytest.mark.long
def test_memory_does_not_grow_with_steps():
    """As many transitions as hours of a slow environment."""
    gatherer = gatherer_of(Strict, envs=8, slots=25, workers=2, groups=2)
    noise, sizes = noise_for(gatherer)[0], []
    for _ in range(1_000):
        gather(gatherer, noise)
        sizes.append(held())
    gatherer.pool.close()
    assert len({size[:2] for size in sizes}) == 1
    assert sizes[-1][2] - sizes[100][2] <= 2


BODY = """
import os, sys
from pathlib import Path
import numpy as np
from faulty_hosts import SPEC, Strict
from qtot.envs.host.base import Stepped

with open(os.environ["MARKER"], "a") as marker:
    marker.write("once\\n")

class Telling(Strict):
    '''Its info says whether its process has imported what it must not.'''
    def step(self, actions):
        got = super().step(actions)
        main = sys.modules["__main__"]
        strange = "jax" in sys.modules or "pytest" in sys.modules or hasattr(main, "Telling")
        return got._replace(reward=1.0, info={"won": float(strange), "luck": float(EXTRA)})

EXTRA = 3
def at(make, workers=2):
    from host_oracle import played
    made = played(make, envs=2, slots=20, rollouts=1, workers=workers, failures=3)
    tally = made.rollouts[0].tally
    found = [float(v.sum() / tally.episodes.sum()) for v in tally.info.values()]
    assert not made.failures, made.failures
    assert found == [0.0, EXTRA] or not workers, found
"""
WAYS = """
at(Telling)
at(lambda: Telling())
def closure():
    own = Telling
    def make():
        return own()
    return make
at(closure())
import threading
told = []
thread = threading.Thread(target=lambda: told.append(at(Telling)))
thread.start(); thread.join()
assert told == [None]
"""
MOVED = """
from here import Here
sys.path.append(Path("no string"))
sys.path.append("elsewhere")
os.chdir(os.environ["MOVED"])
at(Here)
"""


def script(tmp_path: Path, source: str, how: str) -> None:
    """Runs it; as a file, in a folder with modules that are called as some of Python's own."""
    (tmp_path / "moved").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "signal.py").write_text("raise RuntimeError('the wrong one')\n")
    (tmp_path / "elsewhere" / "json.py").write_text("raise RuntimeError('the wrong one')\n")
    (tmp_path / "here.py").write_text(
        "from faulty_hosts import Strict\nclass Here(Strict):\n    def step(self, actions):\n"
        "        return super().step(actions)._replace(info={'won': 0.0, 'luck': 3.0})\n"
    )
    (tmp_path / "script.py").write_text(source)
    (tmp_path / "marker").write_text("")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py") if how == "file" else "-"],
        cwd=tmp_path / "elsewhere" if how == "file" else tmp_path,
        env=environment(
            PYTHONPATH=os.pathsep.join((str(SRC), str(HERE))),
            MARKER=str(tmp_path / "marker"),
            MOVED=str(tmp_path / "moved"),
        ),
        input=source if how == "stdin" else "",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "marker").read_text() == "once\n"


def test_from_a_script_without_a_main_guard(tmp_path: Path):
    script(tmp_path, BODY + WAYS, "file")


def test_from_stdin_and_from_a_module_of_a_folder_that_was_left(tmp_path: Path):
    script(tmp_path, BODY + "at(Telling)\n" + MOVED, "stdin")


def test_from_cells_of_a_notebook(tmp_path: Path):
    cells = [BODY, "at(Telling)", "EXTRA = 4", "at(lambda: Telling(), workers=1)"]
    source = f"import __main__\nfor cell in {cells!r}:\n    exec(cell, __main__.__dict__)\n"
    script(tmp_path, source, "stdin")


def test_workers_go_on_when_the_thread_that_started_them_ends():
    made: list[Any] = []

    def begin() -> None:
        made.append(gatherer_of(Strict, envs=2, slots=30, workers=2))
        gather(made[0], noise_for(made[0])[0])

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    for noise in noise_for(made[0], 2):
        gather(made[0], noise)
    made[0].pool.close()
    assert not made[0].pool.failures


def test_a_worker_says_what_it_imports():
    """Neither JAX nor this module, whatever imports them here."""
    names = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import qtot.envs.host.worker; {names}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(json.loads(done.stdout))
    assert not modules & {"jax", "jaxtyping", "gymnasium", "pettingzoo", "cloudpickle", "asyncio"}


def test_closing_twice_is_fine():
    gatherer = gatherer_of(Strict, envs=1, slots=1, workers=1)
    for _ in range(2):
        gatherer.pool.close()
    assert not played(Strict, envs=1, slots=1, workers=0, rollouts=1).failures

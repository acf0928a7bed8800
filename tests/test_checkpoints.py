"""Checkpoints are there as a whole, or not at all; one process writes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtot.errors import QtotError
from qtot.store.arrays import read_arrays, write_arrays
from qtot.store.checkpoints import Checkpoints
from qtot.store.lock import only_writer
from qtot.store.seal import MANIFEST, broken, seal
from qtot.training.keeping import on_host

TREE = {
    "net": [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(1.5, jnp.bfloat16)],
    "flags": np.array([True, False]),
    "none": np.zeros((3, 0), np.float32),
    "number": np.array(-7, np.int32),
    "bits": np.array([1, 255], np.uint8),
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def test_arrays_come_back_bit_for_bit(tmp_path: Path):
    write_arrays(tmp_path / "x", TREE)
    back = read_arrays(tmp_path / "x", shapes(TREE))
    assert shapes(back) == shapes(TREE)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        assert x.tobytes() == y.tobytes()


def test_a_copy_on_the_host_outlives_what_was_given_away():
    state = jnp.arange(1000.0)
    copy = on_host(state)
    jax.block_until_ready(jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(state))
    np.testing.assert_array_equal(copy, np.arange(1000.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"net": [np.zeros((3, 2), np.float32), TREE["net"][1]]},
            r"net\.0.* should be float32\[3, 2\], got",
        ),
        ({"flags": np.zeros(2, np.float32)}, r"flags.* should be float32\[2\], got bool"),
        ({"more": np.zeros(2)}, "lacks the array 'more'"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: dict, said: str):
    """Orbax by itself cuts or pads them in silence."""
    write_arrays(tmp_path / "x", TREE)
    with pytest.raises(QtotError, match=said):
        read_arrays(tmp_path / "x", shapes({**TREE, **change}))
    fewer = {name: TREE[name] for name in ("net", "flags")}
    with pytest.raises(QtotError, match="that this run has not"):
        read_arrays(tmp_path / "x", shapes(fewer))


def sealed(folder: Path) -> Path:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "a").write_bytes(bytes(range(256)) * 3)
    (folder / "b.json").write_text('{"step": 3}')
    (folder / "empty").write_bytes(b"")
    seal(folder)
    return folder


def test_what_was_sealed_is_whole(tmp_path: Path):
    assert broken(sealed(tmp_path / "x")) is None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path_factory, data):
    """Orbax notices cuts alone."""
    folder = sealed(tmp_path_factory.mktemp("seal") / "x")
    name = data.draw(st.sampled_from(["deep/er/a", "b.json", MANIFEST]))
    path, content = folder / name, bytearray((folder / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    before = path.read_bytes()
    path.write_bytes(content)
    if name == MANIFEST:  # white space may change; what it says may not
        same = False
        with contextlib.suppress(ValueError):
            same = json.loads(bytes(content)) == json.loads(before)
        assert (broken(folder) is None) == same
    else:
        assert broken(folder)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "b.json").unlink(), "b.json is missing"),
        (lambda f: (f / "more").touch(), "more is not in its manifest"),
        (lambda f: (f / MANIFEST).unlink(), "never finished"),
        (lambda f: (f / MANIFEST).write_text("[]"), "damaged"),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), "damaged"),
        (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), "damaged"),
        (lambda f: (f / MANIFEST).write_text('{"schema": 2, "files": {}}'), "schema 2"),
        (lambda f: (f / MANIFEST).write_text('{"schema": 1, "files": {"b.json": 3}}'), "damaged"),
        (lambda f: (f / "link").symlink_to("/etc/hostname"), "link is no plain file"),
        (lambda f: os.mkfifo(f / "pipe"), "pipe is no plain file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, harm, said: str):
    folder = sealed(tmp_path / "x")
    harm(folder)
    assert said in str(broken(folder))


def filler(text: str):
    return lambda folder: (folder / "file").write_text(text)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_the_last_ones_and_the_best_stay(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.all() == []
    for step in (1, 2, 3, 4, 5):
        checkpoints.write(step, filler(str(step)), best=False, keep=2)
        if step in (1, 3):
            checkpoints.write(step, filler("best"), best=True, keep=2)
    assert names(checkpoints) == [
        "step-000000000003-best",
        "step-000000000004",
        "step-000000000005",
    ]
    assert [found.step for found, wrong in checkpoints.whole() if wrong is None] == [5, 4, 3]
    checkpoints.write(5, filler("again"), best=False, keep=2)  # as after a resume
    assert (checkpoints.folder / "step-000000000005" / "file").read_text() == "again"


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, filler("one"), best=False, keep=1)

    def full(folder: Path) -> None:
        (folder / "file").write_text("two")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.write(2, full, best=False, keep=1)
    assert names(checkpoints) == ["step-000000000001"]
    assert broken(checkpoints.all()[0].path) is None


WRITER = """
import sys
from pathlib import Path
from qtot.store.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.tidy(10**12)
step = max([found.step for found in checkpoints.all()], default=0)
def fill(folder):
    for i in range(20):
        (folder / str(i)).write_bytes(bytes([step % 256]) * 20_000)
while True:
    step += 1
    checkpoints.write(step, fill, best=step % 3 == 0, keep=2)
    print(step, flush=True)
"""


def kills(folder: Path, count: int) -> None:
    """Kill a writer at random moments; what was said to be written must be there, whole."""
    rng = random.Random(0)
    for _ in range(count):
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = int(process.stdout.readline())
            time.sleep(rng.random() * 0.05)
            process.kill()
            said = max([said, *(int(line) for line in process.stdout.read().splitlines())])
        checkpoints = Checkpoints(folder)
        found = list(checkpoints.whole())
        assert [wrong for _, wrong in found] == [None] * len(found)
        assert max(one.step for one, _ in found) >= said
        assert len(found) <= 5
    Checkpoints(folder).tidy(10**12)
    assert all(name.startswith("step-") for name in names(Checkpoints(folder)))


def test_a_killed_writer_leaves_whole_checkpoints(tmp_path: Path):
    kills(tmp_path, 5)


@pytest.mark.long
def test_hundreds_of_killed_writers_leave_whole_checkpoints(tmp_path: Path):
    kills(tmp_path, 300)


HOLDER = """
import sys, time
from pathlib import Path
from qtot.store.lock import only_writer
with only_writer(Path(sys.argv[1]) / "lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(QtotError, match=f"being written by process {other.pid} on "),
            only_writer(tmp_path / "lock"),
        ):
            pass
        other.kill()  # its lock goes with it
        other.wait()
    with only_writer(tmp_path / "lock"):
        pass

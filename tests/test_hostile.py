"""A run folder may hold anything: it is read, or refused with words; never a crash, a hang, or code
that runs.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import pytest

import qtot
from qtot.api import train_config
from qtot.envs import jax_env
from qtot.errors import QtotError
from qtot.store.run_folder import RunFolder
from qtot.store.seal import MANIFEST, seal
from qtot.training.ingraph import Program
from qtot.training.keeping import newest
from qtot.training.launch import resume_training
from qtot.training.loop import Training
from small import small_config

# What Orbax leaves of an event loop when it fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PATIENCE = 60
"""seconds after which a reader hangs"""
WEIRD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan")),
    *(float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "\0", "a" * 5_000, "é\ud800"),
    *([], {}, [[]], [None], {"a": 1}, [1, "a", None], "trojan:make", "pettingzoo/trojan"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qtot.Run:
    config = small_config("probe/coordination", steps=300, seeds=2)
    return train_config(config, tmp_path_factory.mktemp("hostile") / "run", quiet=True)


@contextmanager
def patient() -> Iterator[None]:
    """What takes longer fails."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"a reader hangs: {frame}")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all that is in a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    made = copy.copy(value)
    made[at[0]] = put(value[at[0]], at[1:], new)
    return made


def other_json(text: str, rng: random.Random) -> str:
    """One value replaced, one key renamed, one entry taken out, or all of it nested."""
    value = json.loads(text)
    at = rng.choice(list(places(value)))
    kind = rng.randrange(4)
    if kind == 1 and at:
        parent = value
        for key in at[:-1]:
            parent = parent[key]
        del parent[at[-1]]
        return json.dumps(value)
    if kind == 2:
        return text.replace(rng.choice(text.split('"')), rng.choice(["", "x", "__class__"]), 1)
    if kind == 3 and rng.random() < 0.2:
        return "[" * 200_000 + "]" * 200_000
    if kind == 3:
        digits = [i for i, c in enumerate(text) if c.isdigit()]
        i = rng.choice(digits)
        return text[:i] + rng.choice(["9" * 30, "-", "e9", "1e999", "."]) + text[i + 1 :]
    return json.dumps(put(value, at, rng.choice(WEIRD)))


def other_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled, or filled up."""
    changed, kind = bytearray(data), rng.randrange(5)
    i = rng.randrange(len(data) + 1)
    j = min(len(data), i + rng.randrange(1, 100))
    if kind == 0 and i < len(data):
        changed[i] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[i:]
    elif kind == 2:
        changed[i:i] = changed[i:j]
    elif kind == 3:
        changed[i:j] = rng.randbytes(j - i)
    else:
        changed[i:j] = rng.choice([b"\0" * 1_000, b"9" * 50, b"\n", b"\xff\xfe", b"[" * 3_000])
    return bytes(changed)


def harm(folder: Path, rng: random.Random) -> str:
    """Changes one file; says which."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    readable = [path for path in files if path.suffix in (".json", ".jsonl", ".npz")]
    path = rng.choice(files if rng.random() < 0.3 else readable)
    data = path.read_bytes()
    changed = other_bytes(data, rng)
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        with contextlib.suppress(ValueError, IndexError, RecursionError):  # harmed before
            lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
            i = rng.randrange(len(lines))
            lines[i] = other_json(lines[i], rng)
            changed = "\n".join(lines).encode(errors="surrogatepass")
    path.write_bytes(changed)
    inside = next((p for p in path.parents if p.parent.name == "checkpoints"), None)
    if inside is not None and path.name != MANIFEST and rng.random() < 0.7:
        (inside / MANIFEST).unlink()
        seal(inside)  # by someone who knows how
    return path.relative_to(folder).as_posix()


def tries(run: qtot.Run, folder: Path, many: int, use: Callable[[Path], None], seed: int) -> int:
    """Uses of folders that were harmed, and how many of them were refused."""
    rng, refused = random.Random(seed), 0
    for number in range(many):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run.path, folder)
        what = [harm(folder, rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        try:
            with patient():
                use(folder)
        except QtotError as error:
            refused += 1
            assert str(error), what
        except BaseException as error:
            error.add_note(f"try {number} of seed {seed}: {what} in {folder}")
            raise
    return refused


def reader(run: qtot.Run) -> Callable[[Path], None]:
    """All readers of a run folder, one after another."""
    program = Program.make(jax_env(run.config.env), run.config)
    fresh = jax.jit(program.init)(run.config.seed)

    def read(path: Path) -> None:
        def attempt(f: Callable[[], Any]) -> Any:
            try:
                return f()
            except QtotError as error:
                errors.append(error)
                return None

        errors = list[QtotError]()
        folder = RunFolder.open(path)
        found = attempt(lambda: newest(folder.checkpoints, run.config.seeds))
        if found is not None and found[0] is not None:
            attempt(lambda: found[0].state(fresh))
        loaded = qtot.load(path)
        for f in (loaded.metrics, loaded.result, loaded.params, lambda: repr(loaded)):
            attempt(f)
        attempt(lambda: loaded.agent(loaded.spec.agents[0]))
        attempt(lambda: loaded.world_of(None))
        if errors:
            raise errors[0]

    return read


def resumer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """``qtot resume`` up to the first step."""

    def begun(self: Training) -> None:
        if self.resumed is not None:
            init = jax.jit(self.engine.program.init)
            self.resumed.state(init(self.config.seed))
        self.display.closing(self.rows, "x") if self.rows and "eval/episodes" in self.rows[0] else 0

    monkeypatch.setattr(Training, "run", begun)
    return lambda path: (resume_training(RunFolder.open(path), steps=400), None)[1]


def test_what_was_harmed_is_read_or_refused(run: qtot.Run, tmp_path: Path):
    refused = tries(run, tmp_path / "run", 100, reader(run), seed=0)
    assert 20 < refused < 100  # much harm is seen, and not all of it matters


def test_what_was_harmed_is_gone_on_with_or_refused(
    run: qtot.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (run.path / "result.json").unlink(missing_ok=True)
    assert 1 < tries(run, tmp_path / "run", 10, resumer(monkeypatch), seed=0) < 10


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 20))
def test_thousands_of_harmed_folders_are_read_or_refused(run: qtot.Run, tmp_path: Path, seed: int):
    refused = tries(run, tmp_path / "run", 500, reader(run), seed)
    assert 100 < refused < 500


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 14))
def test_hundreds_of_harmed_folders_are_gone_on_with_or_refused(
    run: qtot.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    tries(run, tmp_path / "run", 100, resumer(monkeypatch), seed)


def test_parameters_that_would_unpack_to_terabytes_are_refused_unread(
    run: qtot.Run, tmp_path: Path
):
    import zipfile

    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    path = out / "params" / "seed-0" / "last.npz"
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    with pytest.raises(QtotError, match="is compressed, as qtot never writes one"):
        qtot.load(out).params()


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "result.json", "params/seed-0/last.npz", MANIFEST]
)
def test_a_pipe_is_no_file(run: qtot.Run, tmp_path: Path, name: str):
    """Reading it would wait for ever."""
    import os

    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    path = next((out / "checkpoints").iterdir()) / name if name == MANIFEST else out / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with patient(), pytest.raises(QtotError, match=r"no plain file|is not a run folder"):
        loaded = qtot.load(out)
        loaded.metrics()
        loaded.result()
        loaded.params()
        wrong = [said for _, said in RunFolder(out).checkpoints.whole() if said]
        raise QtotError(str(wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": [None, None]},
        {"best": [3]},
        {"best": [{"seed": 0, "env_steps": 1, "updates": 1}]},
        {"wall_s": 10**400},
        {"wall_s": float("nan")},
        {"step": True},
        {"counts": {"env_failures": "x"}},
        {"episodes": []},
        {"more": 1},
    ],
)
def test_a_record_that_cannot_be_is_left_out(run: qtot.Run, tmp_path: Path, wrong: Any):
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    for found in RunFolder(out).checkpoints.all():
        path = found.path / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
        (found.path / MANIFEST).unlink()
        seal(found.path)
    with pytest.raises(QtotError, match=r"its run\.json is damaged"):
        newest(RunFolder(out).checkpoints, 2)


def test_no_cluster_is_joined_on_a_run_folders_word(run: qtot.Run, tmp_path: Path):
    """What it sends is unpickled."""
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    facts = json.loads((out / "config.json").read_text())
    facts["config"] |= {"collectors": "ray", "ray_address": "attacker:6379"}
    (out / "config.json").write_text(json.dumps(facts))
    with pytest.raises(QtotError, match="'attacker:6379', which is joined again only if you trust"):
        qtot.resume(out, steps=400)


def test_links_in_a_circle_lead_nowhere(run: qtot.Run, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    (out / "metrics.jsonl").unlink()
    (out / "metrics.jsonl").symlink_to(out / "metrics.jsonl")
    with pytest.raises(QtotError, match="leads nowhere"):
        qtot.load(out).metrics()

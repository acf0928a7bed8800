"""Compiled programs on disk: found again, damaged, full, shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qtot import cache
from qtot.cache import Store, open_folder
from qtot.envs import make_env
from qtot.evaluation.playing import by_name
from qtot.presets import preset_config
from qtot.training.ingraph import make_learner


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.program"))


def test_what_is_put_comes_back(tmp_path: Path):
    store = Store(tmp_path)
    assert store.get("a") is None
    store.put("a", b"one")
    store.put("a", b"two")  # the newer one may be whole where the older was not
    assert (store.get("a"), Store(tmp_path).get("a")) == (b"two", b"two")


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_removed(tmp_path: Path, damage: bytes | None):
    store = Store(tmp_path)
    store.put("a", bytes(1000))
    (file,) = entries(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:500] + b"!" + whole[501:] if damage is None else damage)
    assert store.get("a") is None
    assert entries(tmp_path) == []


def test_the_least_recently_used_go_first(tmp_path: Path):
    store = Store(tmp_path, limit=350)
    for i, key in enumerate("abc"):
        store.put(key, bytes(68))  # and 32 of digest
        os.utime(entries(tmp_path)[i], (i, i))
    assert store.get("a") is not None
    store.put("d", bytes(68))
    assert [file.stem for file in entries(tmp_path)] == ["a", "c", "d"]
    store.put("e", bytes(400))
    assert [file.stem for file in entries(tmp_path)] == ["a", "c", "d"]


def test_leftovers_of_killed_writers_go(tmp_path: Path):
    (tmp_path / "old.part").write_bytes(b"half")
    (tmp_path / "new.part").write_bytes(b"half")
    os.utime(tmp_path / "old.part", (0, 0))
    Store(tmp_path).put("a", b"one")
    assert {file.name for file in tmp_path.iterdir()} == {"a.program", "new.part"}


def test_a_folder_that_vanished_is_said_once(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    store = Store(tmp_path / "gone")
    with pytest.warns(UserWarning, match="compiled programs are not kept"):
        store.put("a", b"one")
    store.put("b", b"two")
    assert len(recwarn) == 0
    assert store.get("a") is None


def test_many_at_once(tmp_path: Path):
    store = Store(tmp_path, limit=5_000)

    def work(i: int) -> bool:
        key, value = f"k{i % 7}", bytes([i % 7]) * 1000
        store.put(key, value)
        return store.get(key) in (None, value)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert sum(file.stat().st_size for file in entries(tmp_path)) <= 5_000


def test_folders_nobody_opened_for_long_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QTOT_CACHE", str(tmp_path))
    old, recent = (tmp_path / f"jax0.{i}-jaxlib0.{i}-0123456789ab" for i in (1, 2))
    users = tmp_path / "photographs"  # QTOT_CACHE names a folder that is not ours alone
    for other, days in ((old, cache.UNUSED_DAYS + 1), (recent, 1), (users, 10_000)):
        other.mkdir()
        os.utime(other, (0, time.time() - days * 86_400))
    current = open_folder({"jax": "0.3", "jaxlib": "0.3"})
    assert set(tmp_path.iterdir()) == {recent, users, current}
    assert current.name == f"jax0.3-jaxlib0.3-{cache.fingerprint()}"
    monkeypatch.delenv("QTOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.home() == Path("/x/qtot/programs")


PROGRAM = """
import json
import jax, jax.numpy as jnp
from qtot.process import prepare
prepare()
loaded = []
jax.monitoring.register_event_listener(
    lambda name, **_: loaded.append(name) if name.endswith("cache_hits") else None)
@jax.jit
def f(x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, None, length=5)[0].sum()
print(json.dumps([float(f(jnp.full((8, 8), 0.1))), len(loaded)]))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "QTOT_"))}
    env |= {"QTOT_CACHE": str(folder), "JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdout=pipe, stderr=pipe, text=True
    )


def answer(process: subprocess.Popen[str]) -> tuple[float, int]:
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    value, hits = json.loads(out)
    return value, hits


def test_the_next_process_compiles_nothing_and_a_damaged_folder_is_mended(tmp_path: Path):
    both = [start(tmp_path), start(tmp_path)]  # two processes fill one folder
    (value, hits), (same, others) = map(answer, both)
    kept = entries(tmp_path)
    assert same == value
    assert min(hits, others) < len(kept)  # someone compiled
    assert answer(start(tmp_path)) == (value, len(kept))
    for i, file in enumerate(kept):
        whole = file.read_bytes()
        file.write_bytes((whole[: len(whole) // 2], b"", b"\0" * len(whole))[i % 3])
    assert answer(start(tmp_path)) == (value, 0)
    assert answer(start(tmp_path)) == (value, len(kept))


def test_evaluating_again_is_the_same_program():
    config = preset_config("probe/chain")
    learners = [make_learner(make_env(config.env).spec, config) for _ in range(2)]
    first, second = (by_name(config.env, learner, 8) for learner in learners)
    assert first is second
    assert first is not by_name(config.env, learners[0], 9)

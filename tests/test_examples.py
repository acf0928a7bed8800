"""The examples, run as a reader runs them, and by name through the command."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from command import run
from extras import needs
from qtot.shipping import export_run
from small import small_config
from untrained import MEMORY, untrained

ROOT = Path(__file__).parent.parent
ALONE = [sys.executable, "-c", "import sys; from qtot.cli import main; sys.exit(main())"]
GOOD = 0.97  # of 1; at random .3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, to run in."""
    return Path(shutil.copytree(ROOT / "examples", tmp_path_factory.mktemp("user") / "examples"))


def ran(args: list[str], folder: Path) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        args,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs("pettingzoo")
@pytest.mark.parametrize("name", ["own_env", "own_jax_env"])
def test_the_example_learns(name: str, folder: Path):
    """Both seeds, in the evaluation that the example itself prints."""
    said = ran([sys.executable, f"{name}.py"], folder)
    assert "no problems found" in said
    returns = [float(x) for x in re.findall(r"seed \d: return ([\d.]+) of 1", said)]
    assert len(returns) == 2
    assert min(returns) >= GOOD, said
    if name == "own_env":
        assert re.search(r"it moves by -?[01]\n$", said)


@needs("pettingzoo")
def test_by_name_through_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trained and evaluated by name; code of one's own is imported only if it is named again."""
    short = "--steps 300 --evaluation.final-episodes 8 --evaluation.episodes 8 --host.workers 1"
    said = ran([*ALONE, *f"train --env own_env:make {short} --out run".split()], folder)
    assert "own_env:make · 2 agents, PettingZoo" in said
    assert "qtot eval run --env own_env:make" in said
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    # The twin has the same sizes, so the same policy plays there, too.
    for env in ("own_env:make", "own_jax_env:make"):
        got = run(f"eval run --episodes 8 --env {env}")
        assert got.code == 0, got.err
        assert "greedy policy, 8 episodes" in got.out
    for args, expected in (
        ("", "whose code is imported only if you name it again, with --env"),
        ("--env own_envs:make", "did you mean 'own_env'?"),
        ("--env matrix/two_step", "environment matrix/two_step has obs_size 3, but run run was"),
    ):
        got = run(f"eval run {args}")
        assert (got.code, got.err.count("\n")) == (2, 1)
        assert expected in got.err


@needs("pettingzoo")
def test_both_twins_have_the_same_rules():
    """The same actions from the same start: the same observations, rewards and ends."""
    ours, twin = loaded("own_env"), loaded("own_jax_env")
    assert (ours.CELLS, ours.LIMIT) == (twin.CELLS, twin.LIMIT)
    env, jaxed = ours.make(), twin.make()
    assert tuple(env.possible_agents) == jaxed.spec.agents
    step, observe = jax.jit(jaxed.step), jax.jit(jaxed.observe)
    rng, ends = np.random.default_rng(0), set()
    for episode in range(60):
        seen, _ = env.reset(seed=episode)
        state = twin.State(jnp.array(env.robots), jnp.array(env.flags), jnp.int32(0))
        while True:
            shown = observe(state)
            assert shown.obs.tolist() == [seen[agent].tolist() for agent in env.possible_agents]
            assert shown.state.tolist() == shown.obs.reshape(-1).tolist()
            if not env.agents:
                break
            actions = rng.integers(3, size=2)
            seen, rewards, won, late, _ = env.step(
                dict(zip(env.possible_agents, actions.tolist(), strict=True))
            )
            state, result = step(jax.random.key(0), state, jnp.array(actions))
            for agent in env.possible_agents:
                assert 2 * rewards[agent] == result.reward
                assert won[agent] == result.terminated
                assert late[agent] == result.truncated
            ends.add((bool(result.terminated), bool(result.truncated)))
    assert ends == {(False, False), (True, False), (False, True)}


@needs("onnxruntime")
def test_a_robot_runs_what_was_exported(tmp_path: Path):
    """The loop, with the runtime's imports alone."""
    config = small_config("predator_prey/5x5-3v1-p2-t30", **MEMORY)
    export_run(untrained(tmp_path / "run", config), tmp_path / "policies")
    shown = ran(
        [sys.executable, str(ROOT / "examples" / "robot.py"), "policies", "agent_1"], tmp_path
    )
    lines = shown.splitlines()
    assert len(lines) == 21
    assert all(re.fullmatch(r"\d (right|down|left|up|stay|catch)", line) for line in lines[:-1])
    assert lines[-1].startswith("slowest decision: ")

"""``qtot.deploy``: a small API on what was exported, without JAX; garbage is refused with words."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qtot
from extras import package
from qtot import deploy
from qtot.config import nested_replace
from qtot.deploy.acting import Alone, Memory, Place
from qtot.errors import QtotError
from qtot.shipping import export_run
from small import small_config
from test_hostile import other_bytes, other_json, patient
from untrained import MEMORY, untrained

onnx = package("onnx", "onnx")
package("onnxruntime", "onnx")

ROOT = Path(__file__).parents[1]
HUNT = "predator_prey/5x5-3v1-p2-t30"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qtot.Run:
    config = nested_replace(small_config(HUNT, **MEMORY), {"agent": {"cnn": (2,)}})
    return untrained(tmp_path_factory.mktemp("deploy") / "run", config)


@pytest.fixture(scope="module")
def folder(run: qtot.Run) -> Path:
    out = run.path.parent / "out"
    export_run(run, out)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# Acting ---------------------------------------------------------------------------------------


class Fixed(Alone):
    """Values are the first features."""

    def _values(self, obs: np.ndarray, memory: Memory) -> tuple[np.ndarray, Any]:
        self.seen = obs
        return obs[: self.n_actions], memory.hidden


def test_observations_come_in_every_form_of_training():
    image = Place("a", 0, 3, 12, (2, 3, 2), ("",))
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    agent = Fixed(image, 0)
    want = np.arange(12, dtype=np.float32) / np.float32(255)
    for obs in (pixels, pixels.reshape(-1), pixels.astype(float) * (1 / 255), pixels.tolist()):
        agent.act(obs, None, agent.reset())
        scaled = want if not isinstance(obs, list) else np.arange(12)  # numbers, and no pixels
        np.testing.assert_allclose(agent.seen, scaled, rtol=1e-6)
        assert agent.seen.dtype == np.float32
    grey = Fixed(Place("a", 0, 3, 6, (2, 3, 1)), 0)
    grey.act(np.ones((2, 3), np.uint8), None, grey.reset())  # of whole numbers, not of pixels
    np.testing.assert_array_equal(grey.seen, np.ones(6))
    parts = Fixed(Place("a", 0, 3, 10, (("look", (2, 2)), ("feel", (6,))), ("look",)), 0)
    parts.act({"feel": range(6), "look": np.full((2, 2), 51, np.uint8)}, None, parts.reset())
    np.testing.assert_allclose(parts.seen, [0.2] * 4 + [0, 1, 2, 3, 4, 5], rtol=1e-6)


def test_pixels_that_cannot_be_told_are_refused():
    agent = Fixed(Place("a", 0, 3, 6, (), ("*",)), 0)
    with pytest.raises(QtotError, match="cannot tell which of these are: give them as floats"):
        agent.act(np.ones(6, np.uint8), None, agent.reset())
    agent.act(np.ones(6), None, agent.reset())
    np.testing.assert_array_equal(agent.seen, np.ones(6))


BAD_INPUT: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (([1, 2], None), {}, r"a expects an observation of shape \(4,\), got \(2,\)"),
    (({"x": [1]}, None), {}, r"shape \(4,\), got {'x': \(1,\)}"),
    ((["a"] * 4, None), {}, "a expects an observation of numbers"),
    (([1, [2], 3, 4], None), {}, "a expects an observation of numbers"),
    ((None, None), {}, r"got \(\)"),
    (([1, 2, np.nan, 4], None), {}, "finite numbers, got nan at 2"),
    (([1, 2, 1e39, 4], None), {}, "finite numbers, got inf at 2"),
    (([0] * 4, [1, 1]), {}, r"of 0 and 1 of shape \(3,\) with at least one legal action, got"),
    (([0] * 4, [0, 0, 0]), {}, "at least one legal action"),
    (([0] * 4, "yes"), {}, "avail_actions of 0 and 1 of shape"),
    (([0] * 4, [0.0, -np.inf, 0.0]), {}, "avail_actions of 0 and 1 of shape"),
    (([0] * 4, [1, np.nan, 0]), {}, "avail_actions of 0 and 1 of shape"),
    (([0] * 4, ["1", "0", "0"]), {}, "avail_actions of 0 and 1 of shape"),
    (([0] * 4, [[1], 2, 3]), {}, "avail_actions of 0 and 1 of shape"),
    (([10**400] * 4, None), {}, "a expects an observation of numbers"),
    (([0] * 4, None), {"memory": None}, "its memory as reset"),
    (([0] * 4, None), {"memory": Memory(np.zeros(3), -1)}, "its memory as reset"),
    (([0] * 4, None), {"memory": Memory(np.zeros(2), 3)}, "its memory as reset"),
    (([0] * 4, None), {"memory": Memory(np.zeros(2), 0.5)}, "its memory as reset"),
    (([0] * 4, None), {"memory": Memory(np.array([0.0, np.nan]), 0)}, "its memory as reset"),
    (([0] * 4, None), {"memory": Memory(["a", "b"], 0)}, "its memory as reset"),
    (([0] * 4, None), {"memory": Memory([[1], 2], 0)}, "its memory as reset"),
    (([0] * 4, None), {"epsilon": 0.5}, "needs rng"),
]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("args", "more", "message"), BAD_INPUT)
def test_bad_input_is_refused_with_words(args: Any, more: dict[str, Any], message: str):
    agent = Fixed(Place("a", 0, 3, 4), 2)
    with pytest.raises(QtotError, match=message):
        agent.act(*args, **{"memory": agent.reset(), **more})


def test_the_first_of_equal_legal_actions_is_taken_and_noise_is_legal():
    agent, rng = Fixed(Place("a", 0, 3, 4), 0), np.random.default_rng(0)
    assert agent.act([5, 7, 7, 0], None, agent.reset())[0] == 1
    assert agent.act([5, 7, 7, 0], [True, False, True], agent.reset())[0] == 2
    legal = np.array([True, False, True])
    acted = {
        agent.act([5, 7, 7, 0], legal, agent.reset(), epsilon=1.0, rng=rng)[0] for _ in range(40)
    }
    assert acted == {0, 2}


def test_the_memory_is_the_callers(folder: Path):
    """Two episodes may be played at once with one agent; an old memory can be gone back to."""
    agent, rng = deploy.load(folder).agent("agent_0"), np.random.default_rng(0)
    obs = rng.normal(size=(4, 50))
    one = agent.reset()
    values = []
    for x in obs:
        values.append(agent.q_values(x, one)[0])
        _, one = agent.act(x, None, one)
        agent.act(rng.normal(size=50), None, agent.reset())  # another episode in between
    again = agent.reset()
    for x, want in zip(obs, values, strict=True):
        np.testing.assert_array_equal(agent.q_values(x, again)[0], want)
        _, again = agent.act(x, None, again)
    assert (values[1] != agent.q_values(obs[1], agent.reset())[0]).any()


# Without JAX ----------------------------------------------------------------------------------

ALONE = """
import sys, numpy as np
from qtot import deploy
team = deploy.load(sys.argv[1])
agent = team.agent(team.names[-1])
memory = agent.reset()
for step in range(3):
    action, memory = agent.act(np.full(agent.obs_size, 0.1 * step), None, memory)
    print(action, *agent.q_values(np.zeros(agent.obs_size), memory)[0])
assert "jax" not in sys.modules
"""


def test_the_runtime_installs_and_acts_without_jax(run: qtot.Run, folder: Path, tmp_path: Path):
    """The wheel of ``qtot-runtime``, in an environment of its own that has no JAX."""
    source = tmp_path / "source"  # setuptools and hatch leave nothing in the checkout
    for part in ("runtime", "src"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", str(source / "runtime"), "-w", str(tmp_path)]
    subprocess.run(wheel, check=True, capture_output=True)
    (made,) = tmp_path.glob("qtot_runtime-*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", str(made)], check=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", ALONE, folder],
        check=False,
        env=env,
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    here = run.agent(run.spec.agents[-1])
    memory = here.reset()
    for step, line in enumerate(done.stdout.splitlines()):
        action, memory = here.act(np.full(50, 0.1 * step), None, memory)
        said, *values = line.split()
        assert int(said) == action
        np.testing.assert_allclose(
            np.array(values, float), here.q_values(np.zeros(50), memory)[0], atol=1e-5
        )
    probe = "import importlib.util as u; print(u.find_spec('jax'), u.find_spec('qtot.api'))"
    found = subprocess.run(
        [python, "-c", probe], check=True, env=env, capture_output=True, text=True
    )
    assert found.stdout == "None None\n"


# What is read ---------------------------------------------------------------------------------


def use(folder: Path) -> None:
    """All of it."""
    team = deploy.load(folder)
    for name in team.names:
        agent = team.agent(name)
        agent.act(np.zeros(agent.obs_size), None, agent.reset())


def says(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "policy.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


BAD_FOLDERS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda said: said.update(format=2), "has format 2, this version reads 1; use the version"),
    (lambda said: said.pop("agents"), "is no policy of qtot's"),
    (lambda said: said.update(obs_size="50"), "expected a whole number from 0 to"),
    (lambda said: said.update(obs_size=2**40), "expected a whole number from 0 to"),
    (lambda said: said.update(obs_size=51), "agent 0 cannot be one"),
    (lambda said: said.update(obs_shape=[5, 5, 3]), r"has not the 50 numbers of obs_size"),
    (lambda said: said.update(max_actions=7), "no network of this team's: its inputs are"),
    (lambda said: said.update(memory_size=9), "no network of this team's: its inputs are"),
    (lambda said: said.update(values="prices"), "values must be 'q' or 'logits'"),
    (lambda said: said["agents"][1].update(name="agent_0"), "agents with names of their own"),
    (lambda said: said["agents"][1].update(agent_id=7), "agent 1 cannot be one"),
    (lambda said: said["agents"][1].update(n_actions=7), "agent 1 cannot be one"),
    (lambda said: said["agents"][0].update(file="../agents.onnx"), "the plain name of a file"),
    (lambda said: said["agents"][0].update(file="/etc/passwd"), "the plain name of a file"),
    (lambda said: said["agents"][0].update(file="policy.json"), "says nothing of policy.json"),
    (lambda said: said["files"]["agents.onnx"].update(bytes=1), "is not the file that was"),
    (lambda said: said["files"]["agents.onnx"].update(sha256="0"), "is not the file that was"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FOLDERS)
def test_a_wrong_policy_is_refused_with_words(change: Any, message: str, copy: Path):
    says(copy, change)
    with pytest.raises(QtotError, match=message):
        use(copy)


def test_missing_and_changed_files_are_refused(copy: Path, tmp_path: Path):
    with pytest.raises(QtotError, match=r"holds no policy.json; 'qtot export RUN --out"):
        deploy.load(tmp_path / "nowhere")
    with pytest.raises(QtotError, match=r"no agent 'bob' here; choose one of: agent_0, agent_1"):
        deploy.load(copy).agent("bob")
    data = (copy / "agents.onnx").read_bytes()
    (copy / "agents.onnx").write_bytes(data[:-1] + b"!")
    with pytest.raises(QtotError, match=r"agents.onnx is not the file that was exported"):
        use(copy)
    (copy / "agents.onnx").unlink()
    (tmp_path / "else.onnx").write_bytes(data)
    (copy / "agents.onnx").symlink_to(tmp_path / "else.onnx")
    with pytest.raises(QtotError, match=r"agents.onnx is no file of that folder"):
        use(copy)
    (copy / "policy.json").write_bytes(b"[" * 100_000)
    with pytest.raises(QtotError, match=r"policy.json cannot be read"):
        use(copy)


def seal(folder: Path) -> None:
    """As someone would who knows how."""
    import hashlib

    data = (folder / "agents.onnx").read_bytes()
    sums = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    says(folder, lambda said: said["files"].update({"agents.onnx": sums}))


def test_a_network_that_reads_other_files_is_refused(
    folder: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Arrays may lie beside an ONNX file, wherever it says: ours never do."""
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 64)
    monkeypatch.chdir(tmp_path)
    for where in ("secret", "./secret", "copy/../secret", str(tmp_path / "secret")):
        model = onnx.load(folder / "agents.onnx")
        weight = next(x for x in model.graph.initializer if x.name == "head.weight")
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=where)
        (copy / "agents.onnx").write_bytes(model.SerializeToString())
        seal(copy)
        with pytest.raises(QtotError, match=r"agents.onnx refers to other files"):
            use(copy)


def mutated(folder: Path, to: Path, tries: int, seed: int) -> int:
    """Uses of harmed folders, each used or refused; how many were refused."""
    rng, refused = random.Random(seed), 0
    for number in range(tries):
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(folder, to)
        path = to / rng.choice(["policy.json", "policy.json", "agents.onnx"])
        data = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_bytes(other_json(data.decode(), rng).encode(errors="surrogatepass"))
        else:
            path.write_bytes(other_bytes(data, rng))
        if path.suffix == ".onnx" and rng.random() < 0.9:
            seal(to)
        try:
            with patient():
                use(to)
        except QtotError:
            refused += 1
        except BaseException as error:
            error.add_note(f"try {number} of seed {seed}: {path.name}")
            raise
    return refused


def test_harmed_folders_are_used_or_refused(folder: Path, tmp_path: Path):
    assert 50 < mutated(folder, tmp_path / "harmed", 200, seed=0) < 200


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_thousand_harmed_folders_are_used_or_refused(folder: Path, tmp_path: Path, seed: int):
    assert 250 < mutated(folder, tmp_path / "harmed", 1_000, seed) < 1_000

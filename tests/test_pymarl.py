"""Models of PyMARL and EPyMARL, as torch 2.13 wrote them in both of its formats (the weights are
those of tests/golden), become runs that answer as the reference does.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
from command import run as command
from golden import FOLDER
from qtot.core.mixers.base import MixerInputs
from qtot.envs import make_env
from qtot.errors import QtotError
from qtot.pymarl.torch_file import read_state_dict
from small import small_config
from test_hostile import other_bytes, patient
from untrained import untrained

MODELS = Path(__file__).parent / "pymarl"
THEIRS = "obs+last_action+agent_id"
KNOWN = ("qmix", "qmix_h1", "vdn", "iql", "coma")
FILES = sorted(path.relative_to(MODELS).as_posix() for path in MODELS.rglob("*.th"))


def imported(name: str, out: Path) -> qtot.Run:
    n_agents = None if name.startswith(("qmix", "epymarl")) else 3
    inputs = "obs+last_action" if name.startswith("epymarl") else THEIRS
    return qtot.import_pymarl(MODELS / name, out, n_agents=n_agents, inputs=inputs)


@pytest.mark.parametrize("older", ["", "-legacy"])
@pytest.mark.parametrize("name", KNOWN)
def test_agents_answer_as_the_reference(name: str, older: str, tmp_path: Path):
    run = imported(name + older, tmp_path / "run")
    assert run.config.algo == name.partition("_")[0]
    with np.load(FOLDER / f"{name}.npz") as file:
        golden = dict(file)
    obs, actions = golden["obs"], golden["actions"]
    if "q" not in golden:  # COMA: probabilities, with the floor that epsilon gives
        return _answers_as_policy(run, golden)
    for i, agent in enumerate(run.spec.agents):
        policy = run.agent(agent)
        for episode in range(len(obs)):
            memory = policy.reset()
            for t in range(obs.shape[1]):
                q, hidden = policy.q_values(obs[episode, t, i], memory)
                np.testing.assert_allclose(q, golden["q"][episode, t, i], atol=1e-5)
                action = int(actions[episode, t, i]) if t < actions.shape[1] else -1
                memory = type(memory)(hidden, action)
    return None


def _answers_as_policy(run: qtot.Run, golden: dict[str, np.ndarray]) -> None:
    meta = json.loads(str(golden["meta"]))
    epsilon, count = meta.get("epsilon", 0.3), run.spec.max_actions
    obs, actions, worst = golden["obs"], golden["actions"], 0.0
    for i, agent in enumerate(run.spec.agents):
        policy, memory = run.agent(agent), None
        for t in range(golden["pi"].shape[1]):
            memory = policy.reset() if memory is None else memory
            logits, hidden = policy.q_values(obs[0, t, i], memory)
            pi = np.exp(logits - logits.max())
            pi = (1 - epsilon) * pi / pi.sum() + epsilon / count
            worst = max(worst, float(np.abs(pi - golden["pi"][0, t, i]).max()))
            memory = type(memory)(hidden, int(actions[0, t, i]))
    assert worst < 1e-5


@pytest.mark.parametrize("name", ["qmix", "qmix-legacy", "qmix_h1"])
def test_the_mixer_mixes_as_the_reference(name: str, tmp_path: Path):
    run = imported(name, tmp_path / "run")
    with np.load(FOLDER / f"{name.removesuffix('-legacy')}.npz") as file:
        golden = dict(file)
    actions = golden["actions"][:, : golden["q_tot"].shape[1]]
    taken = np.take_along_axis(golden["q"][:, : actions.shape[1]], actions[..., None], -1)[..., 0]
    unused: Any = None
    mixer: Any = run.params().online.mixer
    state = jnp.asarray(golden["state"][:, : actions.shape[1]])
    q_tot = mixer(
        MixerInputs(jnp.asarray(taken), unused, unused, unused, unused, state, *[unused] * 2)
    )
    valid = np.arange(actions.shape[1]) < golden["lengths"][:, None]
    np.testing.assert_allclose(
        np.asarray(q_tot)[..., 0][valid], golden["q_tot"][..., 0][valid], atol=1e-5
    )


def test_agents_with_networks_of_their_own(tmp_path: Path):
    """EPyMARL's, without recurrence: each agent has the numbers of its own file entry."""
    run = imported("epymarl-ns", tmp_path / "run")
    state = read_state_dict(MODELS / "epymarl-ns" / "agent.th")
    rng = np.random.default_rng(0)
    for i, name in enumerate(run.spec.agents):
        policy, obs = run.agent(name), rng.normal(size=8).astype(np.float32)

        def layer(x: np.ndarray, part: str, i: int = i) -> np.ndarray:
            return state[f"agents.{i}.{part}.weight"] @ x + state[f"agents.{i}.{part}.bias"]

        x = np.concatenate([obs, np.zeros(4, np.float32)])
        for part in ("fc1", "rnn"):
            x = np.maximum(layer(x, part), 0)
        np.testing.assert_allclose(
            policy.q_values(obs, policy.reset())[0], layer(x, "fc2"), atol=1e-5
        )


def test_an_imported_run_is_a_run(tmp_path: Path):
    """It can be exported, played in an environment that is named, and trained on from."""
    pytest.importorskip("onnxruntime")
    run = imported("qmix", tmp_path / "run")
    assert qtot.export(run, tmp_path / "out").largest < 1e-6
    with pytest.raises(QtotError, match="trained on an object of your own"):
        qtot.evaluate(run, episodes=2)
    with pytest.raises(QtotError, match="has n_agents 2, but run"):
        qtot.evaluate(run, episodes=2, env="probe/memory")
    with pytest.raises(QtotError, match=r"was imported and never trained here"):
        qtot.resume(run.path, env="probe/memory")


def test_an_environment_that_is_named_must_fit(tmp_path: Path):
    for env, message in (
        ("probe/memory", "the models are for 3 agents, but probe/memory has 2"),
        ("mpe/simple_spread", "the models are for 4 actions, but mpe/simple_spread has 5"),
    ):
        with pytest.raises(QtotError, match=message):
            qtot.import_pymarl(MODELS / "qmix", tmp_path / "run", env=env)
    got = command(f"import-pymarl {MODELS / 'iql'} --out {tmp_path / 'run'}")
    assert got.code == 2
    assert "say so, with --n-agents, or name the environment, with --env" in got.err
    got = command(f"import-pymarl {MODELS / 'qmix'} --out {tmp_path / 'run'}")
    assert got.code == 2
    assert "do not say what the agents were fed beside their observation" in got.err
    theirs = f"import-pymarl {MODELS / 'qmix'} --out {tmp_path / 'run'} --inputs {THEIRS}"
    got = command(theirs, columns=200)
    assert got.code == 0
    assert "qmix: 3 agents, 4 actions, observations of 5, state of 6" in got.out
    got = command(theirs)
    assert got.code == 2
    assert "already holds a run" in got.err


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("qmix", {"n_agents": 4}, "the models are of 3 agents, not of 4"),
        ("iql", {"n_agents": 0}, "n_agents must be from 1 to 4096, got 0"),
        ("iql", {"n_agents": 9}, "12 inputs, too few for an observation beside the last"),
        ("qmix", {"inputs": "last_action"}, "unknown inputs 'last_action'"),
        ("qmix", {"algo": "vdn"}, r"nothing here takes mixer\.\S+, .* for vdn; see --algo"),
        ("vdn", {"algo": "qmix", "n_agents": 3}, "should have the shape .*, it has nothing"),
    ],
)
def test_what_is_said_must_fit(name: str, asked: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(QtotError, match=message):
        qtot.import_pymarl(MODELS / name, tmp_path / "run", **{"inputs": THEIRS, **asked})
    assert not (tmp_path / "run").exists()


def test_inputs_of_equal_length_are_asked_for(tmp_path: Path):
    """Two agents with two actions: a one-hot vector of two could be either."""
    env, rng = "matrix/two_step", np.random.default_rng(0)
    spec = make_env(env).spec
    assert spec.n_agents == spec.max_actions
    shapes = {
        "fc1": (5, spec.obs_size + spec.n_agents),
        "rnn_ih": (15, 5),
        "rnn_hh": (15, 5),
        "fc2": (spec.max_actions, 5),
    }
    arrays = {}
    for part, (rows, columns) in shapes.items():
        layer, _, side = part.partition("_")
        for kind, shape in (("weight", (rows, columns)), ("bias", (rows,))):
            name = f"{layer}.{kind}_{side}" if side else f"{layer}.{kind}"
            arrays[name] = rng.normal(size=shape).astype("<f4")
    (tmp_path / "agent.th").write_bytes(state_dict(arrays))
    with pytest.raises(QtotError, match="as long as each other: say which, with --inputs"):
        qtot.import_pymarl(tmp_path, tmp_path / "run", env=env)
    for inputs, answer in (("obs+last_action", (True, False)), ("obs+agent_id", (False, True))):
        run = qtot.import_pymarl(tmp_path, tmp_path / inputs, env=env, inputs=inputs)
        assert (run.config.agent.prev_action, run.config.agent.agent_id) == answer


def test_what_is_no_model_of_theirs_is_refused(tmp_path: Path):
    shutil.copytree(MODELS / "qmix", tmp_path / "models")
    shutil.copy(MODELS / "coma" / "critic.th", tmp_path / "models" / "mixer.th")
    with pytest.raises(QtotError, match=r"mixer.th is no mixer of QMIX .*: it holds fc1.bias"):
        qtot.import_pymarl(tmp_path / "models", tmp_path / "run")
    shutil.copy(MODELS / "qmix" / "mixer.th", tmp_path / "models" / "agent.th")
    with pytest.raises(QtotError, match=r"agent.th is no RNNAgent of PyMARL or EPyMARL"):
        qtot.import_pymarl(tmp_path / "models", tmp_path / "run")
    with pytest.raises(QtotError, match=r"agent.th is not there"):
        qtot.import_pymarl(tmp_path, tmp_path / "run")


# Files ----------------------------------------------------------------------------------------


class Boom:
    """A pickle that would leave a trace."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def as_zip(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("agent/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"agent/data/{key}", data)
    return out.getvalue()


def as_older(pickled: bytes, keys: list[str], storages: bytes) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join([*map(pickle.dumps, head), pickled, pickle.dumps(keys), storages])


@pytest.mark.parametrize("older", [False, True])
def test_nothing_in_a_file_is_executed(older: bool, tmp_path: Path):
    trace = tmp_path / "trace"
    evil = pickle.dumps(OrderedDict(weight=Boom(trace)))
    path = tmp_path / "agent.th"
    path.write_bytes(as_older(evil, [], b"") if older else as_zip(evil, {}))
    with pytest.raises(QtotError, match=r"it names pathlib\S*, which is no part of a state dict"):
        read_state_dict(path)
    for name in (b"cposix\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."):
        path.write_bytes(as_older(name, [], b"") if older else as_zip(name, {}))
        with pytest.raises(QtotError, match="which is no part of a state dict"):
            read_state_dict(path)
    assert not trace.exists()


def tensor(size: str, offset: str = "0", stride: str = "1") -> bytes:
    """The pickle of a state dict with one tensor over a storage of four numbers."""
    storage = "((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
    rebuild = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n(I{size}\nt(I{stride}\nt"
    return f"(dS'w'\n{rebuild}I00\nNtRs.".replace("((S'", "(S'").encode()


@pytest.mark.parametrize(
    ("size", "offset", "stride", "fine"),
    [
        ("4", "0", "1", True),
        ("2", "1", "2", True),
        ("5", "0", "1", False),
        ("2", "3", "1", False),
        ("2", "0", "4", False),
        ("4", "-1", "1", False),
        ("1000000000", "0", "0", False),
        ("99999999999", "0", "0", False),
    ],
)
def test_a_tensor_lies_in_its_storage(
    size: str, offset: str, stride: str, fine: bool, tmp_path: Path
):
    path, numbers = tmp_path / "agent.th", np.arange(4, dtype="<f4")
    path.write_bytes(as_zip(tensor(size, offset, stride), {"0": numbers.tobytes()}))
    if fine:
        found = read_state_dict(path)["w"]
        want = numbers[int(offset) :: int(stride)][: int(size)]
        np.testing.assert_array_equal(found, want)
        older = as_older(
            tensor(size, offset, stride), ["0"], struct.pack("<q", 4) + numbers.tobytes()
        )
        path.write_bytes(older)
        np.testing.assert_array_equal(read_state_dict(path)["w"], want)
    else:
        with pytest.raises(QtotError, match=r"no state dict that torch.save wrote"):
            read_state_dict(path)


def state_dict(arrays: dict[str, np.ndarray]) -> bytes:
    """As torch's zip format has them."""
    entries, storages = [], {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = np.array(array.strides) // array.itemsize
        sizes, steps = ("".join(f"I{x}\n" for x in xs) for xs in (array.shape, strides))
        storage = f"(S'storage'\nctorch\nFloatStorage\nS'{key}'\nS'cpu'\nI{array.size}\ntQ"
        rebuild = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n({sizes}t({steps}t"
        entries.append(f"S'{name}'\n{rebuild}I00\nNtRs")
        storages[str(key)] = array.tobytes()
    return as_zip(f"(d{''.join(entries)}.".encode(), storages)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    "evil",
    [
        # BUILD: what an object of ours is made of, or a function's, is set from the file.
        tensor("4").replace(b"NtRs.", b"NtR(dS'shape'\nI9\nsbs."),
        b"ctorch._utils\n_rebuild_tensor_v2\n(dS'__call__'\nNsb.",
        b"ctorch._utils\n_rebuild_parameter\n(dS'__defaults__'\nNsb.",
        # A memo that asks for gigabytes.
        b"(dr\xff\xff\xff\x7f.",
        b"(dp2147483647\n.",
    ],
    ids=["tensor", "function", "parameter", "memo", "memo in words"],
)
def test_nothing_is_changed_after_it_was_made(older: bool, evil: bytes, tmp_path: Path):
    path, numbers = tmp_path / "agent.th", np.arange(4, dtype="<f4").tobytes()
    older_file = as_older(evil, ["0"], struct.pack("<q", 4) + numbers)
    path.write_bytes(older_file if older else as_zip(evil, {"0": numbers}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(QtotError, match=r"no state dict that torch.save wrote"):
        read_state_dict(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_views_may_not_make_more_of_a_file_than_it_is(tmp_path: Path):
    """Thousands of names for the same numbers."""
    one = tensor("4").removeprefix(b"(d").removesuffix(b".")
    many = b"".join(one.replace(b"S'w'", b"S'w%d'" % i) for i in range(4_000))
    path = tmp_path / "agent.th"
    big = np.zeros(4, "<f4").tobytes()
    path.write_bytes(as_zip(b"(d" + many + b".", {"0": big}))
    read_state_dict(path)  # each name takes more of the file than its four numbers
    wide = many.replace(b"cpu'\nI4", b"cpu'\nI4096").replace(b"(I4\nt", b"(I4096\nt")
    path.write_bytes(as_zip(b"(d" + wide + b".", {"0": bytes(4 * 4096)}))
    with pytest.raises(QtotError, match="its arrays are larger than the file"):
        read_state_dict(path)
    path.write_bytes(as_zip(tensor("0"), {"0": big}))
    with pytest.raises(QtotError, match="w is empty"):
        read_state_dict(path)


@pytest.mark.parametrize("file", FILES)
def test_harmed_files_are_read_or_refused(file: str, tmp_path: Path):
    rng, path, data = random.Random(file), tmp_path / "agent.th", (MODELS / file).read_bytes()
    refused = 0
    for _ in range(40):
        path.write_bytes(other_bytes(data, rng))
        try:
            with patient():
                read_state_dict(path)
        except QtotError:
            refused += 1
    assert refused > 5


def test_the_files_are_those_of_the_golden_values():
    state = read_state_dict(MODELS / "qmix-legacy" / "agent.th")
    with np.load(FOLDER / "qmix.npz") as golden:
        for name, array in state.items():
            np.testing.assert_array_equal(array, golden[f"agent.{name}"])


def test_importing_needs_no_sizes_beyond_the_files(tmp_path: Path):
    """What a run says of itself is what the files say."""
    run = imported("qmix_h1", tmp_path / "run")
    assert run.config.mixer.hypernet_layers == 1
    assert (run.config.agent.hidden, run.config.mixer.embed) == (8, 6)
    leaves = jax.tree.leaves(run.params().online)
    assert all(np.isfinite(x).all() for x in leaves)
    other = untrained(tmp_path / "other", small_config("probe/memory"))
    assert other.metrics() == run.metrics() == []

"""Exported networks answer as those of training, on what they would be asked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qtot
from extras import needs, package
from qtot import deploy
from qtot.config import nested_replace
from qtot.core.methods import METHODS
from qtot.errors import QtotError
from qtot.shipping import asked, export_run, played_inputs
from qtot.store.run_folder import RunFolder
from small import small_config
from untrained import MEMORY, untrained

onnx = package("onnx", "onnx")
package("onnxruntime", "onnx")

HUNT = "predator_prey/5x5-3v1-p2-t30"
KINDS: dict[str, dict[str, Any]] = {
    "shared": {},
    "alone": {"agent": {"sharing": "none"}},
    "groups": {"agent": {"sharing": "groups", "groups": (0, 1, 0), "layer_norm": True}},
    "memoryless": {"agent": {"memory": "none", "encoder": (8, 6)}},
    "bare": {"agent": {"prev_action": False, "agent_id": False, "encoder": ()}},
    "seeing": {"agent": {"cnn": (4, 3), "layer_norm": True}},
    "standardised": {"scaling": {"normalise_obs": True}, "agent": {"sharing": "none"}},
}


def run_of(path: Path, changes: dict[str, Any], env: str = HUNT, algo: str = "qmix") -> qtot.Run:
    config = nested_replace(small_config(env, algo, **MEMORY), changes)
    return untrained(path, config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_answers_as_in_training(kind: str, tmp_path: Path):
    """Step by step through episodes of random observations, each side with its own memory."""
    run = run_of(tmp_path / "run", KINDS[kind])
    parity = export_run(run, tmp_path / "out")
    assert parity.answers == 256 * 3
    assert parity.largest < 1e-5
    team, rng = deploy.load(tmp_path / "out"), np.random.default_rng(0)
    assert team.names == run.spec.agents
    for name in team.names:
        there, here = team.agent(name), run.agent(name)
        away, home = there.reset(), here.reset()
        for _ in range(20):
            obs, legal = rng.normal(size=there.obs_size), rng.random(there.n_actions) < 0.6
            legal[3] = True
            got, hidden = there.q_values(obs, away)
            want, _ = here.q_values(obs, home)
            np.testing.assert_allclose(got, want, atol=1e-5)
            (action, away), (other, home) = there.act(obs, legal, away), here.act(obs, legal, home)
            assert action == other
            assert legal[action]
            np.testing.assert_array_equal(hidden, away.hidden)


def test_what_an_agent_says_depends_on_nothing_but_its_inputs(tmp_path: Path):
    """Rows of a batch do not see each other, and a memory that is handed in is all there is."""
    run = run_of(tmp_path / "run", {})
    export_run(run, tmp_path / "out")
    agent = deploy.load(tmp_path / "out").agent("agent_1")
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(5, 50)).astype(np.float32)
    previous, legal = np.array([-1, 0, 1, 2, 5]), np.ones((5, 6), bool)
    memory = rng.normal(size=(5, 8)).astype(np.float32)
    together = agent.step(obs, previous, legal, memory)
    for i in range(5):
        one = agent.step(*(x[i : i + 1] for x in (obs, previous, legal, memory)))
        np.testing.assert_allclose(one.q[0], together.q[i], atol=1e-6)
        np.testing.assert_allclose(one.memory[0], together.memory[i], atol=1e-6)
    legal[:, 2:] = False
    np.testing.assert_array_equal(
        agent.step(obs, previous, legal, memory).action, together.q[:, :2].argmax(1)
    )


def test_the_folder_says_what_it_is(tmp_path: Path):
    run = run_of(tmp_path / "run", KINDS["groups"])
    export_run(run, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "policy.json").read_text())
    files = {path.name for path in (tmp_path / "out").iterdir()} - {"policy.json"}
    assert files == {f"group-{i}.{kind}" for i in (0, 1) for kind in ("onnx", "safetensors")}
    assert said["files"].keys() == files
    assert [one["file"] for one in said["agents"]] == [f"group-{i}.onnx" for i in (0, 1, 0)]
    assert said["agents"][2]["action_meanings"][:2] == ["right", "down"]
    assert (said["obs_size"], said["obs_shape"], said["memory_size"]) == (50, [5, 5, 2], 8)
    assert said["source"]["env"] == HUNT
    assert said["source"]["algo"] == "qmix"
    assert said["measured"]["same_action"] == 768
    model = onnx.load(tmp_path / "out" / "group-0.onnx")
    assert [one.name for one in model.graph.input] == list(deploy.team.INPUTS)
    assert [one.name for one in model.graph.output] == ["q", "action", "memory_out"]


def test_weights_lie_beside_the_networks(tmp_path: Path):
    from safetensors.numpy import load_file

    run = run_of(tmp_path / "run", KINDS["alone"])
    export_run(run, tmp_path / "out")
    network = run.params().online.agent.network
    for i in range(3):
        arrays = load_file(tmp_path / "out" / f"agent-{i}.safetensors")
        np.testing.assert_array_equal(arrays["head.weight"], network.head.weight[i])
        np.testing.assert_array_equal(arrays["encoder.0.bias"], network.encoder[0].bias[i])
        assert len(arrays) == 8


@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_smaller_weights_are_measured_where_they_are_played(weights: Any, tmp_path: Path):
    run = run_of(tmp_path / "run", {"agent": {"hidden": 64, "encoder": (64,)}})
    export_run(run, tmp_path / "exact")
    parity = export_run(run, tmp_path / "small", weights=weights, answers=600)
    sizes = [(tmp_path / x / "agents.onnx").stat().st_size for x in ("exact", "small")]
    assert sizes[1] < 0.6 * sizes[0]
    assert parity.answers == 600
    assert 1e-6 < parity.largest < 0.1
    assert parity.same + parity.ties >= 0.9 * parity.answers
    said = json.loads((tmp_path / "small" / "policy.json").read_text())
    assert said["weights"] == weights
    assert said["measured"]["same_action"] == parity.same
    assert said["measured"]["inputs"] == "played"


def test_weights_beyond_float16_are_refused(tmp_path: Path):
    run = untrained(tmp_path / "run", small_config(HUNT), scale=1e5)
    with pytest.raises(QtotError, match=r"weight holds \S+, which float16 cannot; take float32"):
        export_run(run, tmp_path / "out", weights="float16")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("harm", [np.nan, np.inf])
def test_agents_that_diverged_are_refused(harm: float, tmp_path: Path):
    run = run_of(tmp_path / "run", {})
    params = jax.tree.map(np.array, run.params())
    params.online.agent.network.head.weight[0, 0] = harm
    RunFolder.open(run.path).save("last", 0, params)
    with pytest.raises(QtotError, match=r"are not finite \(.*head.weight\): did it diverge"):
        qtot.export(qtot.load(run.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_answers_that_are_no_numbers_are_not_close(tmp_path: Path):
    """NaN compares as nothing with anything: it must count as infinitely far."""
    run = run_of(tmp_path / "run", {})
    export_run(run, tmp_path / "out")
    params = run.params()
    inputs = played_inputs(run, params, 50)
    inputs.obs[7, 1, 3] = np.nan
    assert np.isinf(asked(run, params, tmp_path / "out", inputs).largest)


def test_nothing_is_overwritten(tmp_path: Path):
    run = run_of(tmp_path / "run", {})
    (tmp_path / "out").mkdir()
    export_run(run, tmp_path / "out")
    before = (tmp_path / "out" / "policy.json").read_bytes()
    with pytest.raises(QtotError, match=r"out is there already, and not empty; choose another"):
        export_run(run, tmp_path / "out")
    assert (tmp_path / "out" / "policy.json").read_bytes() == before
    with pytest.raises(QtotError, match="cannot write the folder"):
        export_run(run, tmp_path / "out" / "policy.json" / "below")


OWN = """
import equinox as eqx
import jax
import jax.numpy as jnp

class Eyes(eqx.Module):
    conv: eqx.nn.Conv2d
    out: eqx.nn.MLP

    def __init__(self, key, obs_shape):
        one, two = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(obs_shape[-1], 3, 2, key=one)
        self.out = eqx.nn.MLP(48, 7, 9, 1, key=two)

    def __call__(self, obs):
        seen = jax.nn.relu(self.conv(jnp.moveaxis(obs, -1, 0)))
        return jax.nn.gelu(self.out(seen.reshape(-1)))
"""


@needs("jax2onnx")
def test_a_network_of_ones_own_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_eyes_exported.py").write_text(OWN)
    changes = {"agent": {"module": "own_eyes_exported:Eyes", "encoder": (6,)}}
    path = run_of(tmp_path / "run", changes).path
    with pytest.raises(QtotError, match="only if you trust the run folder"):
        qtot.export(path, tmp_path / "out")
    assert export_run(qtot.load(path, trust=True), tmp_path / "out").largest < 2e-6


SAME = [("smax/3m", {}), ("mpe/simple_speaker_listener", {"scaling": {"normalise_obs": True}})]
FAMILIES = [
    *SAME,
    ("matrix/two_step", {}),
    ("probe/memory", {}),
    (HUNT, {"agent": {"cnn": (4,)}}),
    ("lbf/8x8-2p-2f-coop", {}),
    ("rware/tiny-2ag", {}),
    ("overcooked/cramped_room", {"agent": {"cnn": (4,)}}),
    ("overcooked_v2/grounded_coord_simple", {"agent": {"cnn": (4,)}}),
    ("hanabi/2p-small", {}),
    ("riddle/switch-3", {}),
    ("pettingzoo/mpe2.simple_spread_v3", {}),
    ("gym/Foraging-8x8-2p-2f-v3", {}),
]


@pytest.mark.long
@pytest.mark.parametrize(("env", "changes"), FAMILIES)
def test_ten_thousand_steps_of_every_family(env: str, changes: dict[str, Any], tmp_path: Path):
    """Under the same inputs Q within 1e-5, and the same actions but for ties, which are counted."""
    run = qtot.load(run_of(tmp_path / "run", changes, env).path, trust=True)
    export_run(run, tmp_path / "out")
    params = run.params()
    inputs = played_inputs(run, params, 10_000)
    assert len(inputs.obs) == 10_000
    parity = asked(run, params, tmp_path / "out", inputs)
    with (tmp_path.parent / "parity.txt").open("a") as file:
        file.write(f"{env} {parity}\n")
    assert parity.largest <= 1e-5
    assert parity.same + parity.ties == parity.answers


def test_every_method_exports(tmp_path: Path):
    """Only agents leave; whatever trained them stays. COMA's values are logits."""
    for algo in ("coma", "ow_qmix"):
        run = run_of(tmp_path / algo, {"critic": {"embed": 8}}, "probe/memory", algo)
        assert export_run(run, tmp_path / f"{algo}-out").largest < 2e-6
        said = deploy.load(tmp_path / f"{algo}-out").policy
        assert said["values"] == ("logits" if algo == "coma" else "q")


def combinations() -> list[dict[str, Any]]:
    """Of all that changes the graph."""
    choices = itertools.product(
        ("gru", "none"), ("all", "none"), (True, False), (True, False), (True, False)
    )
    names = ("memory", "sharing", "prev_action", "agent_id", "layer_norm")
    return [dict(zip(names, choice, strict=True)) for choice in choices]


@pytest.mark.long
@pytest.mark.parametrize("agent", combinations(), ids=str)
def test_every_combination_of_parts(agent: dict[str, Any], tmp_path: Path):
    run = run_of(tmp_path / "run", {"agent": agent, "scaling": {"normalise_obs": True}})
    assert export_run(run, tmp_path / "out").largest < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("algo", METHODS)
def test_every_method_exports_long(algo: str, tmp_path: Path):
    run = run_of(tmp_path / "run", {"critic": {"embed": 8}}, "probe/memory", algo)
    assert export_run(run, tmp_path / "out").largest < 2e-6

"""The folder that an exported team travels in; ``qtot.deploy`` reads it.

policy.json           who is in the team, what goes in and out, where it is from, checksums
agents.onnx           the network that all agents share; or group-0.onnx, group-1.onnx, ...
agents.safetensors    its weights, for whoever wants them alone
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from qtot import __version__
from qtot.core.agent import Agent
from qtot.core.learner import Learner, Statistics
from qtot.core.methods import method
from qtot.core.statistics import RunningStats
from qtot.deploy.folder import FORMAT, POLICY
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.exporting.graph import OPSET, agent_graph
from qtot.extras import extra_module
from qtot.store.files import write_atomic, write_json

Weights = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Exported:
    """What is to be written of one seed of a run."""

    spec: EnvSpec
    learner: Learner
    agent: Agent
    stats: Statistics
    source: dict[str, Any]
    """where it is from: for ``policy.json``"""

    @property
    def files(self) -> dict[int, str]:
        """Stems of file names, by the first agent who uses them; shared networks are one."""
        groups = self.agent.groups
        if groups is None:
            return {0: "agents"}
        first = {group: groups.index(group) for group in sorted(set(groups))}
        return {i: self.stem_of(i) for i in first.values()}

    def stem_of(self, i: int) -> str:
        """The file of agent ``i``."""
        groups = self.agent.groups
        if groups is None:
            return "agents"
        return f"{'group' if self.agent.config.sharing == 'groups' else 'agent'}-{groups[i]}"


def write_folder(
    out: Path,
    exported: Exported,
    weights: Weights,
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """All of it, or nothing.

    Args:
        out: a new folder.
        exported: what is in it.
        weights: in which type.
        measure: looks at the folder before it has its name; what it finds is added to policy.json.

    Raises:
        QtotError: packages are missing, the network cannot be exported, or ``out`` cannot be
            written or is there already.
    """
    safetensors = extra_module("safetensors.numpy", "onnx")
    contents: dict[str, bytes] = {}
    for i, stem in exported.files.items():
        network = _network_of(exported.agent, i)
        contents[f"{stem}.onnx"] = _onnx(exported, network, weights)
        contents[f"{stem}.safetensors"] = safetensors.save(_arrays(network))
    policy = _policy(exported, contents, weights)
    _write(out, contents, policy, measure)


def _network_of(agent: Agent, i: int) -> Any:
    """The parameters of agent ``i``, without the axis of groups."""
    if agent.groups is None:
        return agent.network
    group = agent.groups[i]
    return jax.tree.map(lambda x: x[group], agent.network)


def _arrays(network: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(network)
    name = jax.tree_util.keystr
    return {name(p, simple=True, separator="."): np.ascontiguousarray(x) for p, x in leaves}


def _onnx(exported: Exported, network: Any, weights: Weights) -> bytes:
    stats: RunningStats | None = None
    if exported.learner.scaling.normalise_obs:
        stats = exported.stats.obs
    size, half = exported.spec.obs_size, weights == "float16"
    model = agent_graph(exported.agent, network, size, stats, half=half)
    return _quantised(model) if weights == "int8" else model.SerializeToString()


def _quantised(model: Any) -> bytes:
    """Matrices as int8, a scale for each row; what they are multiplied with is rounded as it comes
    (dynamic quantisation, by ONNX Runtime's own tool).
    """
    root = logging.getLogger()
    before = root.level
    tool = extra_module("onnxruntime.quantization", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        root.setLevel(logging.ERROR)  # it advises a step that these networks do not need
        try:
            tool.quantize_dynamic(
                model,
                path,
                per_channel=True,
                op_types_to_quantize=["Gemm", "MatMul"],
                weight_type=tool.QuantType.QInt8,
            )
        finally:
            root.setLevel(before)
        return path.read_bytes()


def _policy(exported: Exported, contents: dict[str, bytes], weights: Weights) -> dict[str, Any]:
    spec, agent, scaling = exported.spec, exported.agent, exported.learner.scaling
    logits = method(exported.learner.algo).on_policy
    meanings = spec.action_meanings or ((),) * spec.n_agents
    return {
        "format": FORMAT,
        "qtot": __version__,
        "source": exported.source,
        "values": "logits" if logits else "q",
        "weights": weights,
        "opset": OPSET,
        "obs_size": spec.obs_size,
        "obs_shape": spec.obs_shape,
        "pixels": spec.pixels,
        "max_actions": spec.max_actions,
        "memory_size": agent.memory_size,
        "preprocessing": {
            "pixels": "uint8 is divided by 255 before it goes in" if spec.pixels else "",
            "padding": "observations with zeros at the end, masks with false",
            "standardised": "by each agent's mean and deviation, inside the network"
            if scaling.normalise_obs
            else "",
        },
        "agents": [
            {
                "name": name,
                "agent_id": i,
                "file": f"{exported.stem_of(i)}.onnx",
                "n_actions": spec.n_actions[i],
                "obs_size": spec.obs_sizes[i],
                "action_meanings": meanings[i],
            }
            for i, name in enumerate(spec.agents)
        ],
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        },
    }


def _write(
    out: Path,
    contents: dict[str, bytes],
    policy: dict[str, Any],
    measure: Callable[[Path], dict[str, Any]] | None,
) -> None:
    """Into a folder beside it, which is then given its name."""
    beside = None
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise QtotError(f"{out} is there already, and not empty; choose another --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        for name, data in contents.items():
            write_atomic(beside / name, data)
        write_json(beside / POLICY, policy)
        if measure is not None:
            write_json(beside / POLICY, {**policy, "measured": measure(beside)})
        beside.chmod(0o755)
        beside.replace(out)
    except OSError as error:
        raise QtotError(f"cannot write the folder {out} ({error})") from None
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)

"""One agent acting alone: microseconds of a step and bytes of its network, by width and weights.

    python benchmarks/deploy.py            widths 64, 128 and 256
    python benchmarks/deploy.py --short    width 64

The agent is that of ``smax/2s3z`` (80 features, 10 actions), one observation at a time, on one
thread. ``act_us`` is ``Agent.act``, checks included; ``run_us`` ONNX Runtime alone; beside them the
limit, ``call_us``: a network of the same inputs and outputs that computes nothing. ``jax_us`` is
``Policy.act`` of the lab. Medians; ``p99_us`` is the 99th percentile of ``act_us``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import report

import qtot
from qtot import deploy
from qtot.config import nested_replace
from qtot.core.learner import PolicyParams
from qtot.deploy.team import INPUTS
from qtot.envs import jax_env
from qtot.extras import extra_module
from qtot.presets import preset_config
from qtot.runs import Run
from qtot.shipping import write_agents
from qtot.store.run_folder import RunFolder
from qtot.training.ingraph import make_learner

ENV = "smax/2s3z"
WEIGHTS = ("float32", "float16", "int8")


def fresh_run(folder: Path, hidden: int) -> Run:
    """Untrained agents of that width: as fast as trained ones."""
    config = nested_replace(preset_config(ENV), {"agent": {"hidden": hidden, "encoder": (hidden,)}})
    spec = jax_env(ENV).spec
    run = RunFolder.create(folder, {"config": config.to_dict(), "env": spec.to_dict()})
    learner = make_learner(spec, config)
    run.save("last", config.seed, PolicyParams.of(learner.init(jax.random.key(0))))
    return qtot.load(folder)


def micros(step: Callable[[], Any], calls: int = 3_000) -> tuple[float, float]:
    """Median and 99th percentile of a call."""
    for _ in range(100):
        step()
    times = np.empty(calls)
    for i in range(calls):
        began = time.perf_counter()
        step()
        times[i] = time.perf_counter() - began
    return float(1e6 * np.median(times)), float(1e6 * np.quantile(times, 0.99))


def calling(agent: Any, facts: Any) -> float:
    """What a call costs that computes nothing."""
    onnx, ort = extra_module("onnx", "onnx"), extra_module("onnxruntime", "onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    sizes = {"obs": facts.obs_size, "avail_actions": facts.max_actions, "memory": facts.memory_size}
    types = {"obs": kinds.FLOAT, "memory": kinds.FLOAT, "avail_actions": kinds.BOOL}
    inputs = [
        helper.make_tensor_value_info(
            name, types.get(name, kinds.INT64), ["B", *([sizes[name]] if name in sizes else [])]
        )
        for name in INPUTS
    ]
    pairs = (("obs", "q"), ("prev_action", "action"), ("memory", "memory_out"))
    nodes = [helper.make_node("Identity", [given], [made]) for given, made in pairs]
    outputs = [
        helper.make_tensor_value_info("q", kinds.FLOAT, ["B", sizes["obs"]]),
        helper.make_tensor_value_info("action", kinds.INT64, ["B"]),
        helper.make_tensor_value_info("memory_out", kinds.FLOAT, ["B", sizes["memory"]]),
    ]
    graph = helper.make_graph(nodes, "nothing", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = feed(agent, facts)
    return micros(lambda: session.run(None, given))[0]


def feed(agent: Any, facts: Any) -> dict[str, np.ndarray]:
    """One observation."""
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(1, facts.obs_size)).astype(np.float32),
        "prev_action": np.array([1]),
        "agent_id": np.array([agent.index]),
        "avail_actions": np.ones((1, facts.max_actions), bool),
        "memory": np.zeros((1, facts.memory_size), np.float32),
    }


def measured(run: Run, folder: Path, weights: Any) -> dict[str, Any]:
    """A row of the table."""
    out = folder / f"{run.learner.agent.hidden}-{weights}"
    write_agents(run, out, run.params(), weights=weights)
    team = deploy.load(out)
    agent, facts = team.agent(team.names[0]), team.facts
    obs = np.random.default_rng(0).normal(size=agent.obs_size).astype(np.float32)
    memory, legal = agent.reset(), np.ones(agent.n_actions, bool)
    act, p99 = micros(lambda: agent.act(obs, legal, memory))
    given = feed(agent, facts)
    run_us, _ = micros(lambda: agent._session.run(None, given))
    row = {
        "hidden": run.learner.agent.hidden,
        "weights": weights,
        "bytes": (out / "agents.onnx").stat().st_size,
        "act_us": act,
        "p99_us": p99,
        "run_us": run_us,
        "call_us": calling(agent, facts),
    }
    if weights == "float32":
        policy = run.agent(agent.name)
        start = policy.reset()
        row["jax_us"] = micros(lambda: policy.act(obs, legal, start), calls=300)[0]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one width")
    args = parser.parse_args()
    widths = (64,) if args.short else (64, 128, 256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [fresh_run(folder / str(width), width) for width in widths]
        report("deploy", [measured(run, folder, weights) for run in runs for weights in WEIGHTS])


if __name__ == "__main__":
    main()

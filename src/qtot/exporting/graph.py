"""One agent's network as an ONNX graph, its recurrent memory going in and coming out.

    obs [B, O], prev_action [B], agent_id [B], avail_actions [B, A], memory [B, K]
        → q [B, A], action [B], memory_out [B, K]

Plain operators of opset 17, so that any runtime has them. The numbers are those of
``Agent.unroll`` over one slot; the previous action -1 means none, as at an episode's start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qtot.core.agent import Agent, QNetwork
from qtot.core.eyes import CNN, WINDOW
from qtot.core.gru import GRU
from qtot.core.nn import LayerNorm, Linear
from qtot.core.statistics import CLIP, RunningStats
from qtot.errors import QtotError
from qtot.extras import extra_module

OPSET = 17
IR = 8
"""of ONNX 1.10 to 1.12: ONNX Runtime 1.12 and newer read it"""


@dataclass
class Graph:
    """Nodes and constants as they are added."""

    half: bool
    """matrices are kept as float16, and widened when the network is loaded"""
    onnx: Any = field(default_factory=lambda: extra_module("onnx", "onnx"))
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, value: Any) -> str:
        """A named array; small vectors of integers keep their type."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        if self.half and array.ndim > 1 and array.dtype == np.float32:
            largest = float(np.abs(array).max(initial=0.0))
            if largest > float(np.finfo(np.float16).max):
                raise QtotError(f"{name} holds {largest:g}, which float16 cannot; take float32")
            stored = self.constant_as_is(f"{name}.float16", array.astype(np.float16))
            return self.add("Cast", [stored], name, to=self.onnx.TensorProto.FLOAT)
        return self.constant_as_is(name, array)

    def constant_as_is(self, name: str, array: np.ndarray) -> str:
        """The same, in the type it has."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One operator; returns the name of what comes out."""
        node = self.onnx.helper.make_node(op, inputs, [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def linear(self, x: str, layer: Linear, name: str) -> str:
        """``x @ weight.T + bias``."""
        weight = self.constant(f"{name}.weight", layer.weight)
        return self.gemm(x, weight, self.constant(f"{name}.bias", layer.bias), name)

    def gemm(self, x: str, weight: str, bias: str, name: str) -> str:
        """The same, of constants that are there."""
        return self.add("Gemm", [x, weight, bias], name, transB=1)

    def relu(self, x: str) -> str:
        """Negative numbers made zero."""
        return self.add("Relu", [x], f"{x}.relu")

    def one_hot(self, index: str, size: int, name: str) -> str:
        """``[B, size]``: rows of zeros but for one; all zeros where the index is -1."""
        column = self.add("Unsqueeze", [index, "axis_1"], f"{name}.column")
        places = self.constant(f"{name}.places", np.arange(size, dtype=np.int64)[None])
        equal = self.add("Equal", [column, places], f"{name}.equal")
        return self.add("Cast", [equal], name, to=self.onnx.TensorProto.FLOAT)


def agent_graph(
    agent: Agent,
    network: QNetwork,
    obs_size: int,
    stats: RunningStats | None = None,
    *,
    half: bool = False,
) -> Any:
    """The ONNX model of one set of parameters.

    Args:
        agent: the team's.
        network: whose arrays are of one agent (or of all, who share it).
        obs_size: O.
        stats: by which observations are standardised, ``[N, O]``, if they are.
        half: matrices as float16.

    Raises:
        QtotError: packages are missing, or the network has a part that cannot be exported.
    """
    g = Graph(half)
    g.constant("axis_1", np.array([1], np.int64))
    obs = "obs" if stats is None else _standardised(g, stats)
    inputs = [_eyes(g, network.eyes, obs)]
    if agent.config.prev_action:
        inputs.append(g.one_hot("prev_action", agent.n_actions, "prev_action.one_hot"))
    if agent.config.agent_id:
        inputs.append(g.one_hot("agent_id", agent.n_agents, "agent_id.one_hot"))
    x = g.add("Concat", inputs, "inputs", axis=1)
    for i, layer in enumerate(network.encoder):
        x = g.linear(x, layer, f"encoder.{i}")
        x = g.relu(_norm(g, x, network.norms[i], f"norms.{i}") if network.norms else x)
    if isinstance(network.memory, GRU):
        hidden = _gru(g, x, network.memory)
    else:
        hidden = g.relu(g.linear(x, network.memory, "memory.layer"))
        g.add("Identity", ["memory"], "memory_out")
    weight = g.constant("head.weight", network.head.weight)
    g.gemm(hidden, weight, g.constant("head.bias", network.head.bias), "q")
    never = g.constant("never", np.float32(-np.inf))
    legal = g.add("Where", ["avail_actions", "q", never], "q.legal")
    g.add("ArgMax", [legal], "action", axis=1, keepdims=0)
    return _model(g, agent, obs_size)


def _standardised(g: Graph, stats: RunningStats) -> str:
    """As ``core.statistics.standardise``: each agent by its own moments."""
    n = float(stats.n)
    variance = np.asarray(stats.m2) / max(n, 1.0) if n > 0 else np.ones_like(np.asarray(stats.m2))
    deviation = np.sqrt(variance.astype(np.float32) + np.float32(1e-6))
    means = g.constant_as_is("obs.means", np.asarray(stats.mean, np.float32))
    deviations = g.constant_as_is("obs.deviations", deviation.astype(np.float32))
    mean = g.add("Gather", [means, "agent_id"], "obs.mean", axis=0)
    deviation = g.add("Gather", [deviations, "agent_id"], "obs.deviation", axis=0)
    centred = g.add("Sub", ["obs", mean], "obs.centred")
    scaled = g.add("Div", [centred, deviation], "obs.scaled")
    low, high = g.constant("low", np.float32(-CLIP)), g.constant("high", np.float32(CLIP))
    return g.add("Clip", [scaled, low, high], "obs.standardised")


def _eyes(g: Graph, eyes: Any, obs: str) -> str:
    if eyes is None:
        return obs
    if not isinstance(eyes, CNN):
        from qtot.exporting.own import own_module

        return own_module(g, eyes, obs, OPSET)
    rows, columns, channels = eyes.obs_shape
    shape = g.constant("image.shape", np.array([-1, rows, columns, channels], np.int64))
    image = g.add("Reshape", [obs, shape], "image")
    x = g.add("Transpose", [image], "image.channels_first", perm=[0, 3, 1, 2])
    for i, layer in enumerate(eyes.layers):
        outputs, inputs = layer.weight.shape[0], layer.weight.shape[1] // WINDOW**2
        kernel = np.asarray(layer.weight).reshape(outputs, WINDOW, WINDOW, inputs)
        weight = g.constant(f"eyes.{i}.weight", kernel.transpose(0, 3, 1, 2))
        bias = g.constant(f"eyes.{i}.bias", layer.bias)
        x = g.relu(g.add("Conv", [x, weight, bias], f"eyes.{i}", pads=[1, 1, 1, 1]))
    x = g.add("Transpose", [x], "image.channels_last", perm=[0, 2, 3, 1])
    return g.add("Flatten", [x], "features", axis=1)


def _norm(g: Graph, x: str, norm: LayerNorm, name: str) -> str:
    scale, bias = g.constant(f"{name}.weight", norm.weight), g.constant(f"{name}.bias", norm.bias)
    return g.add("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=1e-5)


def _gru(g: Graph, x: str, gru: GRU) -> str:
    """The cell of ``core/gru.py``; the hidden state is ``memory_out``."""
    sides = []
    for side, inputs in (("ih", x), ("hh", "memory")):
        weight = g.constant(f"memory.weight_{side}", getattr(gru, f"weight_{side}"))
        bias = g.constant(f"memory.bias_{side}", getattr(gru, f"bias_{side}"))
        gates = g.gemm(inputs, weight, bias, f"memory.gates_{side}")
        names = [f"memory.{gate}_{side}" for gate in "rzn"]
        node = g.onnx.helper.make_node("Split", [gates], names, name=f"{gates}.split", axis=1)
        g.nodes.append(node)
        sides.append(names)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = sides
    r = g.add("Sigmoid", [g.add("Add", [r_x, r_h], "memory.r_sum")], "memory.r")
    z = g.add("Sigmoid", [g.add("Add", [z_x, z_h], "memory.z_sum")], "memory.z")
    gated = g.add("Mul", [r, n_h], "memory.n_gated")
    n = g.add("Tanh", [g.add("Add", [n_x, gated], "memory.n_sum")], "memory.n")
    one = g.constant("one", np.float32(1.0))
    new = g.add("Mul", [g.add("Sub", [one, z], "memory.1-z"), n], "memory.new")
    return g.add("Add", [new, g.add("Mul", [z, "memory"], "memory.kept")], "memory_out")


def _model(g: Graph, agent: Agent, obs_size: int) -> Any:
    helper, kinds = g.onnx.helper, g.onnx.TensorProto
    actions, memory = agent.n_actions, agent.memory_size

    def value(name: str, kind: int, *sizes: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["B", *sizes])

    graph = helper.make_graph(
        g.nodes,
        "agent",
        [
            value("obs", kinds.FLOAT, obs_size),
            value("prev_action", kinds.INT64),
            value("agent_id", kinds.INT64),
            value("avail_actions", kinds.BOOL, actions),
            value("memory", kinds.FLOAT, memory),
        ],
        [
            value("q", kinds.FLOAT, actions),
            value("action", kinds.INT64),
            value("memory_out", kinds.FLOAT, memory),
        ],
        g.constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="qtot"
    )
    model.ir_version = IR
    g.onnx.checker.check_model(model, full_check=True)
    return model

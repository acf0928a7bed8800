"""A module of the user's own as a part of the graph, converted by jax2onnx."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from qtot.core.eyes import OwnModule
from qtot.errors import QtotError
from qtot.extras import extra_module
from qtot.shapes import features

if TYPE_CHECKING:
    from qtot.exporting.graph import Graph


def own_module(g: Graph, eyes: OwnModule, obs: str, opset: int) -> str:
    """What the module makes of ``obs``.

    Raises:
        QtotError: jax2onnx is missing, or does not know one of the module's operations.
    """
    to_onnx = extra_module("jax2onnx", "jax2onnx").to_onnx
    chatty = logging.getLogger("onnx_ir")
    before = chatty.level
    chatty.setLevel(logging.ERROR)  # it tells of shapes that it leaves out
    try:
        model = to_onnx(
            eyes,
            [("B", features(eyes.obs_shape))],
            model_name="own",
            opset=opset,
        )
    except Exception as error:  # of many classes
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise QtotError(
            f"the network of your own cannot be exported: jax2onnx does not convert it ({reason})"
        ) from error
    finally:
        chatty.setLevel(before)
    model = g.onnx.compose.add_prefix(model, "eyes/")
    (given,), (made,) = model.graph.input, model.graph.output
    loops = any(part.HasField("g") for node in model.graph.node for part in node.attribute)
    if model.functions or len(model.opset_import) != 1 or loops:
        raise QtotError(
            "the network of your own cannot be exported: jax2onnx makes functions or loops of it"
        )
    for node in model.graph.node:
        node.input[:] = [obs if name == given.name else name for name in node.input]
    g.nodes.extend(model.graph.node)
    g.constants.extend(model.graph.initializer)
    return made.name

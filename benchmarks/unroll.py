"""The GRU's unroll: each implementation, forward and with gradients, as JSON.

    python benchmarks/unroll.py                all shapes
    python benchmarks/unroll.py --short        the first two, fewer repeats

Times are medians; the implementations of a shape take turns, so that what else the machine does
meets all of them. Beside each stands the useful arithmetic (products only, the backward pass
counted as two forwards) and its share of the f32 matrix product rate, which is measured in the same
turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.random import bernoulli, key, normal, split

from qtot.core.gru import GRU, Implementation, unroll_gru
from qtot.core.gru_xla import Weights
from qtot.training.resources import device_facts, versions


class Shape(NamedTuple):
    """Slots, sequences (batch times agents), features of the input, recurrent width."""

    T: int
    B: int
    inputs: int
    H: int


PRODUCT = 1024  # side of the matrices whose product is the machine's limit
SHAPES = (
    Shape(129, 20, 64, 64),
    Shape(129, 160, 64, 64),
    Shape(33, 48, 64, 64),
    Shape(33, 960, 64, 64),
    Shape(65, 32, 128, 128),
    Shape(33, 32, 256, 256),
)


def given(shape: Shape) -> tuple[Any, ...]:
    """Inputs, weights, where episodes begin, memory."""
    keys = split(key(0), 4)
    gru = GRU(keys[0], shape.inputs, shape.H, "torch")
    weights = Weights(gru.weight_ih, gru.weight_hh, gru.bias_ih, gru.bias_hh)
    x = normal(keys[1], (shape.T, shape.B, shape.inputs))
    first = bernoulli(keys[2], 0.02, (shape.T, shape.B))
    return x, weights, first, normal(keys[3], (shape.B, shape.H))


def with_gradients(implementation: Implementation) -> Any:
    """Of inputs, weights and memory, as a loss of every hidden state gives them."""

    def loss(x: Any, weights: Any, memory: Any, first: Any) -> jax.Array:
        return jnp.sum(unroll_gru(x, weights, first, memory, implementation=implementation) ** 2)

    gradients = jax.value_and_grad(loss, (0, 1, 2))
    return jax.jit(lambda x, weights, first, memory: gradients(x, weights, memory, first))


def measure(shape: Shape, implementations: list[Implementation], repeats: int) -> dict[str, Any]:
    """Milliseconds per call, and the share of the matrix product rate."""
    args = given(shape)
    programs: dict[tuple[str, str], Any] = {}
    for name in implementations:
        programs[name, "forward"] = jax.jit(partial(unroll_gru, implementation=name))
        programs[name, "gradients"] = with_gradients(name)
    square, multiply = jnp.ones((PRODUCT, PRODUCT)), jax.jit(jnp.matmul)
    programs["product", ""] = lambda *_: multiply(square, square)
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(*args))
    for _ in range(repeats):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - began)
    gflop = 2e-9 * shape.T * shape.B * 3 * shape.H * (shape.inputs + shape.H)
    useful = {"forward": gflop, "gradients": 3 * gflop}
    rate = 2e-9 * PRODUCT**3 / statistics.median(seconds.pop(("product", "")))
    found: dict[str, Any] = {
        **shape._asdict(),
        "gflop": {part: round(value, 3) for part, value in useful.items()},
        "product_gflops": round(rate),
    }
    for (name, part), each in seconds.items():
        median = statistics.median(each)
        found.setdefault(name, {})[part] = {
            "ms": round(1e3 * median, 2),
            "share_of_product_rate": round(useful[part] / median / rate, 3),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two shapes, fewer repeats")
    short = parser.parse_args().short
    shapes, repeats = (SHAPES[:2], 7) if short else (SHAPES, 15)
    implementations: list[Implementation] = ["plain", "xla"]
    if jax.default_backend() == "gpu":
        implementations.append("pallas")
    facts = {"device": device_facts(), "versions": versions()}
    results = [measure(shape, implementations, repeats) for shape in shapes]
    print(json.dumps({**facts, "results": results}, indent=2))


if __name__ == "__main__":
    main()

"""End-to-end training speed: environment steps and learner updates per second, as JSON.

    python benchmarks/train.py                 smax/3m, smax/2s3z, mpe/simple_spread
    python benchmarks/train.py --short         smax/3m only, fewer steps

Default preset, one seed. Each figure is the median over chunks after the first; compilation is
reported apart. The machine's f32 matrix product rate is measured in the same run, so that figures
of different machines can be compared as ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from qtot.config import nested_replace
from qtot.envs import make_env
from qtot.presets import preset_config
from qtot.training.ingraph import Program
from qtot.training.resources import device_facts, versions


def gflops(size: int = 1024, repeats: int = 10) -> float:
    """The machine's limit: an f32 matrix product, best of ``repeats``."""
    x = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def measure(env: str, algo: str, chunks: int, chunk_steps: int) -> dict[str, Any]:
    """Speed of one task."""
    steps = chunk_steps * (chunks + 1)
    config = nested_replace(preset_config(env, algo), {"steps": steps})
    program = Program.make(make_env(env), config)
    began = time.perf_counter()
    state = jax.block_until_ready(jax.jit(program.init)())
    chunk = jax.jit(program.chunk, donate_argnums=0).lower(state, jnp.int32(0)).compile()
    compile_s = time.perf_counter() - began
    steps_per_s, updates_per_s = [], []
    for i in range(chunks + 1):
        began = time.perf_counter()
        state, progress = jax.block_until_ready(chunk(state, jnp.int32(chunk_steps * (i + 1))))
        seconds = time.perf_counter() - began
        if i:  # the first touches fresh memory and waits for the replay
            steps_per_s.append(float(progress.collected.transitions[0]) / seconds)
            updates_per_s.append(float(progress.updates[0]) / seconds)
    return {
        "env": env,
        "algo": algo,
        "compile_s": round(compile_s, 1),
        "steps_per_s": round(statistics.median(steps_per_s)),
        "updates_per_s": round(statistics.median(updates_per_s), 1),
        "batch": config.replay.batch,
        "length": config.replay.length,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="smax/3m only, fewer steps")
    short = parser.parse_args().short
    tasks = ["smax/3m"] if short else ["smax/3m", "smax/2s3z", "mpe/simple_spread"]
    chunks, chunk_steps = (3, 10_000) if short else (5, 20_000)
    results = [measure(task, "qmix", chunks, chunk_steps) for task in tasks]
    facts = {"device": device_facts(), "versions": versions(), "gflops_f32": round(gflops())}
    print(json.dumps({**facts, "results": results}, indent=2))


if __name__ == "__main__":
    main()

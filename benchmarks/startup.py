"""Seconds from typing ``qtot train`` to the first learner update, as JSON: cold, then warm.

    python benchmarks/startup.py               smax/3m, one cold start and three warm ones
    python benchmarks/startup.py --env mpe/simple_spread --warm 5

Each start is a process of its own; the first finds an empty cache of compiled programs, the others
what it left. ``cpu_s`` is processor time of all threads until then: on a busy machine the steadier
figure. ``trace``, ``lower``, ``compile`` and ``load`` (from the cache) are JAX's own clocks, each
summed over programs, several of which are made at once; the others are moments since the start.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLOCKS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
    "/jax/compilation_cache/cache_retrieval_time_sec": "load",
}


def child(env: str, out: str, began: float) -> None:
    """One start of the command, with a look at the clock after each stage."""
    from qtot.cli import main as command

    at: dict[str, float] = {}
    sums = dict.fromkeys(CLOCKS.values(), 0.0)

    def mark(stage: str) -> None:
        at.setdefault(stage, round(time.time() - began, 2))

    mark("python")
    import jax

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in CLOCKS:
            sums[CLOCKS[event]] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    mark("import jax")
    from qtot.training.engine import InGraph
    from qtot.training.world import World

    mark("import qtot")
    open_world, program, start_all = World.open, InGraph._program, InGraph.start

    def timed_open(*args: Any) -> World:
        made = open_world(*args)
        mark("environment")
        return made

    def timed_start(self: InGraph, resumed: Any = None) -> Any:
        mark("header")
        state = start_all(self, resumed)
        mark("compiled")
        return state

    def timed_program(self: InGraph, name: str) -> Any:
        made = program(self, name)

        def chunk(*args: Any) -> Any:
            result = jax.block_until_ready(made(*args))
            if result.progress.updates.sum() and "first update" not in at:
                mark("first update")
                used = resource.getrusage(resource.RUSAGE_SELF)
                at["cpu_s"] = round(used.ru_utime + used.ru_stime, 2)
                at.update({k: round(v, 2) for k, v in sums.items()})
            return result

        return chunk if name == "chunk" else made

    setattr(World, "open", staticmethod(timed_open))  # noqa: B010 (its type says no)
    InGraph.start, InGraph._program = timed_start, timed_program
    steps = ["--steps", "4000", "--log-every", "1000", "--evaluation.final-episodes", "64"]
    code = command(["train", "--env", env, *steps, "--out", out, "--quiet"])
    print(json.dumps(at))
    sys.exit(code)


def start(env: str, cache: str) -> dict[str, float]:
    """One process."""
    with tempfile.TemporaryDirectory() as out:
        began = time.time()
        done = subprocess.run(
            [sys.executable, __file__, "--child", f"{began}", "--env", env, "--out", f"{out}/run"],
            env={**os.environ, "QTOT_CACHE": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="smax/3m")
    parser.add_argument("--warm", type=int, default=3, help="warm starts, 1 or more")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--out", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.env, args.out, args.child)
    with tempfile.TemporaryDirectory() as cache:
        cold = start(args.env, cache)
        starts = [start(args.env, cache) for _ in range(args.warm)]
        size = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
    warm = {k: round(statistics.median(s[k] for s in starts), 2) for k in starts[0]}
    result = {"env": args.env, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    print(json.dumps({**result, "cache_bytes": size, "cold": cold, "warm": warm}, indent=2))


if __name__ == "__main__":
    main()

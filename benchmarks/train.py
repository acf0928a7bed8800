"""End-to-end training speed: environment steps and learner updates per second.

    python benchmarks/train.py                 smax/3m, smax/2s3z, mpe/simple_spread
    python benchmarks/train.py --short         smax/3m only, fewer steps

Default preset, one seed. Each figure is the median over chunks once learning has started;
compilation is reported apart. ``learner_of_peak`` is the learner's useful matrix products per
second of training (``common.update_gflop``) over the rate of a large matrix product on all cores:
what is missing to 1 is environments, acting, elementwise work and waiting.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import Limits, Training, configure, median, report, sequences, update_gflop


def measure(env: str, algo: str, chunks: int, chunk_steps: int) -> dict[str, Any]:
    """Speed of one task."""
    config = configure(env, algo, steps=2**20)
    training = Training(config)
    compile_s = training.compile()
    training.fill()
    training.run(chunk_steps)  # touches fresh memory
    pieces = [training.run(chunk_steps) for _ in range(chunks)]
    limits = Limits.measure()
    updates_per_s = median(p.updates / p.seconds for p in pieces)
    gflop = update_gflop(training.spec, config)
    return {
        "env": env,
        "algo": algo,
        "compile_s": compile_s,
        "steps_per_s": median(p.rate for p in pieces),
        "updates_per_s": updates_per_s,
        "batch": sequences(config),
        "length": config.replay.length,
        "learner_of_peak": gflop * updates_per_s / limits.gflops,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="smax/3m only, fewer steps")
    short = parser.parse_args().short
    tasks = ["smax/3m"] if short else ["smax/3m", "smax/2s3z", "mpe/simple_spread"]
    chunks, chunk_steps = (3, 10_000) if short else (5, 20_000)
    rows = [measure(task, "qmix", chunks, chunk_steps) for task in tasks]
    report("train", rows, Limits.measure())


if __name__ == "__main__":
    main()

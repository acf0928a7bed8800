"""One learner update with its sampling, against what the machine could do.

    python benchmarks/learner.py            3m, 2s3z and simple_spread
    python benchmarks/learner.py --short    2s3z at the sizes JaxMARL is compared at

``update_ms`` is an update within a loop, as training does it; ``single_ms`` a program of one
update, which asks the system for its memory anew each time. ``gflop`` counts matrix products by
formula (``common.update_gflop``); ``limit_ms`` is what they would take at the rate of a large
matrix product, measured beside; ``of_peak`` is that over ``update_ms``. ``sample_ms`` is sampling
alone, ``copy_ms`` what reading and writing the sampled bytes takes at the machine's copy rate.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import (
    LOOP,
    Limits,
    Training,
    configure,
    median,
    report,
    same_size,
    seconds,
    update_gflop,
)

from qtot.config import TrainConfig
from qtot.training.resources import nbytes


def measure(name: str, config: TrainConfig, repeats: int) -> dict[str, Any]:
    """One shape."""
    training = Training(config)
    training.compile()
    training.fill()
    sample = training.part("sample")
    update_s = median(seconds(training.part("updates"), repeats)) / LOOP
    single_s = median(seconds(training.part("update"), repeats))
    sample_s = median(seconds(sample, repeats))
    limits = Limits.measure()
    gflop = update_gflop(training.spec, config)
    ring, stored = training.program.replay, training.state.seeds.replay
    assert ring is not None
    read = nbytes(stored) / (ring.rows * ring.envs) * config.replay.batch
    return {
        "shapes": name,
        "env": config.env,
        "T": config.replay.length,
        "B": config.replay.batch,
        "N": training.spec.n_agents,
        "gflop": gflop,
        "update_ms": 1e3 * update_s,
        "single_ms": 1e3 * single_s,
        "limit_ms": 1e3 * gflop / limits.gflops,
        "of_peak": gflop / limits.gflops / update_s,
        "sample_ms": 1e3 * sample_s,
        "copy_ms": 1e3 * 2 * read / 1e9 / limits.copy_gb_s,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one shape, fewer repeats")
    short = parser.parse_args().short
    tasks = ("smax/2s3z", "smax/3m", "mpe/simple_spread")
    shapes = [("jaxmarl", same_size(env)) for env in tasks]
    shapes += [("default", configure(env, data="replay")) for env in tasks]
    rows = [measure(*shape, 5 if short else 15) for shape in (shapes[:1] if short else shapes)]
    report("learner", rows, Limits.measure())


if __name__ == "__main__":
    main()

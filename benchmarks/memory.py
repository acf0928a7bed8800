"""Memory: replay bytes per stored step by task, and the peak of short runs.

    python benchmarks/memory.py            all kinds of tasks
    python benchmarks/memory.py --short    smax/3m and smax/2s3z

``bytes_per_step`` is the replay's size over the slots it holds, all of it counted, at sequences of
128 slots. ``float32_bytes`` is what one step holds when nothing is packed or left out: float32
observations and state, one byte for each agent's action and liveness and each legal action, five
for the rewards and flags. ``peak_mb`` is the largest resident size of the process of a short run of
``qtot train`` with the default preset, of which ``replay_mb`` is its replay, and ``import_mb`` what
a process takes that only makes a JAX array.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from typing import Any

from common import configure, jax_env, replay_bytes, report

from qtot.config import TrainConfig

TASKS = (
    "smax/2s3z",
    "smax/3m",
    "smax/27m_vs_30m",
    "mpe/simple_spread",
    "overcooked/cramped_room",
    "hanabi/2p",
    "matrix/two_step",
)


# A process counts the size of the one that started it, so a small one stands in between.
STARTER = """
import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_mb(command: list[str]) -> float:
    """Largest resident size of a process."""
    started = subprocess.run(
        [sys.executable, "-c", STARTER, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    largest = int(started.stdout.split()[-1])
    return largest / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB here


def peak_of_run(env: str, steps: int) -> float:
    """Of a short training run."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--env", env, "--steps", str(steps), "--quiet", "--out", f"{folder}/run"]
        return peak_mb([sys.executable, "-m", "qtot", "train", *flags])


def unpacked(config: TrainConfig) -> int:
    """Bytes of a step as it is seen."""
    spec = jax_env(config.env).spec
    n = spec.n_agents
    return 4 * (n * spec.obs_size + spec.state_size) + n * (spec.max_actions + 2) + 4 + 3


def measure(env: str, steps: int) -> dict[str, Any]:
    """One task; ``steps`` 0 runs nothing."""
    config = configure(env, data="replay")
    rows = configure(env, data="replay", replay={"sequences": "segments", "length": 128})
    per_slot = replay_bytes(config)
    return {
        "env": env,
        "bytes_per_step": round(replay_bytes(rows)),
        "float32_bytes": unpacked(config),
        "replay_mb": per_slot * config.replay.capacity * config.replay.length / 2**20,
        "peak_mb": peak_of_run(env, steps) if steps else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two tasks, one run")
    short = parser.parse_args().short
    tasks = TASKS[:2] if short else TASKS
    run = ("smax/3m",) if short else TASKS[:2]
    rows = [measure(env, 5_000 if env in run else 0) for env in tasks]
    bare = peak_mb([sys.executable, "-c", "import jax.numpy as jnp; jnp.ones(1) + 1"])
    report("memory", rows, import_mb=round(bare))


if __name__ == "__main__":
    main()

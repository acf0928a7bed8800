"""Run as a program of its own: the same training on 1, 2 and 8 devices of a simulated machine.

Prints JSON: for each case and number of devices, whether what depends on the configuration alone is
equal, and how far the rest is from one device.
"""

from __future__ import annotations

import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import functools
from typing import Any

import jax
import numpy as np

import everything
from qtot.envs import make_env
from qtot.training.ingraph import Program
from small import BUSY, small_config

ONLINE = BUSY | {"data": "online", "online": {"epochs": 2, "minibatches": 2}}

CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "replay": ("cw_qmix", BUSY, (1, 2, 8)),
    "on_policy": ("coma", BUSY, (1, 8)),
    "six_seeds_online": ("qmix", ONLINE | {"seeds": 6}, (1, 8)),
}
STEPS = 150
# Where a gradient is next to nothing, Adam divides rounding by rounding.
WELL_CONDITIONED = {"optimiser": {"lr": 1e-4, "eps": 1e-3}}


def distance(one: Any, other: Any) -> float:
    """The largest difference, as a share of the largest entry of its array."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) + 1e-6)) for a, b in pairs if a.size
    )


def main() -> None:
    # Compile quickly: values matter here, not speed.
    jax.config.update("jax_disable_most_optimizations", True)
    out: dict[str, Any] = {}
    with everything.registered():
        env = make_env(everything.NAME)
        for case, (algo, changes, counts) in CASES.items():
            config = small_config(everything.NAME, algo, **{**changes, **WELL_CONDITIONED})
            runs = {}
            for n in counts:
                program = Program.make(env, config, jax.devices()[:n])
                state = jax.jit(program.init)(program.config.seed)
                state = jax.jit(program.chunk)(state, np.int32(STEPS))
                progress = state.progress
                greedy = jax.jit(program.greedy)(
                    state.seeds.train, config.seed, np.int32(0), np.int32(0)
                )
                numpy = functools.partial(jax.tree.map, np.asarray)
                runs[n] = {
                    "mesh": list(program.mesh.devices.shape),
                    "pieces": program.collector.shards.pieces,
                    "updates": numpy(progress.updates),
                    "play": numpy((state.seeds.actors.stream, state.seeds.train.env_steps)),
                    "params": numpy(state.seeds.train.online),
                    "sums": numpy((state.seeds.train.stats, progress)),
                    "greedy": numpy(greedy),
                }
            one = runs[1]
            out[case] = {
                n: {
                    "mesh": run["mesh"],
                    "pieces": run["pieces"],
                    "updates": run["updates"].tolist(),
                    "same_play": all(
                        np.array_equal(x, y)
                        for x, y in zip(
                            jax.tree.leaves(one["play"]), jax.tree.leaves(run["play"]), strict=True
                        )
                    ),
                    **{k: distance(one[k], run[k]) for k in ("params", "sums", "greedy")},
                }
                for n, run in runs.items()
            }
    print(json.dumps(out))  # noqa: T201


if __name__ == "__main__":
    main()

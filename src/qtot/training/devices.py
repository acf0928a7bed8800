"""How a run is spread over devices: seeds first, which need not talk; then a seed's environments,
replay and batches, whose gradients are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qtot.config import TrainConfig
from qtot.core.shards import Shards
from qtot.errors import QtotError

SEED, DATA = "seed", "data"
MOST = 8  # logical shards: as many devices can share the work of one seed


def logical_shards(config: TrainConfig) -> int:
    """Pieces into which a seed's environments fall. The configuration alone decides."""
    envs = config.collect.envs
    at_once = envs // config.online.minibatches if config.data == "online" else config.replay.batch
    return math.gcd(MOST, envs, at_once)


def lay_out(config: TrainConfig, devices: Sequence[Any] | None = None) -> tuple[Mesh, Shards]:
    """The mesh ``[seed, data]`` over as many of ``devices`` (by default all that JAX has, on all
    hosts) as can share the work equally, and the logical shards.

    Raises:
        QtotError: some of several hosts would have nothing to do.
    """
    devices = jax.devices() if devices is None else devices
    count = logical_shards(config)
    by_seed = math.gcd(config.seeds, len(devices))
    by_data = max(n for n in range(1, len(devices) // by_seed + 1) if count % n == 0)
    used = by_seed * by_data
    if used < len(devices) and len({d.process_index for d in devices}) > 1:
        raise QtotError(
            f"{len(devices)} devices on several hosts cannot share {config.seeds} seeds equally, "
            f"nor a seed's work, which has {count} parts; take a number of --seeds that they "
            "divide, or give each process fewer devices "
            "(XLA_FLAGS=--xla_force_host_platform_device_count=4)"
        )
    mesh = Mesh(np.array(devices[:used]).reshape(by_seed, by_data), (SEED, DATA))
    return mesh, Shards(count, DATA if by_data > 1 else None)

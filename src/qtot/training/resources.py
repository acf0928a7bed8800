"""What a run needs of the machine, known before anything is allocated."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtot import __version__
from qtot.config import TrainConfig
from qtot.envs.stream import see
from qtot.errors import QtotError
from qtot.training.devices import SEED
from qtot.training.ingraph import Program
from qtot.training.state import RunState

HEADROOM = 0.8  # of the free memory; the rest is for activations, evaluation and the system


def nbytes(tree: Any) -> int:
    """Bytes of all arrays, which may be shapes only."""
    return sum(
        x.size * (x.dtype.itemsize if hasattr(x.dtype, "itemsize") else 8)
        for x in jax.tree.leaves(tree)
    )


def free_memory() -> int:
    """Bytes the device (or for a CPU the host) can still give; a guess where no one says."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_memory()


def host_memory() -> int:
    """Bytes that this host can still give."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    container = Path("/sys/fs/cgroup/memory.max")  # "max" where there is no limit
    limit = container.read_text().strip() if container.is_file() else ""
    return min(free, int(limit)) if limit.isdigit() else free


def check_memory(program: Program, shapes: RunState) -> dict[str, int]:
    """Bytes of the replay, of a rollout on its way there, and of networks and environments, of all
    seeds: what one device holds of them, or all CPU devices of this host, which share its memory.

    Raises:
        QtotError: they would not fit; says the largest capacity that does, or what else to shrink.
    """
    config, ring, seeds = program.config, program.replay, shapes.seeds
    devices = list(program.mesh.devices.flat)
    together = sum(d.process_index == jax.process_index() for d in devices)
    here = together if devices[0].platform == "cpu" else 1
    part, copies = here / len(devices), here / program.mesh.shape[SEED]
    if ring is None:
        actors, env = seeds.actors, program.collector.env
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), actors.stream)
        seen = jax.eval_shape(lambda stream: see(env, stream), one)
        reward_and_flags = (4 + 3) * config.collect.envs
        slot = config.seeds * (nbytes(seen) + reward_and_flags) + nbytes(actors.prev_action)
        per_row = (program.collector.slots + 1) * slot + nbytes(actors.memory)
    else:
        per_row = nbytes(seeds.replay) / ring.rows
    per_row *= part
    need = {
        "replay": int(part * nbytes(seeds.replay)),
        "rollout": int(per_row),
        "networks": int(2 * copies * nbytes(seeds.train)),  # and their gradients
        "environments": int(part * nbytes(seeds.actors)),
    }
    budget, total = int(HEADROOM * free_memory()), sum(need.values())
    if total > budget:
        rest = total - need["replay"]
        # Rows come one per environment, and segments need one more than they may sample.
        fits = int((budget - rest) / per_row - 2) * config.collect.envs
        if ring is not None and fits >= max(config.replay.batch, config.replay.warmup):
            advice = f"the largest --replay.capacity that fits is about {fits}"
        else:
            advice = "use fewer --seeds or --collect.envs, or a smaller --agent.hidden"
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in need.items())
        raise QtotError(
            f"this run needs {total / 2**30:.2f} GiB ({parts}), but only {budget / 2**30:.2f} GiB "
            f"may be used here; {advice}"
        )
    return need


def check_bytes(config: TrainConfig, seen: Any) -> None:
    """Whether the environment shows what ``--replay.dtype uint8`` can keep.

    Raises:
        QtotError: it does not.
    """
    if config.replay.dtype != "uint8" or config.data != "replay":
        return
    for name in ("obs", "state"):
        x = np.asarray(getattr(seen, name))
        wrong = x[(x != np.round(x)) | (x < 0) | (x > 255)]
        if wrong.size:
            raise QtotError(
                f"--replay.dtype uint8 keeps whole numbers from 0 to 255, but the environment's "
                f"{name} holds {float(wrong[0]):g}; take float16 or float32"
            )


def check_program(compiled: Any) -> None:
    """Whether there is room for a compiled program to work in, beside the state that it is given.

    Raises:
        QtotError: there is not; it has not been run yet.
    """
    need = int(getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0))
    if jax.default_backend() == "cpu":  # devices that share the host's memory
        need *= jax.local_device_count()
    budget = int(HEADROOM * free_memory())
    if need > budget:
        raise QtotError(
            f"the training program works in {need / 2**30:.2f} GiB, but only "
            f"{budget / 2**30:.2f} GiB may be used here; use a smaller --replay.batch (online: more"
            " --online.minibatches), --collect.envs or --agent.hidden"
        )


def peak_memory() -> dict[str, float]:
    """The most that this process ever held at once, in GiB, all included; and of the first device,
    where it has memory of its own.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats and jax.default_backend() != "cpu":
        peak["peak_device_gib"] = stats["peak_bytes_in_use"]
    return {name: round(value / 2**30, 3) for name, value in peak.items()}


def versions() -> dict[str, str]:
    """Of everything that decides the numbers."""
    names = ("jax", "jaxlib", "equinox", "optax", "numpy", "jaxmarl", "jumanji")
    found = {"qtot": __version__, "python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout that qtot runs from, ``-dirty`` if changed; None elsewhere."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=True, timeout=5
        )
        return done.stdout.strip()

    try:
        # A checkout of something else that merely holds an installed qtot is not ours.
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def device_facts() -> dict[str, Any]:
    """The device, and a warning when a GPU is there that JAX cannot use."""
    device = jax.local_devices()[0]
    facts: dict[str, Any] = {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.local_device_count(),
        "cpu_cores": os.cpu_count(),
    }
    if device.platform == "cpu" and any(Path("/dev").glob("nvidia[0-9]*")):
        facts["warning"] = (
            "this machine has an NVIDIA GPU, but JAX runs on the CPU; if it is the CPU build: "
            "pip install 'qtot[cuda]'"
        )
    return facts

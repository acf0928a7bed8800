"""What a run is, in words: all that is known before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from qtot.config import TrainConfig
from qtot.core.replay import Replay
from qtot.envs.spec import EnvSpec
from qtot.process import prepare
from qtot.training.engine import Engine
from qtot.training.resources import nbytes

PARTS = ("agent", "mixer", "critic")


def header(
    engine: Engine, spec: EnvSpec, *, device: dict[str, Any], memory: dict[str, int], out: Path
) -> dict[str, str]:
    """The lines of a run's header, by their titles.

    Args:
        engine: what will train.
        spec: of the environment.
        device: from ``device_facts``, and the ``mesh``.
        memory: from ``check_memory``.
        out: the run folder.
    """
    config = engine.program.config
    last = config.seed + config.seeds - 1
    lines = {
        "device": f"{device['kind']}, {device['cpu_cores']} CPU cores{_spread(device['mesh'])}",
        "settings": str(prepare()),
        **_environment(spec),
        "method": f"{config.algo} · preset {config.preset} · "
        + (f"seeds {config.seed} to {last}" if config.seeds > 1 else f"seed {config.seed}"),
        "begin as": config.init_agents and f"the agents of {config.init_agents}",
        "parameters": _parameters(engine.init.out_info.seeds.train.online, config.seeds),
        "workers": engine.workers,
        "data": _data(config, engine.program.replay, memory, device),
        "steps": f"{config.steps:,} per seed",
        "repeatable": engine.certainty,
        "run folder": str(out),
    }
    return {title: line for title, line in lines.items() if line}


def _parameters(networks: Any, seeds: int) -> str:
    """How many each part has; some methods lack one."""
    parts = {name: getattr(networks, name) for name in PARTS}
    return " · ".join(
        f"{name} {nbytes(part) // 4 // seeds:,}" for name, part in parts.items() if part is not None
    )


def _spread(mesh: dict[str, int]) -> str:
    """Over which devices the work is spread."""
    groups = (
        f"{mesh['seed']} groups of seeds" if mesh["seed"] > 1 else "",
        f"{mesh['data']} parts of each seed's environments" if mesh["data"] > 1 else "",
    )
    if not any(groups):
        return ""
    return f" · {mesh['seed'] * mesh['data']} devices: " + " x ".join(g for g in groups if g)


def _environment(spec: EnvSpec) -> dict[str, str]:
    """Its facts."""

    def span(values: tuple[int, ...]) -> str:
        same = len(set(values)) == 1
        return str(values[0]) if same else ", ".join(str(v) for v in values) + " (padded)"

    return {
        "environment": f"{spec.name} · {spec.about}" if spec.about else spec.name,
        "agents": f"{spec.n_agents} ({', '.join(spec.agents[:4])}{', ...' * (spec.n_agents > 4)})",
        "actions": f"{span(spec.n_actions)} · masks: {spec.masks}",
        "observation": span(spec.obs_sizes),
        "state": f"{spec.state_size} · from {spec.state_source}",
        "team reward": f"{spec.team_reward} · episode limit {spec.episode_limit}",
        "reports": ", ".join(spec.info) or "nothing but the return",
    }


def _data(
    config: TrainConfig, ring: Replay | None, memory: dict[str, int], device: dict[str, Any]
) -> str:
    """What is learned from, and how often."""
    whole = device["platform"] == "cpu" or math.prod(device["mesh"].values()) == 1
    where = "" if whole else " on each device"
    sequences, envs = config.replay.sequences, config.collect.envs
    if ring is None:
        epochs, parts = config.online.epochs, config.online.minibatches
        return (
            f"online: each rollout of {envs} {sequences} in {parts} minibatches, {epochs} "
            f"epoch{'s' * (epochs > 1)}; no replay"
        )
    return (
        f"replay of {ring.rows * ring.envs:,} {sequences} of {ring.stride} slots · "
        f"{human_bytes(memory['replay'])}{f' for {config.seeds} seeds' * (config.seeds > 1)}"
        f"{where} · {config.collect.update_ratio:.4g} updates per {config.collect.update_unit} · "
        f"batch {config.replay.batch}"
    )


def human_bytes(n: int) -> str:
    """1536 → '1.5 KiB'."""
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"

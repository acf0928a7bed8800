"""Presets: what a method is trained with, before the user's own changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.envs import family_of
from qtot.errors import QtotError, unknown

# Learns fast on a small machine. What pays most is the state at zero mean and unit deviation: raw
# SMAX positions reach 32, and hypernetworks fed with them diverge.
DEFAULT: dict[str, Any] = {
    "agent": {"layer_norm": True},
    "target": {"td_lambda": 0.8, "interval": 100},
    "optimiser": {"lr": 1e-3, "lr_end": 0.1},
    "scaling": {"normalise_state": True},
}

# PyMARL's published QMIX (Rashid et al. 2018; Samvelyan et al. 2019): one environment, whole
# episodes, one update of 32 episodes per episode.
PAPER: dict[str, Any] = {
    "steps": 2_050_000,
    "evaluation": {"every": 50_000, "episodes": 32, "final_episodes": 256},
    "agent": {"init": "torch"},
    "target": {"interval": 200, "td_lambda": 0.0},
    "optimiser": {"name": "rmsprop", "lr": 5e-4, "eps": 1e-5, "clip": 10.0, "lr_end": 1.0},
    "exploration": {"start": 1.0, "end": 0.05, "steps": 50_000},
    "replay": {"sequences": "episodes", "capacity": 5_000, "batch": 32, "warmup": 32},
    "collect": {"envs": 1, "update_ratio": 1.0, "update_unit": "episode"},
    "scaling": {"normalise_state": False},
}

# What the default preset changes where a family of environments wants it.
FAMILY: dict[str, dict[str, Any]] = {
    "matrix": {
        "steps": 20_000,
        "log_every": 1_000,
        # A lambda-return averages over what explorers play later, so a state that only pays when
        # both play right looks bad: exactly what these games are about.
        "target": {"td_lambda": 0.0},
        "replay": {"length": 4, "capacity": 2_000},
        "collect": {"envs": 8, "update_ratio": 1 / 8},
        "exploration": {"steps": 10_000},
        "scaling": {"normalise_state": False},
        "evaluation": {"every": 5_000, "episodes": 32, "final_episodes": 32},
    },
}
FAMILY["probe"] = FAMILY["matrix"]
FAMILY["smax"] = {"steps": 500_000}
# Every episode ends by time, in states that drift apart with time: bootstrapped from there, Q_tot
# grows without bound (measured: from -5 to 960 in 600k steps, with and without memory).
FAMILY["mpe"] = {"target": {"time_limit": "end"}, "scaling": {"reward_scale": 0.1}}

# What the paper's hyperparameters take for granted of an environment. EPyMARL, which published
# PyMARL's methods on mpe/, takes the limit for an end, too; SMAC's states come normalised, SMAX's
# do not.
PAPER_FAMILY: dict[str, dict[str, Any]] = {
    "mpe": {"target": {"time_limit": "end"}},
    "smax": {"scaling": {"normalise_state": True}},
}


def preset_config(env: str, algo: str = "qmix", preset: str = "default") -> TrainConfig:
    """The configuration before the user's own changes.

    Raises:
        QtotError: unknown environment family, algorithm or preset.
    """
    for name, value in (("env", env), ("algo", algo), ("preset", preset)):
        if not isinstance(value, str):
            raise QtotError(f"{name} must be a string, got {value!r}")
    family = family_of(env)
    if algo not in METHODS:
        raise unknown("algorithm", algo, METHODS)
    if preset not in ("default", "paper"):
        raise unknown("preset", preset, ("default", "paper"))
    config = replace(TrainConfig(), env=env, algo=algo, preset=preset)
    if preset == "paper":
        return nested_replace(nested_replace(config, PAPER), PAPER_FAMILY.get(family, {}))
    return nested_replace(nested_replace(config, DEFAULT), FAMILY.get(family, {}))

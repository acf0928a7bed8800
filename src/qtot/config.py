"""One run's configuration: the parts' dataclasses composed, presets, and what cannot be combined.

Precedence: dataclass defaults < preset (and its environment family) < what the user names.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from qtot.core.config import (
    AgentConfig,
    ExplorationConfig,
    MixerConfig,
    OptimiserConfig,
    ReplayConfig,
    ScalingConfig,
    TargetConfig,
)
from qtot.core.mixers import METHODS
from qtot.envs import family_of
from qtot.errors import QtotError, unknown

MAX_STEPS = 2**31 - 1  # env_steps is an int32 in the program


@dataclass(frozen=True)
class CollectConfig:
    """How experience is gathered, and how much is learned from it."""

    envs: int = 32
    """parallel environments; changes neither schedules nor the update ratio"""
    update_ratio: float = 1 / 64
    """learner updates per unit of experience; fractions are carried over"""
    update_unit: Literal["step", "episode"] = "step"
    """the unit: valid environment steps, or finished episodes"""


@dataclass(frozen=True)
class EvalConfig:
    """Greedy episodes on held-out keys while training goes on."""

    every: int = 100_000
    """environment steps between evaluations; 0 evaluates only at the end"""
    episodes: int = 64
    """episodes of each evaluation, one per parallel environment"""
    final_episodes: int = 256
    """episodes of the evaluation of the final policy"""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run."""

    env: str = "smax/3m"
    """environment, family/task ('qtot envs' lists them)"""
    algo: str = "qmix"
    """method: iql, vdn, vdn_s, qmix, qmix_lin, qmix_ns"""
    preset: Literal["default", "paper"] = "default"
    """default: learns fast on a small machine; paper: PyMARL's published hyperparameters"""
    steps: int = 1_000_000
    """environment steps (valid transitions) of each seed"""
    seed: int = 0
    """the first seed; it decides everything random"""
    seeds: int = 1
    """independent seeds trained at once: seed, seed + 1, ..."""
    log_every: int = 10_000
    """environment steps between rows of metrics.jsonl"""
    agent: AgentConfig = field(default_factory=AgentConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json``."""
        return asdict(self)

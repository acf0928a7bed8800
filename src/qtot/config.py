"""One run's configuration: the parts' dataclasses composed.

Precedence: dataclass defaults < preset (and its environment family) < what the user names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from qtot.core.config import (
    AgentConfig,
    CriticConfig,
    ExplorationConfig,
    LossConfig,
    MixerConfig,
    OnlineConfig,
    OptimiserConfig,
    ReplayConfig,
    ScalingConfig,
    TargetConfig,
)
from qtot.envs.host.config import HostConfig
from qtot.errors import unknown


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
    """environment steps between evaluations (at a row of the metrics); 0 evaluates only before the
    first step and after the last"""
    episodes: int = 64
    """episodes of each evaluation, one per parallel environment"""
    final_episodes: int = 256
    """episodes of the evaluation of the final policy, rounded up to a multiple of the above"""


@dataclass(frozen=True)
class CheckpointConfig:
    """Everything that a run needs to go on exactly, written while it trains. One is also written
    when it is stopped, and when it ends.
    """

    minutes: float = 5.0
    """minutes between checkpoints; 0: none by the clock"""
    steps: int = 0
    """environment steps between checkpoints (at a row of the metrics); 0: by the clock alone"""
    keep: int = 2
    """how many of the last ones stay; that of the best evaluation stays, too"""
    replay: Literal["auto", "always", "never"] = "auto"
    """whether what the replay holds is saved; auto: up to 2 GiB. Without it a resumed run plays
    --replay.warmup anew before it learns, and is not exactly the run that it would have been"""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run."""

    env: str = "smax/3m"
    """environment, family/task ('qtot envs' lists them)"""
    algo: str = "qmix"
    """method: iql, vdn, vdn_s, qmix, qmix_lin, qmix_ns, qatten, qplex, cw_qmix, ow_qmix, qtran,
    coma"""
    preset: Literal["default", "paper"] = "default"
    """default: learns fast on a small machine; paper: PyMARL's published hyperparameters"""
    data: Literal["replay", "online"] = "replay"
    """replay: past experience, again and again, valued by target networks; online: each rollout for
    a few epochs, without replay or target networks (as PQN does for VDN, Gallici et al. 2025;
    the critic of coma keeps its target)"""
    steps: int = 1_000_000
    """environment steps (valid transitions) of each seed"""
    seed: int = 0
    """the first seed; it decides everything random"""
    seeds: int = 1
    """independent seeds trained at once: seed, seed + 1, ..."""
    matmul_precision: Literal["float32", "tf32"] = "float32"
    """matrix products on a GPU that has both: float32 is exact; tf32 is faster and
    keeps 10 bits of a factor's 23. A CPU knows float32 only"""
    log_every: int = 10_000
    """environment steps between rows of metrics.jsonl"""
    collectors: Literal["local", "ray"] = "local"
    """who steps environments written in Python: worker processes of this machine, or the actors of
    a Ray cluster (needs qtot[ray])"""
    ray_address: str = ""
    """the Ray cluster to join: auto, or HOST:PORT; empty: one is started on this machine"""
    init_agents: str = ""
    """run folder whose agents these begin as, with a fresh mixer and replay; teams may differ in
    size where observations and actions do not"""
    agent: AgentConfig = field(default_factory=AgentConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    host: HostConfig = field(default_factory=HostConfig)

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json``."""
        return asdict(self)

    @property
    def host_here(self) -> HostConfig:
        """For environments that this machine steps; ``workers`` may count actors elsewhere."""
        return self.host if self.collectors == "local" else replace(self.host, workers=-1)


def scheduled(config: TrainConfig) -> TrainConfig:
    """With schedules in absolute steps: more of them later change none."""
    steps = config.optimiser.steps or config.steps
    return replace(config, optimiser=replace(config.optimiser, steps=steps))


def products(config: TrainConfig) -> str:
    """``matmul_precision`` in JAX's word for it, for ``jax.default_matmul_precision``."""
    return {"float32": "float32", "tf32": "tensorfloat32"}[config.matmul_precision]


def nested_replace(config: Any, changes: dict[str, Any]) -> Any:
    """``dataclasses.replace`` through nested dataclasses.

    Raises:
        QtotError: a key that does not exist; names the nearest one.
    """
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    new = {}
    for key, value in changes.items():
        if key not in known:
            raise unknown(f"option of {type(config).__name__}", key, known)
        new[key] = value
        if is_dataclass(known[key]) and isinstance(value, dict):
            new[key] = nested_replace(known[key], value)
        elif isinstance(known[key], tuple) and isinstance(value, list):
            new[key] = tuple(value)
    return replace(config, **new)

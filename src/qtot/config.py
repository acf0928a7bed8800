"""One run's configuration: the parts' dataclasses composed, presets, and what cannot be combined.

Precedence: dataclass defaults < preset (and its environment family) < what the user names.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
from qtot.core.methods import METHODS
from qtot.envs.host.config import HostConfig
from qtot.errors import QtotError, unknown

MAX_STEPS = 2**30  # env_steps is an int32 in the program, and may overshoot by an iteration
LARGE = 2**30  # sizes above are mistakes


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
    host: HostConfig = field(default_factory=HostConfig)

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json``."""
        return asdict(self)

    @property
    def host_here(self) -> HostConfig:
        """For environments that this machine steps; ``workers`` may count actors elsewhere."""
        return self.host if self.collectors == "local" else replace(self.host, workers=-1)


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


def validate(config: TrainConfig) -> TrainConfig:
    """The same configuration, or the first thing that is wrong with it.

    Raises:
        QtotError: names the option, what was expected and what was got.
    """
    _check_choices(config, "")
    if config.algo not in METHODS:
        raise unknown("algorithm", config.algo, METHODS)
    for where, low, high in RANGES:
        value: Any = config
        for part in where.split("."):
            value = getattr(value, part)
        _check_range(where, value, low, high)
    for where in ("encoder", "cnn"):
        for width in getattr(config.agent, where):
            _check_range(f"agent.{where}", width, 1, LARGE)
    _check_agent(config.agent)
    _check_info(config.host)
    if METHODS[config.algo].on_policy and config.data != "online":
        raise QtotError(f"{config.algo} learns on-policy: --data must be online, got {config.data}")
    if config.data == "online" and config.collect.envs % config.online.minibatches:
        raise QtotError(
            f"online.minibatches {config.online.minibatches} must divide collect.envs "
            f"{config.collect.envs}"
        )
    if config.seed + config.seeds > 2**31:
        raise QtotError(
            f"seed {config.seed} and the {config.seeds} seeds from there on pass 2**31 - 1, the "
            "last there is; begin with a smaller one"
        )
    target, replay = config.target, config.replay
    if target.n_step > 1 and target.td_lambda > 0:
        raise QtotError(
            f"target.n_step {target.n_step} and target.td_lambda {target.td_lambda} exclude each "
            "other; keep n_step 1 for TD(lambda), or td_lambda 0 for n-step returns"
        )
    if replay.sequences == "segments" and replay.burn_in >= replay.length:
        raise QtotError(
            f"replay.burn_in {replay.burn_in} leaves nothing of replay.length {replay.length} to "
            "learn from; make it smaller"
        )
    if replay.sequences == "episodes" and replay.burn_in:
        raise QtotError(
            f"replay.burn_in {replay.burn_in} with replay.sequences episodes: whole episodes start "
            "with an empty memory and need no burn-in; set it to 0, or use segments"
        )
    _check_collectors(config)
    if replay.warmup > replay.capacity and config.data == "replay":
        raise QtotError(
            f"replay.warmup {replay.warmup} is more than replay.capacity {replay.capacity}, so "
            "learning would never start; make it smaller"
        )
    return config


def _check_collectors(config: TrainConfig) -> None:
    if config.collectors == "ray" and config.host.workers == 0:
        raise QtotError(
            "host.workers 0 steps environments in this process, and --collectors ray in actors; "
            "give a number of actors, or -1 for one per CPU of the cluster"
        )
    if config.collectors == "local" and config.ray_address:
        raise QtotError(
            f"ray_address {config.ray_address!r} is for --collectors ray, got local; name both"
        )


def _check_info(host: HostConfig) -> None:
    if taken := {"return", "length", "episodes", "seed", "return_std"} & set(host.info):
        raise QtotError(
            f"host.info {sorted(taken)[0]!r} is the name of a metric already; report the scalar "
            "under another name"
        )


def _check_agent(agent: AgentConfig) -> None:
    groups = agent.groups
    if (agent.sharing == "groups") != bool(groups):
        raise QtotError(
            f"agent.sharing {agent.sharing} with agent.groups {groups or 'empty'}: name every "
            "agent's group with sharing groups, and only there"
        )
    if sorted(set(groups)) != list(range(len(set(groups)))):
        raise QtotError(
            f"agent.groups must count its groups from 0 without a gap, such as 0 0 1, got {groups}"
        )
    if agent.cnn and agent.module:
        raise QtotError("agent.cnn and agent.module exclude each other; choose one")


# option, smallest, largest; an open bound is written as the next number a float can hold
ABOVE_ZERO = math.ulp(0.0)
RANGES: tuple[tuple[str, float, float], ...] = (
    ("steps", 1, MAX_STEPS),
    ("seeds", 1, LARGE),
    ("seed", 0, 2**31 - 1),
    ("log_every", 1, LARGE),
    ("agent.hidden", 1, LARGE),
    ("mixer.embed", 1, LARGE),
    ("mixer.hypernet_embed", 1, LARGE),
    ("mixer.heads", 1, LARGE),
    ("critic.embed", 1, LARGE),
    ("critic.lr_ratio", ABOVE_ZERO, MAX_STEPS),
    ("loss.alpha", 0.0, 1.0),
    ("loss.opt", 0.0, MAX_STEPS),
    ("loss.nopt", 0.0, MAX_STEPS),
    ("target.gamma", 0.0, 1.0),
    ("target.td_lambda", 0.0, 1.0),
    ("target.n_step", 1, LARGE),
    ("target.interval", 1, LARGE),
    ("target.tau", ABOVE_ZERO, 1.0),
    ("optimiser.lr", ABOVE_ZERO, MAX_STEPS),
    ("optimiser.lr_end", 0.0, 1.0),
    ("optimiser.eps", ABOVE_ZERO, 1.0),
    ("optimiser.clip", ABOVE_ZERO, math.inf),
    ("exploration.start", 0.0, 1.0),
    ("exploration.end", 0.0, 1.0),
    ("exploration.steps", 0, MAX_STEPS),
    ("replay.length", 1, LARGE),
    ("replay.capacity", 1, math.inf),
    ("replay.batch", 1, LARGE),
    ("replay.burn_in", 0, LARGE),
    ("replay.warmup", 1, LARGE),
    ("online.epochs", 1, LARGE),
    ("online.minibatches", 1, LARGE),
    ("collect.envs", 1, LARGE),
    ("collect.update_ratio", ABOVE_ZERO, math.inf),
    ("scaling.reward_scale", ABOVE_ZERO, MAX_STEPS),
    ("evaluation.every", 0, LARGE),
    ("evaluation.episodes", 1, LARGE),
    ("evaluation.final_episodes", 1, LARGE),
    ("host.episode_limit", 0, LARGE),
    ("host.workers", -1, 4096),
    ("host.timeout_s", ABOVE_ZERO, MAX_STEPS),
    ("host.failures", 1, LARGE),
)


def _check_range(where: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and low <= value <= high:
        return
    bound = "above 0" if low == ABOVE_ZERO else f"at least {low:g}"
    if number and high < value < math.inf:
        bound = f"at most {high:.10g}"
    raise QtotError(f"{where} must be a finite number {bound}, got {value!r}")


def _check_choices(config: Any, where: str) -> None:
    """Every Literal holds one of its values, every whole number is whole (also from Python)."""
    hints = get_type_hints(type(config))
    for f in fields(config):
        value, hint, name = getattr(config, f.name), hints[f.name], f"{where}{f.name}"
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(value, hint):
                raise QtotError(f"{name} must be a dict of options, got {value!r}")
            _check_choices(value, f"{name}.")
        elif hint is str and not isinstance(value, str):
            raise QtotError(f"{name} must be a string, got {value!r}")
        elif hint == tuple[int, ...] and not (
            isinstance(value, tuple) and all(type(v) is int for v in value)
        ):
            raise QtotError(f"{name} must be a tuple of whole numbers, got {value!r}")
        elif hint == tuple[str, ...] and not (
            isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        ):
            raise QtotError(f"{name} must be a tuple of strings, got {value!r}")
        elif get_origin(hint) is Literal:
            options = get_args(hint)
            if type(value) is not type(options[0]):
                raise QtotError(f"{name} must be {' or '.join(map(repr, options))}, got {value!r}")
            if value not in options:
                raise unknown(name, str(value), [str(option) for option in options])
        elif hint is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise QtotError(f"{name} must be a whole number, got {value!r}")
        elif hint is bool and not isinstance(value, bool):
            raise QtotError(f"{name} must be True or False, got {value!r}")

"""What a configuration may not say: choices, ranges, and what cannot be combined."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qtot.config import TrainConfig
from qtot.core.config import AgentConfig
from qtot.core.methods import METHODS
from qtot.envs.host.config import HostConfig
from qtot.envs.scalars import taken_name
from qtot.errors import QtotError, unknown

MAX_STEPS = 2**30  # env_steps is an int32 in the program, and may overshoot by an iteration
LARGE = 2**30  # sizes above are mistakes
DEEP = 100  # so are more layers

# option, smallest, largest; an open bound is written as the next number a float can hold
ABOVE_ZERO = math.ulp(0.0)
RANGES: tuple[tuple[str, float, float], ...] = (
    ("steps", 1, MAX_STEPS),
    ("seeds", 1, 2**16),
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
    ("optimiser.steps", 0, MAX_STEPS),
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
    ("checkpoint.minutes", 0.0, LARGE),
    ("checkpoint.steps", 0, MAX_STEPS),
    ("checkpoint.keep", 1, LARGE),
    ("host.episode_limit", 0, LARGE),
    ("host.workers", -1, 4096),
    ("host.timeout_s", ABOVE_ZERO, MAX_STEPS),
    ("host.failures", 1, LARGE),
)


def validate(config: TrainConfig) -> TrainConfig:
    """The same configuration, or the first thing that is wrong with it.

    Raises:
        QtotError: names the option, what was expected and what was got.
    """
    check_values(config)
    _check_agent(config.agent)
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


def check_values(config: TrainConfig) -> None:
    """What is wrong with an option whatever the others are.

    Raises:
        QtotError: as ``validate``.
    """
    _check_choices(config, "")
    if config.algo not in METHODS:
        raise unknown("algorithm", config.algo, METHODS)
    for where, low, high in RANGES:
        value: Any = config
        for part in where.split("."):
            value = getattr(value, part)
        _check_range(where, value, low, high)
    _check_widths(config.agent)
    _check_info(config.host)


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


def _check_range(where: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and low <= value <= high and value != math.inf:
        return
    bound = "above 0" if low == ABOVE_ZERO else f"at least {low:g}"
    if number and high < value < math.inf:
        bound = f"at most {high:.10g}"
    raise QtotError(f"{where} must be a finite number {bound}, got {value!r}")


def _check_widths(agent: AgentConfig) -> None:
    for where in ("encoder", "cnn"):
        widths = getattr(agent, where)
        if len(widths) > DEEP:
            raise QtotError(f"agent.{where} must have at most {DEEP} layers, got {len(widths)}")
        for width in widths:
            _check_range(f"agent.{where}", width, 1, LARGE)


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


def _check_info(host: HostConfig) -> None:
    if taken := taken_name(host.info):
        raise QtotError(
            f"host.info {taken!r} is the name of a metric already; report the scalar under "
            "another name"
        )


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

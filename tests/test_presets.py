"""What the presets are, and what a configuration may not be."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.envs import FAMILIES
from qtot.errors import QtotError
from qtot.presets import preset_config
from qtot.validation import MAX_STEPS, RANGES, validate

# PyMARL's published setup for SMAC (Rashid et al. 2018, 2020; Samvelyan et al. 2019).
PAPER = {
    "agent.encoder": (64,),
    "agent.hidden": 64,
    "agent.memory": "gru",
    "agent.sharing": "all",
    "agent.prev_action": True,
    "agent.agent_id": True,
    "agent.layer_norm": False,
    "agent.cnn": (),
    "agent.module": "",
    "agent.groups": (),
    "agent.init": "torch",
    "mixer.embed": 32,
    "mixer.hypernet_layers": 2,
    "mixer.hypernet_embed": 64,
    "mixer.heads": 4,
    "target.gamma": 0.99,
    "target.double_q": True,
    "target.td_lambda": 0.0,
    "target.n_step": 1,
    "target.time_limit": "bootstrap",
    "target.update": "hard",
    "target.interval": 200,
    "optimiser.name": "rmsprop",  # alpha .99, eps outside the root: tests/test_optimiser.py
    "optimiser.lr": 5e-4,
    "optimiser.lr_end": 1.0,  # constant
    "optimiser.eps": 1e-5,
    "optimiser.clip": 10.0,
    "exploration.start": 1.0,
    "exploration.end": 0.05,
    "exploration.steps": 50_000,
    "replay.sequences": "episodes",
    "replay.capacity": 5_000,
    "replay.batch": 32,
    "replay.burn_in": 0,
    "replay.warmup": 32,  # learns as soon as a batch is there
    "collect.envs": 1,
    "collect.update_ratio": 1.0,
    "collect.update_unit": "episode",
    "scaling.reward_scale": 1.0,
    "scaling.standardise_rewards": False,
    "scaling.normalise_obs": False,
    "scaling.normalise_state": False,
}


# Those with a critic may have presets of their own.
WITHOUT_CRITIC = [algo for algo, method in METHODS.items() if method.critic is None]


def get(config: Any, where: str) -> Any:
    for part in where.split("."):
        config = getattr(config, part)
    return config


def change(where: str, value: Any) -> dict[str, Any]:
    """``agent.hidden`` → ``{"agent": {"hidden": value}}``."""
    for part in reversed(where.split(".")):
        value = {part: value}
    return value


def options(config: Any, prefix: str = "") -> dict[str, Any]:
    out = {}
    for f in fields(config):
        value = getattr(config, f.name)
        inner = options(value, f"{prefix}{f.name}.") if is_dataclass(value) else None
        out |= {f"{prefix}{f.name}": value} if inner is None else inner
    return out


# Presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["smax/3m", "mpe/simple_spread", "matrix/two_step", "probe/chain"])
@pytest.mark.parametrize("algo", WITHOUT_CRITIC)
def test_the_paper_preset_is_what_was_published(env: str, algo: str):
    config = validate(preset_config(env, algo, "paper"))
    # EPyMARL, which published these methods on MPE, takes the limit for an end; PyMARL does not.
    # PyMARL's environment, SMAC, normalises its states; SMAX does not.
    published = PAPER | {
        "mpe": {"target.time_limit": "end"},
        "smax": {"scaling.normalise_state": True},
    }.get(env.partition("/")[0], {})
    assert {where: get(config, where) for where in PAPER} == published
    assert (config.env, config.algo, config.preset) == (env, algo, "paper")
    # SMAC's runs take 2.05 million steps.
    assert config.steps == 2_050_000


ADDED = {
    # PyMARL's COMA
    "coma": {
        "target.td_lambda": 0.8, "exploration.start": 0.5, "exploration.end": 0.01,
        "exploration.steps": 100_000, "collect.envs": 8,
        "data": "online",  # on-policy
    },
    # Rashid et al. 2020b, on SMAC
    "cw_qmix": {"loss.alpha": 0.75, "critic.embed": 256},
    "ow_qmix": {"loss.alpha": 0.5, "critic.embed": 256},
    "qtran": {"critic.embed": 64},  # PyMARL's QTRAN-base
}  # fmt: skip


@pytest.mark.parametrize("algo", ADDED)
def test_what_the_methods_with_a_critic_change_of_the_paper_preset(algo: str):
    assert set(ADDED) == set(METHODS) - set(WITHOUT_CRITIC)
    qmix = options(preset_config("smax/3m", "qmix", "paper"))
    own = options(preset_config("smax/3m", algo, "paper"))
    changed = {where: value for where, value in own.items() if value != qmix[where]}
    assert changed == {"algo": algo, **ADDED[algo]}


def test_the_paper_preset_decides_everything_that_learning_depends_on():
    """An option added later must be looked up in the paper, too."""
    undecided = {
        "env", "algo", "preset", "steps", "seed", "seeds", "init_agents", "log_every",
        "target.tau",  # of soft updates
        "replay.length",  # of segments
        "replay.dtype", "matmul_precision",  # exact
        "data", "online.epochs", "online.minibatches",  # the paper replays
        # see WITHOUT_CRITIC
        "critic.embed", "critic.lr_ratio", "loss.alpha", "loss.opt", "loss.nopt",
        "evaluation.every", "evaluation.episodes", "evaluation.final_episodes",
        "optimiser.steps",  # those of the run
        "checkpoint.minutes", "checkpoint.steps", "checkpoint.keep", "checkpoint.replay",
        # which game is played, and by which processes
        "collectors", "ray_address", "host.args", "host.team_reward", "host.episode_limit",
        "host.info", "host.workers", "host.timeout_s", "host.failures",
    }  # fmt: skip
    assert set(options(TrainConfig())) == set(PAPER) | undecided


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_every_preset_is_valid_and_alike_for_methods_without_a_critic(family: str, preset: str):
    env = f"{family}/{FAMILIES[family].example}"
    configs = [validate(preset_config(env, algo, preset)) for algo in METHODS]
    assert [c.algo for c in configs] == list(METHODS)
    alike = {replace(c, algo="qmix") for c in configs if c.algo in WITHOUT_CRITIC}
    assert len(alike) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("smaxx/3m",), "unknown environment family 'smaxx'; did you mean 'smax'"),
        (("smax",), "names a family but no task; expected 'family/task', such as 'smax/3m'"),
        (("smax/",), "names a family but no task"),
        (("smax/3m", "vnd"), "unknown algorithm 'vnd'; did you mean 'vdn'"),
        (("smax/3m", "ippo"), "unknown algorithm 'ippo'; choose one of: iql, vdn"),
        (("smax/3m", "qmix", "papers"), "unknown preset 'papers'; did you mean 'paper'"),
    ],
)
def test_a_misspelt_environment_method_or_preset_names_the_nearest(args: Any, message: str):
    with pytest.raises(QtotError, match=message):
        preset_config(*args)


# Changes ------------------------------------------------------------------------------------


def test_changes_reach_nested_options_and_leave_the_others():
    base = TrainConfig()
    new = nested_replace(base, {"steps": 5, "agent": {"hidden": 8}, "target": {"gamma": 0.5}})
    before, after = options(base), options(new)
    changed = {where for where in before if before[where] != after[where]}
    assert changed == {"steps", "agent.hidden", "target.gamma"}
    assert (new.steps, new.agent.hidden, new.target.gamma) == (5, 8, 0.5)
    assert nested_replace(base, {}) == base
    assert nested_replace(base, {"agent": replace(base.agent, hidden=3)}).agent.hidden == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stpes": 4}, "unknown option of TrainConfig 'stpes'; did you mean 'steps'"),
        ({"agnet": {"hidden": 4}}, "unknown option of TrainConfig 'agnet'; did you mean 'agent'"),
        ({"agent": {"hiden": 4}}, "unknown option of AgentConfig 'hiden'; did you mean 'hidden'"),
        ({"optimiser": {"epsilon": 1}}, "of OptimiserConfig 'epsilon'; did you mean 'eps'"),
        ({"replay": {"size": 1}}, "'size'; choose one of: sequences, length, capacity, batch"),
        ({"zzz": 1}, "'zzz'; choose one of: env, algo, preset, data"),
    ],
)
def test_an_unknown_option_names_the_nearest(changes: dict[str, Any], message: str):
    with pytest.raises(QtotError, match=message):
        nested_replace(TrainConfig(), changes)


# What cannot be -----------------------------------------------------------------------------


def refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(QtotError, match=message):
        validate(nested_replace(TrainConfig(), changes))


@pytest.mark.parametrize(("where", "low", "high"), RANGES)
def test_a_number_out_of_its_range_is_refused(where: str, low: float, high: float):
    whole = isinstance(get(TrainConfig(), where), int)
    outside = [low - 1, -math.inf, math.inf, math.nan, None, "1", True, [1]]
    if high < math.inf:
        outside.append(high + 1)
    if low == math.ulp(0.0):
        outside.append(0.0)
    for value in outside:
        refused(change(where, value), rf"^{where} must be .*got ")
    if whole:
        refused(change(where, 1.0), f"^{where} must be a whole number, got 1.0")
        refused(change(where, int(low) - 1), rf"^{where} must be a finite number at least")


def test_every_number_has_a_range():
    numbers = {
        where
        for where, value in options(TrainConfig()).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    choices = {"mixer.hypernet_layers"}  # 1 or 2
    assert numbers - choices == {where for where, *_ in RANGES}


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("algo", "qmx", "unknown algorithm 'qmx'; did you mean 'qmix'"),
        ("preset", "papper", "unknown preset 'papper'; did you mean 'paper'"),
        ("agent.memory", "gur", "unknown agent.memory 'gur'; did you mean 'gru'"),
        ("agent.memory", None, "agent.memory .*None"),
        ("agent.memory", "lstm", "unknown agent.memory 'lstm'; choose one of: gru, none"),
        ("agent.sharing", "some", "unknown agent.sharing 'some'"),
        ("agent.init", "orthogonal", "unknown agent.init 'orthogonal'"),
        ("agent.prev_action", 1, "agent.prev_action must be True or False, got 1"),
        ("agent.encoder", (64, 0), "agent.encoder must be .* at least 1, got 0"),
        ("agent.encoder", (-1,), "agent.encoder must be .* at least 1, got -1"),
        ("agent.encoder", (64.5,), "agent.encoder must be .*got "),
        ("agent.encoder", (True,), "agent.encoder must be .*got "),
        ("agent.encoder", 64, "agent.encoder must be .*got 64"),
        ("agent.encoder", "64", "agent.encoder must be .*got "),
        ("agent", 5, "agent must be .*got 5"),
        ("agent.cnn", (8, 0), "agent.cnn must be .* at least 1, got 0"),
        ("agent.cnn", (8.0,), "agent.cnn must be a tuple of whole numbers"),
        ("agent.groups", (0, True), "agent.groups must be a tuple of whole numbers"),
        ("agent.module", None, "agent.module must be a string, got None"),
        ("exploration", None, "exploration must be .*got None"),
        ("mixer.hypernet_layers", 3, "unknown mixer.hypernet_layers '3'; choose one of: 1, 2"),
        ("mixer.hypernet_layers", "2", "mixer.hypernet_layers must be 1 or 2, got '2'"),
        ("mixer.hypernet_layers", True, "mixer.hypernet_layers must be 1 or 2, got True"),
        ("target.update", "sotf", "unknown target.update 'sotf'; did you mean 'soft'"),
        ("target.double_q", "no", "target.double_q must be True or False, got 'no'"),
        ("optimiser.name", "adamw", "unknown optimiser.name 'adamw'; did you mean 'adam'"),
        ("replay.sequences", "segment", "unknown replay.sequences 'segment'.*'segments'"),
        ("collect.update_unit", "steps", "unknown collect.update_unit 'steps'.*'step'"),
        ("scaling.normalise_obs", None, "scaling.normalise_obs must be True or False, got None"),
        ("env", 5, "env"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(where: str, value: Any, message: str):
    refused(change(where, value), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target": {"n_step": 3, "td_lambda": 0.8}},
            r"target.n_step 3 and target.td_lambda 0.8 exclude each other; keep n_step 1",
        ),
        (
            {"replay": {"length": 8, "burn_in": 8}},
            "replay.burn_in 8 leaves nothing of replay.length 8 to learn from; make it smaller",
        ),
        (
            {"replay": {"sequences": "episodes", "burn_in": 1}},
            "replay.burn_in 1 with replay.sequences episodes: .* set it to 0, or use segments",
        ),
        (
            {"replay": {"capacity": 10, "warmup": 11}},
            "replay.warmup 11 is more than replay.capacity 10, so learning would never start",
        ),
        ({"agent": {"groups": (0, 1)}}, r"agent.sharing all with agent.groups \(0, 1\): name"),
        ({"agent": {"sharing": "groups"}}, "agent.sharing groups with agent.groups empty: name"),
        (
            {"agent": {"sharing": "none", "groups": (0,)}},
            r"agent.sharing none with agent.groups \(0,\): name every agent's group with sharing",
        ),
        *(
            (
                {"agent": {"sharing": "groups", "groups": groups}},
                "agent.groups must count its groups from 0 without a gap",
            )
            for groups in ((1, 2), (0, 2), (0, -1), (-1,))
        ),
        (
            {"agent": {"cnn": (4,), "module": "a:b"}},
            "agent.cnn and agent.module exclude each other; choose one",
        ),
        ({"seed": 2**31 - 1, "seeds": 2}, "seed"),  # the last seed would not be a number any more
    ],
)
def test_what_cannot_be_combined_is_refused(changes: dict[str, Any], message: str):
    refused(changes, message)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": {"n_step": 3, "td_lambda": 0.0}},
        {"target": {"gamma": 1.0, "tau": 1.0, "update": "soft"}},
        {"target": {"gamma": 0}},  # a whole number where a fraction may stand
        {"replay": {"length": 8, "burn_in": 7}},
        {"replay": {"sequences": "episodes", "length": 1}},
        {"replay": {"capacity": 10, "warmup": 10}},
        {"exploration": {"start": 0.0, "end": 1.0, "steps": 0}},
        {"agent": {"encoder": ()}},
        {"agent": {"sharing": "groups", "groups": (1, 0, 1)}},
        {"agent": {"cnn": (8, 16)}},
        {"agent": {"module": "a:b"}},
        {"loss": {"alpha": 0.0, "opt": 0.0, "nopt": 0.0}},
        {"agent": {"encoder": (8, 8, 8)}},
        {"mixer": {"hypernet_layers": 1}},
        {"evaluation": {"every": 0, "episodes": 1, "final_episodes": 1}},
        {"steps": MAX_STEPS, "seeds": 100},
        {"optimiser": {"lr_end": 0.0, "lr": float(np.float32(1e-3))}},
    ],
)
def test_what_is_unusual_but_possible_is_accepted(changes: dict[str, Any]):
    config = nested_replace(TrainConfig(), changes)
    assert validate(config) == config

"""Presets: what a method is trained with, before the user's own changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.envs import OWN, family_of, is_in_graph
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

# What the default preset changes where the data are fresh rollouts.
ONLINE: dict[str, Any] = {
    "online": {"epochs": 2, "minibatches": 8},
    "collect": {"envs": 64},
    "target": {"td_lambda": 0.85},
    "optimiser": {"clip": 1.0},
    "exploration": {"steps": 60_000},
}
# Where learning online wins: the same win rate after less time (docs/performance.md; of one's own
# environments, examples/own_env.py: solved after 25k steps, from replay not after 30k).
WINS_ONLINE = ("smax", "mpe", "lbf", "pettingzoo", "gym", OWN)

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
FAMILY["smax"] = {"steps": 1_000_000, "loss": {"alpha": 0.5}}
# Every episode ends by time, which observations do not show: values that count down to it need a
# memory, and are learned slowly (-60 after a million steps of simple_spread; these settings: -48).
# Values that go on beyond it need none. With the usual discount they grow without bound, in states
# that drift apart (from -5 to 960 in 600k steps); ten steps ahead is near enough.
FAMILY["mpe"] = {
    "agent": {"memory": "none", "prev_action": False, "encoder": (64,), "hidden": 128},
    "target": {"gamma": 0.9, "td_lambda": 0.3},
    "optimiser": {"lr": 2e-3, "lr_end": 0.02},
    "exploration": {"end": 0.02},
    "scaling": {"reward_scale": 0.1},
}

# Of environments in Python, where a game of StarCraft takes a process and gigabytes of its own.
HOST: dict[str, Any] = {"evaluation": {"every": 50_000, "episodes": 32, "final_episodes": 128}}
for _family in ("smac", "smacv2", "smaclite"):
    FAMILY[_family] = {"collect": {"envs": 8}, "loss": {"alpha": 0.5}}
# Reward is rare, and small. At half the learning rate, some seeds need 200k steps more.
FAMILY["lbf"] = {
    "optimiser": {"lr": 2e-3},
    "exploration": {"steps": 300_000},
    "scaling": {"reward_scale": 10.0, "normalise_obs": True},
}
# The same games, whoever wrote them.
GAMES = {"pettingzoo/mpe2.": "mpe", "gym/Foraging-": "lbf", "gym/rware-": "rware"}

# A hunt in which exploring agents are punished: a lambda-return averages over that, as above.
FAMILY["predator_prey"] = {
    "steps": 1_000_000,
    "target": {"td_lambda": 0.0},
    "scaling": {"normalise_state": False},
}
# Every episode ends by time (in the warehouse, nearly every one).
for _family in ("overcooked", "overcooked_v2", "rware"):
    FAMILY[_family] = {"target": {"time_limit": "end"}}

# What the default preset changes where a method wants it: an on-policy method has no replay to
# learn from again, so it makes up for it with small rollouts, and its own policy explores.
ALGO: dict[str, dict[str, Any]] = {
    "coma": {
        "online": {"epochs": 1, "minibatches": 1},
        "target": {"td_lambda": 0.8},
        "exploration": {"start": 0.5, "end": 0.01},
        "collect": {"envs": 8},
    },
}

# What the paper's hyperparameters take for granted of an environment. EPyMARL, which published
# PyMARL's methods on mpe/ and rware/, takes the limit for an end, too; SMAC's states come
# normalised, SMAX's do not.
END = {"target": {"time_limit": "end"}}
PAPER_FAMILY: dict[str, dict[str, Any]] = {
    "smax": {"scaling": {"normalise_state": True}},
    "predator_prey": {"loss": {"alpha": 0.1}},
    "mpe": END,
    "rware": END,
    "overcooked": END,
    "overcooked_v2": END,
}

# The published settings of the methods after QMIX (PyMARL for COMA and QTRAN; Rashid et al. 2020b
# for the weighted ones, whose alpha is that of SMAC). PyMARL's COMA takes a critic step per time
# step and counts these for its target critic; here a rollout is one step, and so counted.
PAPER_ALGO: dict[str, dict[str, Any]] = {
    "coma": {
        "target": {"td_lambda": 0.8},
        "exploration": {"start": 0.5, "end": 0.01, "steps": 100_000},
        "collect": {"envs": 8},
        "critic": {"embed": 128},
    },
    "cw_qmix": {"loss": {"alpha": 0.75}, "critic": {"embed": 256}},
    "ow_qmix": {"loss": {"alpha": 0.5}, "critic": {"embed": 256}},
    "qtran": {"critic": {"embed": 64}},
}


def preset_config(
    env: str, algo: str = "qmix", preset: str = "default", data: str | None = None
) -> TrainConfig:
    """The configuration before the user's own changes.

    Args:
        env: ``family/task``.
        algo: a method.
        preset: ``default`` or ``paper``.
        data: ``replay`` or ``online``; None takes what the preset has for this task and method.

    Raises:
        QtotError: unknown environment family, algorithm, preset or data.
    """
    named = {"env": env, "algo": algo, "preset": preset, "data": data or "replay"}
    for name, value in named.items():
        if not isinstance(value, str):
            raise QtotError(f"{name} must be a string, got {value!r}")
    family = family_of(env)
    game = next((GAMES[part] for part in GAMES if env.startswith(part)), family)
    if algo not in METHODS:
        raise unknown("algorithm", algo, METHODS)
    if preset not in ("default", "paper"):
        raise unknown("preset", preset, ("default", "paper"))
    if data not in (None, "replay", "online"):
        raise unknown("data", data, ("replay", "online"))
    if data is None:
        wins = preset == "default" and game in WINS_ONLINE
        data = "online" if wins or METHODS[algo].on_policy else "replay"
    config = replace(TrainConfig(), env=env, algo=algo, preset=preset, data=data)
    if preset == "paper":
        single = {"online": {"epochs": 1, "minibatches": 1}}  # all that one environment allows
        changes = (PAPER, single, PAPER_ALGO.get(algo, {}), PAPER_FAMILY.get(game, {}))
    else:
        online = ONLINE if data == "online" and not METHODS[algo].on_policy else {}
        host = {} if is_in_graph(env) else HOST
        changes = (DEFAULT, host, online, FAMILY.get(game, {}), ALGO.get(algo, {}))
    for change in changes:
        config = nested_replace(config, change)
    return config

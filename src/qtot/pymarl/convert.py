"""Saved models of PyMARL and EPyMARL as a run: agents, and the mixer of QMIX or VDN.

Their layers are ours: fc1 is the encoder, rnn the memory (EPyMARL's ``use_rnn: False`` a ReLU
layer), fc2 the head; the mixing network's hypernetworks have the names of the paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.core.learner import PolicyParams
from qtot.envs import make_env
from qtot.envs.spec import EnvSpec, checked_spec
from qtot.errors import QtotError, unknown
from qtot.presets import preset_config
from qtot.process import prepare
from qtot.pymarl.torch_file import read_state_dict
from qtot.store.params import named
from qtot.store.run_folder import RunFolder
from qtot.training.ingraph import make_learner
from qtot.training.resources import git_commit, versions
from qtot.validation import validate

States = dict[str, np.ndarray]
MOST_AGENTS = 4096
UNKNOWN = "own:PyMARL"
"""the environment of a run for which none was named"""

# Ours: theirs, as regular expressions for a parameter's dotted path.
NAMES = {
    r"^online\.agent\.network\.encoder\.0": "agent.fc1",
    r"^online\.agent\.network\.memory": "agent.rnn",
    r"^online\.agent\.network\.head": "agent.fc2",
    r"^online\.mixer\.value\.hidden": "mixer.V.0",
    r"^online\.mixer\.value\.out": "mixer.V.2",
    r"^online\.mixer": "mixer",
    r"^online\.critic\.layers\.layers\.0": "critic.fc1",
    r"^online\.critic\.layers\.layers\.1": "critic.fc2",
    r"^online\.critic\.layers\.layers\.2": "critic.fc3",
}
HYPER = {1: {r"\.layers\.0": ""}, 2: {r"\.layers\.0": ".0", r"\.layers\.1": ".2"}}


@dataclass(frozen=True)
class Asked:
    """What a user says of the models."""

    env: str | None = None
    algo: str | None = None
    n_agents: int | None = None
    inputs: str | None = None
    """one of INPUTS"""


INPUTS = {
    f"obs{'+last_action' * last}{'+agent_id' * ident}": (last, ident)
    for last in (True, False)
    for ident in (True, False)
}
"""what the agents were fed: whether the last action and the id come after the observation"""


@dataclass(frozen=True)
class _Found:
    """What the models' shapes say."""

    algo: str
    states: States
    """``agent.``, ``mixer.`` and ``critic.`` before their names"""
    separate: int
    """agents with a network of their own; 0 where they share one"""
    inputs: int
    hidden: int
    n_actions: int
    recurrent: bool
    n_agents: int | None
    state_size: int | None
    mixer: dict[str, int]
    """parts of MixerConfig"""

    @property
    def layers(self) -> int:
        """Of the hypernetworks."""
        return self.mixer.get("hypernet_layers", 2)


def import_run(folder: Path, out: Path, asked: Asked) -> tuple[TrainConfig, EnvSpec]:
    """A run folder at ``out`` from the models in ``folder``.

    Raises:
        QtotError: they cannot be read, are of another kind, or do not fit what is asked.
    """
    if asked.n_agents is not None and not 0 < asked.n_agents <= MOST_AGENTS:
        raise QtotError(f"n_agents must be from 1 to {MOST_AGENTS}, got {asked.n_agents}")
    if asked.inputs not in (None, *INPUTS):
        raise unknown("inputs", str(asked.inputs), INPUTS)
    found = _look(folder, asked)
    spec = checked_spec(_spec(found, asked))
    config = _config(found, spec, asked)
    learner = make_learner(spec, config)
    params = _filled(found, PolicyParams.of(learner.init(jax.random.key(0))))
    facts = {
        "config": config.to_dict(),
        "env": spec.to_dict(),
        "versions": versions(),
        "git_commit": git_commit(),
        "settings": prepare().to_dict(),
        "imported": {"from": "PyMARL", "files": sorted(p.name for p in folder.glob("*.th"))},
    }
    run = RunFolder.create(out, facts)
    run.save("last", config.seed, params)
    return config, spec


def _look(folder: Path, asked: Asked) -> _Found:
    agent = read_state_dict(folder / "agent.th")
    mixer = read_state_dict(folder / "mixer.th") if (folder / "mixer.th").exists() else None
    critic = read_state_dict(folder / "critic.th") if (folder / "critic.th").exists() else None
    separate = len({name.split(".")[1] for name in agent if name.startswith("agents.")})
    if separate:
        agent = _stacked(agent, separate, folder / "agent.th")
    weights = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    gru = {f"rnn.{x}_{side}" for x in ("weight", "bias") for side in ("ih", "hh")}
    for memory in (gru, {"rnn.weight", "rnn.bias"}):
        if agent.keys() == weights | memory:
            break
    else:
        raise QtotError(
            f"{folder / 'agent.th'} is no RNNAgent of PyMARL or EPyMARL: it holds "
            f"{', '.join(sorted(agent))[:300]}"
        )
    for part, state in (("agent", agent), ("mixer", mixer or {}), ("critic", critic or {})):
        for name, array in state.items():
            ranks = (2, 1) if part != "agent" or not separate else (3, 2)
            if array.ndim != ranks["bias" in name]:
                raise QtotError(f"{folder / part}.th: {name} has the shape {list(array.shape)}")
    sizes: dict[str, int] = {}
    n_agents = state_size = None
    algo = "coma" if critic is not None else "iql" if mixer is None else "qmix" if mixer else "vdn"
    if mixer:
        n_agents, state_size, sizes = _mixer_sizes(mixer, folder / "mixer.th")
    algo = asked.algo or algo
    said = n_agents or separate or None
    if None not in (said, asked.n_agents) and said != asked.n_agents:
        raise QtotError(f"the models are of {said} agents, not of {asked.n_agents}")
    parts = {"agent": agent, "mixer": mixer or {}, "critic": critic or {}}
    return _Found(
        algo=algo,
        states={f"{part}.{k}": v for part, state in parts.items() for k, v in state.items()},
        separate=separate,
        inputs=agent["fc1.weight"].shape[-1],
        hidden=agent["fc1.weight"].shape[-2],
        n_actions=agent["fc2.weight"].shape[-2],
        recurrent="rnn.weight_ih" in agent,
        n_agents=said or asked.n_agents,
        state_size=state_size,
        mixer=sizes,
    )


def _stacked(agent: States, many: int, path: Path) -> States:
    """EPyMARL's agents with networks of their own, side by side."""
    names = {re.sub(r"^agents\.\d+\.", "", name) for name in agent}
    try:
        return {n: np.stack([agent[f"agents.{i}.{n}"] for i in range(many)]) for n in names}
    except (KeyError, ValueError):
        raise QtotError(f"{path} holds agents of different sizes, or not all of one") from None


def _mixer_sizes(mixer: States, path: Path) -> tuple[int, int, dict[str, int]]:
    layers = 2 if "hyper_w_1.0.weight" in mixer else 1
    try:
        embed, state_size = mixer["hyper_b_1.weight"].shape
        last = mixer["hyper_w_1.2.weight" if layers == 2 else "hyper_w_1.weight"].shape[0]
        hyper = mixer["hyper_w_1.0.weight"].shape[0] if layers == 2 else 64
    except (KeyError, ValueError):
        raise QtotError(
            f"{path} is no mixer of QMIX (of PyMARL's methods, iql, vdn, qmix and coma can be "
            f"imported): it holds {', '.join(sorted(mixer))[:300]}; without that file the agents "
            "are imported alone, as those of iql"
        ) from None
    sizes = {"embed": embed, "hypernet_layers": layers, "hypernet_embed": hyper}
    return last // embed, state_size, sizes


def _spec(found: _Found, asked: Asked) -> EnvSpec:
    """The environment's facts: its own, or what the models say of it."""
    if asked.env is not None:
        env: Any = make_env(asked.env)
        close = getattr(env, "close", None)
        if close is not None:
            close()
        _check_spec(found, env.spec)
        return env.spec
    if found.n_agents is None:
        raise QtotError(
            "the models do not say how many agents there are (they have no mixing network); say "
            "so, with --n-agents, or name the environment, with --env"
        )
    if asked.inputs is None:
        raise QtotError(
            "the models do not say what the agents were fed beside their observation: say so, with "
            "--inputs (obs+last_action+agent_id in PyMARL; obs+agent_id, or for agents with "
            "networks of their own obs, in EPyMARL), or name the environment, with --env"
        )
    n, actions = found.n_agents, found.n_actions
    last, ident = INPUTS[asked.inputs]
    size = found.inputs - actions * last - n * ident
    if size < 1:
        raise QtotError(
            f"the agents have {found.inputs} inputs, too few for an observation beside the last "
            f"action ({actions}) and the id ({n}); see --inputs"
        )
    state_size = found.state_size or _critic_state(found, size) or n * size
    return EnvSpec(
        name=UNKNOWN,
        agents=tuple(f"agent_{i}" for i in range(n)),
        n_actions=(actions,) * n,
        obs_sizes=(size,) * n,
        state_size=state_size,
        episode_limit=1,
        about="imported from PyMARL; what is not in the models is not known",
    )


def _critic_state(found: _Found, obs_size: int) -> int | None:
    """What is left of the inputs of COMA's critic."""
    weight = found.states.get("critic.fc1.weight")
    if weight is None or weight.ndim != 2 or found.n_agents is None:
        return None
    n, a = found.n_agents, found.n_actions
    return max(weight.shape[1] - obs_size - 2 * n * a - n, 1)


def _check_spec(found: _Found, spec: EnvSpec) -> None:
    for what, theirs, ours in (
        ("agents", found.n_agents, spec.n_agents),
        ("actions", found.n_actions, spec.max_actions),
        ("numbers in the state", found.state_size, spec.state_size),
    ):
        if theirs is not None and theirs != ours:
            raise QtotError(f"the models are for {theirs} {what}, but {spec.name} has {ours}")


def _extras(found: _Found, spec: EnvSpec, asked: Asked) -> tuple[bool, bool]:
    """Whether last action and agent id are inputs: the one way that fits."""
    fits = [
        (last, ident)
        for name, (last, ident) in INPUTS.items()
        if asked.inputs in (None, name)
        and spec.obs_size + spec.max_actions * last + spec.n_agents * ident == found.inputs
    ]
    if not fits:
        raise QtotError(
            f"the agents have {found.inputs} inputs, but {spec.name} shows {spec.obs_size} "
            f"numbers, to which a last action ({spec.max_actions}) and an id ({spec.n_agents}) may "
            "be added"
        )
    if len(fits) > 1:
        raise QtotError(
            f"the agents' {found.inputs} inputs may hold the last action or the id, which are as "
            "long as each other: say which, with --inputs"
        )
    return fits[0]


def _config(found: _Found, spec: EnvSpec, asked: Asked) -> TrainConfig:
    previous, ident = _extras(found, spec, asked)
    head = found.states["agent.fc2.weight"].shape[-1]
    changes: dict[str, Any] = {
        "agent": {
            "encoder": (found.hidden,),
            "cnn": (),
            "hidden": head,
            "memory": "gru" if found.recurrent else "none",
            "sharing": "none" if found.separate else "all",
            "prev_action": previous,
            "agent_id": ident,
            "layer_norm": False,
        },
        "mixer": found.mixer,
    }
    if "critic.fc1.weight" in found.states:
        changes["critic"] = {"embed": found.states["critic.fc1.weight"].shape[0]}
    data = "online" if found.algo == "coma" else "replay"
    config = preset_config(asked.env or UNKNOWN, found.algo, "paper", data)
    scaling = {"normalise_obs": False, "normalise_state": False, "standardise_rewards": False}
    return validate(nested_replace(config, {**changes, "scaling": scaling}))


def _filled(found: _Found, fresh: PolicyParams) -> PolicyParams:
    """The models' arrays in our places; statistics are fresh."""
    names, leaves, structure = named(fresh)
    used, filled = set[str](), []
    for name, leaf in zip(names, leaves, strict=True):
        if not name.startswith("online."):
            filled.append(np.asarray(leaf))
            continue
        theirs = _theirs(name, found.layers)
        array = found.states.get(theirs)
        if array is None or array.shape != leaf.shape:
            got = "nothing" if array is None else f"the shape {list(array.shape)}"
            raise QtotError(f"{theirs} should have the shape {list(leaf.shape)}, it has {got}")
        used.add(theirs)
        filled.append(array)
    if left := sorted(found.states.keys() - used):
        raise QtotError(f"nothing here takes {_some(left)}, for {found.algo}; see --algo")
    return jax.tree_util.tree_unflatten(structure, filled)


def _theirs(name: str, layers: int) -> str:
    for ours, theirs in (NAMES | HYPER[layers]).items():
        name = re.sub(ours, theirs, name)
    return name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + ", ..." * (len(names) > 4)

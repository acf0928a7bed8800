"""Loads ``tests/golden/*.npz``: the reference learners' numbers as our own modules and batch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtot.core.config import (
    AgentConfig,
    CriticConfig,
    ExplorationConfig,
    LossConfig,
    MixerConfig,
    OptimiserConfig,
    ScalingConfig,
    TargetConfig,
)
from qtot.core.learner import Learner, TrainState
from qtot.core.networks import Networks
from qtot.types import Batch, SequenceStart, Slots

FOLDER = Path(__file__).parent / "golden"

# Ours: PyTorch's, as regular expressions for a parameter's dotted path. Weights and biases have the
# same names and layout. {k} is an index of the leading axis of our array.
AGENT = {
    r"agent\.network\.encoder\.0": "agent.fc1",
    r"agent\.network\.memory": "agent.rnn",
    r"agent\.network\.head": "agent.fc2",
}
VALUE = {r"\.value\.hidden": ".V.0", r"\.value\.out": ".V.2"}
HYPER = VALUE | {r"\.layers\.0": ".0", r"\.layers\.1": ".2"}
DEEP = {r"layers\.0": "0", r"layers\.1": "2", r"layers\.2": "4", r"layers\.3": "6"}
CENTRAL = {
    r"critic\.agent": "central_agent",
    r"critic\.mix": "critic.net",
    "critic": "central_mixer",
}


class Case(NamedTuple):
    """What a file holds."""

    algo: str
    names: dict[str, str]
    """after those of the agents"""
    layers: Literal[1, 2] = 2
    """of the hypernetworks"""
    double_q: bool = True


WEIGHTED = HYPER | CENTRAL | DEEP
CASES = {
    "iql": Case("iql", {}),
    "vdn": Case("vdn", {}),
    "qmix": Case("qmix", HYPER),
    "qmix_h1": Case("qmix", VALUE | {r"\.layers\.0": ""}, layers=1),
    "qmix_nodouble": Case("qmix", HYPER, double_q=False),
    "cw_qmix": Case("cw_qmix", WEIGHTED),
    "ow_qmix": Case("ow_qmix", WEIGHTED),
    "qplex": Case(
        "qplex",
        DEEP
        | {
            "hyper_w": "hyper_w_final",
            r"\.value\.": ".V.",
            r"kernels\.(key|agents|action)": r"si_weight.\1_extractors.{k}",
        },
    ),
    "qtran": Case(
        "qtran",
        DEEP
        | {
            r"critic\.encoder": "mixer.action_encoding",
            r"critic\.joint": "mixer.Q",
            r"critic\.value": "mixer.V",
        },
    ),
    "coma": Case(
        "coma",
        {rf"critic\.layers\.layers\.{i}": f"critic.fc{i + 1}" for i in range(3)},
    ),
}


class Golden(NamedTuple):
    """One file."""

    case: Case
    values: dict[str, np.ndarray]
    meta: dict[str, Any]
    learner: Learner
    state: TrainState
    """before the update, with the file's weights"""
    batch: Batch


def read(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, and its hyperparameters and scalars."""
    with np.load(FOLDER / f"{name}.npz") as file:
        values = {k: file[k] for k in file.files}
    return values, json.loads(str(values.pop("meta")))


def names_of(networks: Networks, case: Case) -> list[str]:
    """PyTorch's name of each of our arrays, in the order of their leaves."""
    names = []
    for path, _ in jax.tree_util.tree_leaves_with_path(networks):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for ours, theirs in (AGENT | case.names).items():
            name = re.sub(ours, theirs, name)
        names.append(name)
    return names


def read_array(values: dict[str, np.ndarray], prefix: str, name: str) -> np.ndarray:
    """The array of that name, or its pieces stacked."""
    if "{k}" not in name:
        return values[prefix + name]
    pieces = [prefix + name.format(k=k) for k in range(100)]
    return np.stack([values[piece] for piece in pieces if piece in values])


def with_weights(
    networks: Networks, case: Case, values: dict[str, np.ndarray], prefix: str
) -> Networks:
    """The networks with the file's weights; every array is replaced, and all of the file's used."""
    leaves, structure = jax.tree.flatten(networks)
    names = names_of(networks, case)
    new = [jnp.asarray(read_array(values, prefix, name)) for name in names]
    for name, old, array in zip(names, leaves, new, strict=True):
        assert old.shape == array.shape, name
    total = sum(values[k].size for k in values if is_parameter(k, prefix))
    assert total == sum(array.size for array in new)
    return jax.tree.unflatten(structure, new)


def is_parameter(key: str, prefix: str) -> bool:
    """Of the networks that ``prefix`` names."""
    return key.partition(".")[0] in {
        f"{prefix}{part}" for part in ("agent", "mixer", "critic", "central_agent", "central_mixer")
    }


def to_batch(values: dict[str, np.ndarray], networks: Networks) -> Batch:
    """Batch-major whole episodes → time-major slots.

    The files' ``filled`` also marks an episode's final observation; a slot is ``valid`` when it is
    a transition, t < length.
    """
    major = {k: jnp.asarray(np.swapaxes(v, 0, 1)) for k, v in values.items() if k in INPUTS}
    slots, batch, n_agents = major["actions"].shape
    t = jnp.arange(slots)[:, None]
    return Batch(
        slots=Slots(
            obs=major["obs"],
            state=major["state"],
            avail_actions=major["avail"],
            alive=jnp.ones((slots, batch, n_agents), bool),
            action=major["actions"].astype(jnp.int32),
            reward=major["reward"],
            terminated=major["terminated"],
            first=jnp.broadcast_to(t == 0, (slots, batch)),
            valid=t < jnp.asarray(values["lengths"]),
        ),
        start=SequenceStart(
            memory=networks.initial_memory(batch),
            prev_action=jnp.full((batch, n_agents), -1, jnp.int32),
        ),
    )


INPUTS = ("obs", "state", "avail", "actions", "reward", "terminated")


def load(name: str) -> Golden:
    """A file of ``CASES`` as a learner that is about to do the same update."""
    values, meta = read(name)
    case = CASES[name]
    learner = Learner(
        algo=case.algo,
        n_agents=meta["N"],
        n_actions=meta["A"],
        obs_size=meta["D"],
        state_size=meta["S"],
        total_steps=1_000,
        agent=AgentConfig(encoder=(meta["H"],), hidden=meta["H"]),
        mixer=MixerConfig(
            embed=meta["E"], hypernet_layers=case.layers, hypernet_embed=meta["HE"], heads=4
        ),
        critic=CriticConfig(embed=CRITIC_WIDTH.get(name, meta["E"])),
        target=TargetConfig(
            gamma=meta["gamma"],
            double_q=case.double_q,
            td_lambda=meta["td_lambda"] if name == "coma" else 0.0,
        ),
        loss=LossConfig(
            alpha=meta.get("w", 0.1),
            opt=1.0,
            nopt=meta.get("nopt_min_loss", 0.1),
        ),
        exploration=ExplorationConfig(start=meta.get("epsilon", 0.0), end=0.0, steps=1_000),
        optimiser=OptimiserConfig(
            name="rmsprop", lr=meta["lr"], eps=meta["optim_eps"], clip=float(meta["grad_norm_clip"])
        ),
        scaling=ScalingConfig(),
    )
    shapes = jax.eval_shape(learner.init, jax.random.key(0))  # nothing is compiled
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    if name == "coma":  # its actors have no target network
        values |= {f"target_{k}": v for k, v in values.items() if k.startswith("agent.")}
    state = state._replace(
        online=with_weights(state.online, case, values, ""),
        target=with_weights(state.target, case, values, "target_"),
    )
    return Golden(case, values, meta, learner, state, to_batch(values, state.online))


CRITIC_WIDTH = {"cw_qmix": 16, "ow_qmix": 16, "coma": 128}

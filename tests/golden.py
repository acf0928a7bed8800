"""Loads ``tests/golden/*.npz``: the reference learners' numbers as our own modules and batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qtot.core.config import (
    AgentConfig,
    MixerConfig,
    OptimiserConfig,
    ScalingConfig,
    TargetConfig,
)
from qtot.core.learner import Learner, TrainState
from qtot.core.losses.td import Networks
from qtot.types import Batch, SequenceStart, Slots

FOLDER = Path(__file__).parent / "golden"

# file: method, layers of the hypernetworks, double Q
CASES = {
    "iql": ("iql", 2, True),
    "vdn": ("vdn", 2, True),
    "qmix": ("qmix", 2, True),
    "qmix_h1": ("qmix", 1, True),
    "qmix_nodouble": ("qmix", 2, False),
}

# PyTorch's name of a module: ours. Weights and biases have the same names and layout.
MODULES = {
    "agent.fc1": lambda n: n.agent.network.encoder[0],
    "agent.rnn": lambda n: n.agent.network.memory,
    "agent.fc2": lambda n: n.agent.network.head,
    "mixer.hyper_w_1": lambda n: n.mixer.hyper_w_1.layers[0],
    "mixer.hyper_w_1.0": lambda n: n.mixer.hyper_w_1.layers[0],
    "mixer.hyper_w_1.2": lambda n: n.mixer.hyper_w_1.layers[1],
    "mixer.hyper_w_final": lambda n: n.mixer.hyper_w_final.layers[0],
    "mixer.hyper_w_final.0": lambda n: n.mixer.hyper_w_final.layers[0],
    "mixer.hyper_w_final.2": lambda n: n.mixer.hyper_w_final.layers[1],
    "mixer.hyper_b_1": lambda n: n.mixer.hyper_b_1,
    "mixer.V.0": lambda n: n.mixer.value.hidden,
    "mixer.V.2": lambda n: n.mixer.value.out,
}


class Golden(NamedTuple):
    """One file."""

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


def parameter(networks: Networks, name: str) -> jax.Array:
    """The array that PyTorch calls ``name`` (``agent.fc1.weight``)."""
    module, _, attribute = name.rpartition(".")
    return getattr(MODULES[module](networks), attribute)


def parameter_names(values: dict[str, np.ndarray]) -> list[str]:
    """PyTorch's names of everything that is trained."""
    return [k for k in values if k.startswith(("agent.", "mixer."))]


def with_weights(networks: Networks, values: dict[str, np.ndarray], prefix: str) -> Networks:
    """The networks with the file's weights; every array is replaced, none twice."""
    names = parameter_names(values)
    assert len(names) == len(jax.tree.leaves(networks))
    new = [jnp.asarray(values[prefix + name]) for name in names]
    for name, array in zip(names, new, strict=True):
        assert parameter(networks, name).shape == array.shape, name
    return eqx.tree_at(lambda n: [parameter(n, name) for name in names], networks, new)


def to_batch(values: dict[str, np.ndarray], hidden: int) -> Batch:
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
            memory=jnp.zeros((batch, n_agents, hidden)),
            prev_action=jnp.full((batch, n_agents), -1, jnp.int32),
        ),
    )


INPUTS = ("obs", "state", "avail", "actions", "reward", "terminated")


def load(name: str) -> Golden:
    """A file of ``CASES`` as a learner that is about to do the same update."""
    values, meta = read(name)
    algo, layers, double_q = CASES[name]
    learner = Learner(
        algo=algo,
        n_agents=meta["N"],
        n_actions=meta["A"],
        obs_size=meta["D"],
        state_size=meta["S"],
        total_steps=1_000,
        agent=AgentConfig(encoder=(meta["H"],), hidden=meta["H"]),
        mixer=MixerConfig(embed=meta["E"], hypernet_layers=layers, hypernet_embed=meta["HE"]),
        target=TargetConfig(gamma=meta["gamma"], double_q=double_q),
        optimiser=OptimiserConfig(
            name="rmsprop", lr=meta["lr"], eps=meta["optim_eps"], clip=meta["grad_norm_clip"]
        ),
        scaling=ScalingConfig(),
    )
    shapes = jax.eval_shape(learner.init, jax.random.key(0))  # nothing is compiled
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state = state._replace(
        online=with_weights(state.online, values, ""),
        target=with_weights(state.target, values, "target_"),
    )
    return Golden(values, meta, learner, state, to_batch(values, meta["H"]))

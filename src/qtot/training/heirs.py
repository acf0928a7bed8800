"""Agents that begin as those of another run, with a fresh mixer, optimiser and replay; also in a
team of another size, where what an agent sees and does is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from qtot.config import TrainConfig
from qtot.core.agent import Agent
from qtot.core.learner import PolicyParams
from qtot.core.methods import method
from qtot.core.statistics import RunningStats
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.store.run_folder import RunFolder
from qtot.training.hosts import fetch
from qtot.training.ingraph import make_learner
from qtot.training.keeping import placed_like
from qtot.training.state import RunState

Inherit = Callable[[RunState], RunState]


def heirs(config: TrainConfig, spec: EnvSpec) -> Inherit | None:
    """Puts the agents of ``config.init_agents`` in the place of a fresh state's; None if there is
    no such run. Seed by seed: the first from that run's first, and round again if it has fewer.

    Raises:
        QtotError: there is no run, or its agents cannot act here; says why.
    """
    if not config.init_agents:
        return None
    folder = RunFolder.open(Path(config.init_agents))
    theirs, their_spec = folder.facts()
    _check(config, spec, theirs, their_spec)
    learner = make_learner(their_spec, theirs)
    template = jax.eval_shape(lambda: PolicyParams.of(learner.init(jax.random.key(0))))
    sources = [
        folder.load("last", theirs.seed + i % theirs.seeds, template) for i in range(config.seeds)
    ]

    def inherit(state: RunState) -> RunState:
        train = state.seeds.train
        fresh = fetch((train.online.agent, train.stats.obs))
        each = [
            _inherited(jax.tree.map(lambda x: x[i], fresh), source)  # noqa: B023
            for i, source in enumerate(sources)
        ]
        agent, obs = jax.tree.map(lambda *x: np.stack(x), *each)
        train = train._replace(
            online=_with_agent(train.online, agent),
            target=_with_agent(train.target, agent),
            stats=train.stats._replace(obs=jax.tree.map(placed_like, train.stats.obs, obs)),
        )
        return state._replace(seeds=state.seeds._replace(train=train))

    return inherit


def _with_agent(networks: Any, agent: Agent) -> Any:
    new = jax.tree.map(placed_like, networks.agent, agent)
    return eqx.tree_at(lambda x: x.agent, networks, new)


def _check(config: TrainConfig, spec: EnvSpec, theirs: TrainConfig, their_spec: EnvSpec) -> None:
    def refuse(reason: str) -> QtotError:
        return QtotError(f"the agents of {config.init_agents} cannot begin here: {reason}")

    for fact, what in (("obs_size", "observations of"), ("max_actions", "actions:")):
        now, then = getattr(spec, fact), getattr(their_spec, fact)
        if now != then:
            raise refuse(f"{spec.name} has {what} {now}, {their_spec.name} had {then}")
    if method(config.algo).on_policy != method(theirs.algo).on_policy:
        raise refuse(
            f"{config.algo} here, {theirs.algo} there: logits of a policy are no values of actions"
        )
    if spec.obs_shape != their_spec.obs_shape:
        raise refuse(
            f"{spec.name} has observations of shape {spec.obs_shape}, {their_spec.name} had "
            f"{their_spec.obs_shape}"
        )
    ours = asdict(config.agent) | {"normalise_obs": config.scaling.normalise_obs}
    other = asdict(theirs.agent) | {"normalise_obs": theirs.scaling.normalise_obs}
    for name in sorted(ours.keys() - {"groups", "init"}):
        if ours[name] != other[name]:
            flag = f"--{'scaling' if name == 'normalise_obs' else 'agent'}.{name.replace('_', '-')}"
            raise refuse(f"{flag} is {ours[name]} here and was {other[name]} there")
    many, had = spec.n_agents, their_spec.n_agents
    if config.agent.sharing == "none" and many > had:
        raise refuse(
            f"each has a network of its own (--agent.sharing none), of which there are {had} for "
            f"{many} agents"
        )
    if config.agent.sharing == "groups":
        groups, had = max(config.agent.groups) + 1, max(theirs.agent.groups) + 1
        if groups > had:
            raise refuse(f"--agent.groups names {groups} groups, of which it had {had}")


def _inherited(
    fresh: tuple[Agent, RunningStats], source: PolicyParams
) -> tuple[Agent, RunningStats]:
    """One seed's: theirs, in our sizes."""
    ours, old = fresh[0], source.online.agent

    def take(new: np.ndarray, then: np.ndarray) -> np.ndarray:
        # A group's or an agent's axis may be shorter here; what knows the team's size is below.
        return then[: len(new)] if new.shape[1:] == then.shape[1:] and new.ndim else then

    like = _like(ours, old)
    same = ours.n_agents == old.n_agents and all(one == [i] for i, one in enumerate(like))
    if same or not ours.config.agent_id:
        network = jax.tree.map(take, ours.network, old.network)
    else:
        first = _first_weight(ours)
        columns = first(ours.network).shape[-1] - ours.n_agents
        wide = np.array(first(ours.network))
        then = take(wide[..., :columns], first(old.network)[..., :columns])
        ids = [i for i, one in enumerate(like) if one == [i]]
        wide[..., :columns] = then
        if ids:
            column = [columns + i for i in ids]
            wide[..., column] = first(old.network)[..., column][slice(len(wide))]
        held = eqx.tree_at(first, old.network, wide)
        network = jax.tree.map(take, ours.network, held)
    agent = eqx.tree_at(lambda x: x.network, ours, network)
    return agent, _moments(like, source.stats.obs)


def _like(ours: Agent, theirs: Agent) -> list[list[int]]:
    """For each agent, those of the old team whom it was: itself, where it has the same network;
    else all who have the network that is now its own.
    """
    now = ours.groups or (0,) * ours.n_agents
    then = theirs.groups or (0,) * theirs.n_agents
    everyone = list(range(len(then)))
    return [
        [i]
        if i < len(then) and then[i] == group
        else [j for j in everyone if then[j] == group] or everyone
        for i, group in enumerate(now)
    ]


def _first_weight(agent: Agent) -> Callable[[Any], np.ndarray]:
    """Of the layer that reads observation, previous action and id."""
    if agent.config.encoder:
        return lambda network: network.encoder[0].weight
    if agent.config.memory == "gru":
        return lambda network: network.memory.weight_ih
    return lambda network: network.memory.weight


def _moments(like: list[list[int]], theirs: Any) -> RunningStats:
    """Each agent's own; one that is new has those of the agents whom it is like, together."""
    means, squares = np.asarray(theirs.mean), np.asarray(theirs.m2)
    new_means, new_squares = [], []
    for those in like:
        mean = means[those].mean(axis=0)
        spread = squares[those] + theirs.n * (means[those] - mean) ** 2
        new_means.append(mean)
        new_squares.append(spread.mean(axis=0))
    made: Any = (np.stack(new_means), np.stack(new_squares))
    return RunningStats(theirs.n, *(x.astype(np.float32) for x in made))

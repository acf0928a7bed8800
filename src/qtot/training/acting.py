"""The policies of training, acting on what environments show that are stepped elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.core.learner import PolicyParams
from qtot.core.networks import Networks
from qtot.envs.stream import Stream
from qtot.training.collect import Actors, Collector
from qtot.types import Observation


class Sight(NamedTuple):
    """What the policy is given of a group, ``[seeds, e, ...]``."""

    seen: Observation
    first: Any
    noise: Any
    """``[seeds, 2, e, N]``"""


Leaves = list[Any]
Act = Callable[[Leaves, Any, Sight, Any, Any], tuple[Any, Any]]


def acting(collector: Collector, policies: PolicyParams) -> PolicyParams:
    """What of them is needed to act."""
    online = collector.acting(policies.online)
    return policies._replace(online=Networks(online.agent, None, online.critic))


def act_program(collector: Collector, policies: PolicyParams, seeds: int, precision: str) -> Act:
    """``(leaves, env_steps, sight, prev_action, memory) -> (prev_action, memory)`` of every seed,
    with the exploration of training. Jitted. The policies' leaves are given as a list, since to
    take modules apart at every slot costs as much as half of the acting.
    """
    structure = jax.tree.structure(acting(collector, policies))

    def one(
        policy: PolicyParams,
        env_steps: Int[Array, ""],
        sight: Sight,
        previous: Int[Array, "e N"],
        memory: Float[Array, "e N K"],
    ) -> tuple[Array, Array]:
        none = jnp.zeros(sight.first.shape)
        stream = Stream(sight.seen, sight.first, none > 0, none > 0, none, none.astype(jnp.int32))
        epsilon = collector.learner.epsilon(env_steps)
        actors = Actors(stream, memory, previous)
        _, action, memory = collector.act(sight.noise, actors, policy.online, policy.stats, epsilon)
        return action, memory

    def each(leaves: Leaves, *rest: Any) -> Any:
        args = (jax.tree.unflatten(structure, leaves), *rest)
        if seeds > 1:
            return jax.vmap(one)(*args)
        alone = one(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], alone)

    return jax.jit(jax.default_matmul_precision(precision)(each))

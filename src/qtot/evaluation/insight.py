"""What a team's networks say of episodes that were played: who is credited with what, and whether
everyone's own argmax is the best joint action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qtot.core.exploration import policy as softmax_policy
from qtot.core.learner import Learner, PolicyParams
from qtot.core.losses.base import mixer_inputs, returns_of
from qtot.core.losses.coma import counterfactual_advantage
from qtot.core.masks import masked_argmax, pick
from qtot.core.methods import method
from qtot.core.mixers.base import MixerInputs
from qtot.core.networks import Networks
from qtot.core.unroll import Unrolled, previous_actions, scrub, unroll_all
from qtot.store.records import Certificate
from qtot.types import Batch, SequenceStart, Slots

MOST_JOINT = 4096
"""joint actions that are tried out in a state"""
MOST_TABLE = 512
"""joint actions of a table that is written down"""
MOST_STATES = 512
"""states in which they are"""
EQUAL = 1e-5
"""how far, relative to its size where that is above 1, a value may lie below the best and be it"""


class Team(NamedTuple):
    """Networks that have gone through some slots."""

    online: Networks
    slots: Slots
    """scaled as in training, and scrubbed"""
    unrolled: Unrolled

    @staticmethod
    def of(learner: Learner, params: PolicyParams, slots: Slots) -> Team:
        """From the beginning of episodes, ``slots [T, E, ...]``."""
        online, batch = params.online, slots.action.shape[1]
        none = jnp.full(slots.action.shape[1:], -1, jnp.int32)
        start = SequenceStart(online.initial_memory(batch), none)
        scaled = scrub(Batch(learner.scale(params.stats, slots), start), next_action=True)
        return Team(online, scaled.slots, unroll_all(online, scaled))

    @property
    def q(self) -> Float[Array, "T E N A"]:
        """Of the agents."""
        return self.unrolled[0][0]

    def inputs(self, q: Array, action: Array) -> MixerInputs:
        """What the mixer sees of a joint action."""
        return mixer_inputs(self.slots, q, self.unrolled[0][1], action)


def insights(
    learner: Learner, params: PolicyParams, slots: Slots, *, table: bool = False
) -> dict[str, Array]:
    """``store.records.SAID`` of episodes that lie side by side, each from its first slot on.

    Args:
        learner: of the run.
        params: whose networks are asked.
        slots: ``[T, E, ...]`` as they were played; what is not ``valid`` but an episode's final
            observation says nothing.
        table: whether Q_tot of every joint action is wanted, if there are not too many.
    """
    team = Team.of(learner, params, slots)
    out = {"q": team.q, "greedy": masked_argmax(team.q, slots.avail_actions)}
    if method(learner.algo).on_policy:
        return out | _of_coma(learner, team)
    return out | _of_values(learner, team, table)


def _of_values(learner: Learner, team: Team, table: bool) -> dict[str, Array]:
    mixer, slots = team.online.mixer, team.slots
    assert mixer is not None

    def mixed(q: Array, action: Array) -> Array:
        return mixer(team.inputs(q, action))

    values = mixed(team.q, slots.action)
    best = mixed(team.q, masked_argmax(team.q, slots.avail_actions))
    if values.shape[-1] > 1:
        return {"td_error": _td_error(learner, slots, values, best)}
    slope = jax.grad(lambda q: jnp.sum(mixed(q, slots.action)))(team.q)
    credit = pick(slope, slots.action)
    out = {
        "q_tot": values[..., 0],
        "credit": credit,
        "bias": values[..., 0] - jnp.sum(credit * pick(team.q, slots.action), axis=-1),
    }
    if table and learner.n_actions**learner.n_agents <= MOST_TABLE:
        everywhere = jax.vmap(lambda u: jnp.broadcast_to(u, slots.action.shape))
        each = jax.vmap(lambda u: mixed(team.q, u)[..., 0], out_axes=2)
        out["table"] = each(everywhere(joint_actions(learner)))
    joint = joint_value(team)
    if joint is None:
        return out | {"td_error": _td_error(learner, slots, values, best)[..., 0]}
    # Weighted QMIX and QTRAN regress on what the unrestricted critic says of the next state.
    best = joint(masked_argmax(team.q, slots.avail_actions))
    q_joint = joint(slots.action)
    error = _td_error(learner, slots, q_joint, best)
    return out | {"q_joint": q_joint[..., 0], "td_error": error[..., 0]}


def joint_actions(learner: Learner) -> Int[Array, "P N"]:
    """All of them, the last agent's action counting fastest."""
    n, a = learner.n_agents, learner.n_actions
    return jnp.asarray(np.indices((a,) * n).reshape(n, -1).T)


def joint_value(team: Team) -> Callable[[Array], Array] | None:
    """The critic's value ``[..., 1]`` of any joint action, where it has one."""
    judge = getattr(team.online.critic, "judge", None)
    return None if judge is None else judge(team.slots.state, team.unrolled)


def _of_coma(learner: Learner, team: Team) -> dict[str, Array]:
    slots = team.slots
    start = SequenceStart(team.online.initial_memory(1), jnp.full_like(slots.action[0], -1))
    previous = jnp.where(slots.first[..., None], -1, previous_actions(Batch(slots, start)))
    q = team.online.critic(slots.state, slots.obs, slots.action, previous)
    probabilities = softmax_policy(team.q, slots.avail_actions, 0.0)
    taken = pick(q, slots.action)
    return {
        "policy": probabilities,
        "q_critic": q,
        "advantage": counterfactual_advantage(probabilities, q, slots.action),
        "td_error": _td_error(learner, slots, taken, taken),
    }


def _td_error(learner: Learner, slots: Slots, value: Array, following: Array) -> Array:
    one_step = replace(learner.target, td_lambda=0.0, n_step=1)
    error = returns_of(slots, following[1:], one_step) - value[:-1]
    return jnp.concatenate([jnp.where(slots.valid[:-1, :, None], error, 0.0), 0.0 * value[-1:]])


# Monotonicity ---------------------------------------------------------------------------------


def certify(
    learner: Learner, params: PolicyParams, slots: Slots, said: dict[str, Any]
) -> Certificate:
    """Over the transitions of episodes ``[T, E, ...]``, of which ``insights`` said so much."""
    where: Any = np.argwhere(np.asarray(slots.valid))
    many = learner.n_actions**learner.n_agents
    found = Certificate(len(where), None, None, 0, many, *[None] * 4)
    if "credit" not in said:
        return found
    credit = np.asarray(said["credit"])[np.asarray(slots.valid)]
    found = found._replace(
        smallest_credit=float(credit.min()),
        negative=float((credit < 0).mean()),
    )
    if many > MOST_JOINT:
        return found
    chosen = where[np.linspace(0, len(where) - 1, min(len(where), MOST_STATES)).astype(int)]
    tried = jax.jit(lambda *given: _tried(learner, *given))(params, slots, jnp.asarray(chosen))
    agree, gap = _compared(*tried["mixer"])
    found = found._replace(tried=len(chosen), agree=agree, gap=gap)
    if "critic" in tried:
        agree, gap = _compared(*tried["critic"])
        found = found._replace(agree_joint=agree, gap_joint=gap)
    return found


def _compared(own: Any, best: Any) -> tuple[float, float]:
    own, best = np.asarray(own, float), np.asarray(best, float)
    short = best - own
    return float((short <= EQUAL * np.maximum(np.abs(best), 1.0)).mean()), float(short.max())


def _tried(
    learner: Learner, params: PolicyParams, slots: Slots, chosen: Int[Array, "S 2"]
) -> dict[str, tuple[Array, Array]]:
    """By the mixer, and by the critic if it can: the value where everyone is greedy, and the
    largest of all legal joint actions, ``[S]`` each. ``chosen`` are times and episodes.
    """
    n, a = learner.n_agents, learner.n_actions
    team = Team.of(learner, params, slots)
    joint = joint_actions(learner)

    def by_mixer(team: Team, action: Array) -> Array:
        assert team.online.mixer is not None
        return team.online.mixer(team.inputs(team.q, action))

    def by_critic(team: Team, action: Array) -> Array:
        value = joint_value(team)
        assert value is not None
        return value(action)

    def at_each(value: Callable[[Team, Array], Array]) -> tuple[Array, Array]:
        def one(at: Int[Array, "2"]) -> tuple[Array, Array]:
            here = jax.tree.map(lambda x: x[at[0], at[1]], (team.slots, team.unrolled))
            many = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(joint), *x.shape)), here)
            values = value(Team(team.online, *many), joint)[..., 0]
            avail: Bool[Array, "N A"] = here[0].avail_actions
            greedy = masked_argmax(here[1][0][0], avail)
            index = jnp.sum(greedy * a ** jnp.arange(n - 1, -1, -1))
            legal = avail[jnp.arange(n), joint].all(-1)
            return values[index], jnp.max(jnp.where(legal, values, -jnp.inf))

        return jax.lax.map(one, chosen)

    out = {"mixer": at_each(by_mixer)}
    return out | ({"critic": at_each(by_critic)} if joint_value(team) is not None else {})

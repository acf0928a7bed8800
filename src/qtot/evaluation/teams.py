"""Who chooses the joint action of E episodes that are played side by side: trained agents greedily,
of one run or of several; and what is written down of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qtot.core.learner import Learner, PolicyParams
from qtot.core.masks import masked_argmax


class Seen(NamedTuple):
    """What E episodes show at one step."""

    obs: Any
    """float32 ``[E, N, O]``"""
    avail_actions: Any
    """bool ``[E, N, A]``"""
    first: Any
    """bool ``[E]``: an episode begins here"""
    running: Any
    """bool ``[E]``: the actions are taken; elsewhere they mean nothing"""


class Choice(NamedTuple):
    """A joint action of each."""

    action: Any
    """int32 ``[E, N]``"""
    margin: Any
    """float32 ``[E, N]``: how far the best legal value is above the second, as ``margin_of``"""


class Team(Protocol):
    """N agents, who remember."""

    def act(self, seen: Seen) -> Choice:
        """The next joint actions."""
        ...


def margin_of(q: Float[Array, "*b A"], avail_actions: Bool[Array, "*b A"]) -> Float[Array, "*b"]:
    """Best legal value minus the second best, relative to the best where that is above 1 in size;
    infinite where there is no choice.
    """
    legal = jnp.where(avail_actions, q, -jnp.inf)
    if q.shape[-1] == 1:
        return jnp.full(q.shape[:-1], jnp.inf)
    best, second = jnp.moveaxis(jax.lax.top_k(legal, 2)[0], -1, 0)
    size = jnp.maximum(jnp.abs(jnp.where(jnp.isfinite(best), best, 0.0)), 1.0)
    return jnp.where(jnp.isfinite(second), (best - second) / size, jnp.inf)


Program = Callable[[tuple[PolicyParams, ...], Seen, Any, Any], tuple[Any, Any, Any]]


def greedy_program(
    learners: Sequence[Learner], precision: str, who: Sequence[int] | None = None
) -> Program:
    """``(policies, seen, prev_action, memories) -> (action, margin, memories)``.

    Args:
        learners: of each policy.
        precision: of products.
        who: which policy acts for each agent, in the agent's own place; None: the first.
    """

    def act(
        policies: tuple[PolicyParams, ...], seen: Seen, previous: Any, memories: Any
    ) -> tuple[Any, Any, Any]:
        values, after = [], []
        for learner, policy, before in zip(learners, policies, memories, strict=True):
            agent, obs = policy.online.agent, learner.see(policy.stats, seen.obs)
            q, _, memory = agent.unroll(obs[None], previous[None], seen.first[None], before)
            values.append(q[0])
            after.append(memory)
        q = values[0]
        if who is not None:
            chosen: Int[Array, "N"] = jnp.asarray(who)
            q = jnp.stack(values)[chosen, :, jnp.arange(len(who))].swapaxes(0, 1)
        action = masked_argmax(q, seen.avail_actions).astype("int32")
        return action, margin_of(q, seen.avail_actions), tuple(after)

    return jax.jit(jax.default_matmul_precision(precision)(act))


class Together:
    """Agents in this process, each with the values of its own policy."""

    def __init__(self, program: Program, policies: Sequence[PolicyParams], episodes: int):
        self._program, self._policies = program, tuple(policies)
        agents = [policy.online.agent for policy in policies]
        n = agents[0].n_agents
        self._previous: Any = np.full((episodes, n), -1, np.int32)
        self._memories: Any = tuple(
            np.zeros((episodes, n, agent.memory_size), np.float32) for agent in agents
        )

    def act(self, seen: Seen) -> Choice:
        """Greedy, by everyone's own value."""
        action, margin, self._memories = self._program(
            self._policies, seen, self._previous, self._memories
        )
        self._previous = action
        return Choice(action, margin)


@dataclass
class Moves:
    """What was chosen in one episode, step by step."""

    action: list[np.ndarray] = field(default_factory=list)
    """``[N]`` each"""
    margin: list[np.ndarray] = field(default_factory=list)


@dataclass
class Recorded:
    """A team whose choices are written down."""

    team: Team
    episodes: dict[tuple[int, int], Moves] = field(default_factory=dict)
    """by place and number there"""
    _opened: dict[int, int] = field(default_factory=dict)

    def act(self, seen: Seen) -> Choice:
        """As the team."""
        choice = self.team.act(seen)
        action, margin = np.asarray(choice.action), np.asarray(choice.margin)
        first, running = np.asarray(seen.first), np.asarray(seen.running)
        for e in np.flatnonzero(running).tolist():
            if first[e]:
                self._opened[e] = self._opened.get(e, -1) + 1
            moves = self.episodes.setdefault((e, self._opened[e]), Moves())
            moves.action.append(action[e])
            moves.margin.append(margin[e])
        return choice


@dataclass
class Shadowed:
    """A team that acts, and another that is asked the same and is not heard."""

    acts: Recorded
    asked: Recorded

    def act(self, seen: Seen) -> Choice:
        """As the first."""
        self.asked.act(seen)
        return self.acts.act(seen)


TIE = 2e-5
"""values closer than this, relative to their size where that is above 1, may be told apart
otherwise by other arithmetic"""


class Agreement(NamedTuple):
    """Two recordings of the same episodes, compared until each diverges."""

    episodes: int
    steps: int
    """joint actions compared"""
    equal: int
    """of them, the same in every agent"""
    ties: int
    """different where the two best values of everyone who differs are a tie"""
    unexplained: int
    """different otherwise"""


def compared(reference: Recorded, other: Recorded) -> Agreement:
    """How far ``other`` plays as ``reference``, whose margins are read."""
    steps = equal = ties = unexplained = 0
    for key, moves in reference.episodes.items():
        others = other.episodes.get(key, Moves()).action
        for t, (action, margin) in enumerate(zip(moves.action, moves.margin, strict=True)):
            if t >= len(others):
                unexplained += 1  # it ended, though all was the same
                break
            steps += 1
            differs = action != others[t]
            if not differs.any():
                equal += 1
                continue
            if (margin[differs] <= TIE).all():
                ties += 1
            else:
                unexplained += 1
            break  # what follows is another episode
        else:
            unexplained += len(others) > len(moves.action)  # it went on, though all was the same
    unexplained += len(other.episodes.keys() - reference.episodes.keys())
    return Agreement(len(reference.episodes), steps, equal, ties, unexplained)

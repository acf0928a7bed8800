"""Whether rewards are those of a team, and such as can be learned; a part of ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from qtot.envs.host.check_play import Played, Player
from qtot.envs.report import Problem, problem

HUGE_RETURN = 1e4
ENOUGH_REWARDS = 20
RIVALRY = -0.5
"""agents' rewards that correlate less are those of opponents"""
SURE_RIVALRY, PARTS, ERRORS_BELOW = -0.2, 40, 3.0
"""or that correlate less than this, where most of so many parts of the play say so: their mean is
so many standard errors below 0"""


def reward_problems(player: Player, record: Played, return_mean: float | None) -> Iterator[Problem]:
    """All that is wrong with rewards that are numbers."""
    rewards = record.result.reward[record.valid]
    own = np.array(player.agent_rewards).reshape(-1, player.spec.n_agents)
    own = own[np.isfinite(own).all(-1)]
    notice = partial(problem, severity="notice")
    if own.any() and (np.abs(own.sum(-1)) <= 1e-6 * np.abs(own).max()).all():
        yield problem(
            "zero_sum",
            "rewards",
            "a team that gains and loses together",
            f"agents' rewards whose sum is 0 in all of {len(own)} steps",
            "opponents have nothing to learn as a team: train one side only and make the other a "
            "part of the environment",
        )
    elif len(rewards) and not rewards.any():
        yield notice(
            "no_reward",
            "reward",
            "a reward now and then",
            f"0 in all of {len(rewards)} steps",
            "random play cannot find any, or it is missing; a sparse one needs long exploration",
        )
    elif rivals := _rivals(own):
        one, other, likeness = rivals
        agents = player.spec.agents
        yield notice(
            "competitive",
            "rewards",
            "agents that gain together",
            f"a correlation of {likeness:.2f} between {agents[one]!r} and {agents[other]!r}",
            "if they are opponents there is no team: train one side only and make the other a part "
            "of the environment; otherwise make the reward a common one",
        )
    if return_mean is not None and HUGE_RETURN < abs(return_mean) < np.inf:
        scale = 10.0 ** -np.floor(np.log10(abs(return_mean)))
        yield notice(
            "reward_scale",
            "reward",
            f"returns of at most {HUGE_RETURN:g}",
            f"a mean of {return_mean:.4g}",
            f"values so large are learned slowly or not at all: --scaling.reward-scale {scale:g}",
        )


def _rivals(own: np.ndarray) -> tuple[int, int, float] | None:
    """The two agents whose rewards ``[T, N]`` are least alike, and their correlation, if it is that
    of opponents.
    """
    if len(own) < ENOUGH_REWARDS:
        return None
    away = own - own.mean(0)
    moves = np.flatnonzero(away.std(0) > 1e-9 * np.abs(own).max())
    away = away[:, moves] / np.linalg.norm(away[:, moves], axis=0)
    if len(moves) < 2:
        return None
    likeness = away.T @ away
    one, other = sorted(map(int, np.unravel_index(likeness.argmin(), likeness.shape)))
    parts = [part.sum() for part in np.array_split(away[:, one] * away[:, other], PARTS)]
    sure = sum(parts) < -ERRORS_BELOW * np.linalg.norm(parts)
    if likeness[one, other] < (SURE_RIVALRY if sure else RIVALRY):
        return int(moves[one]), int(moves[other]), float(likeness[one, other])
    return None

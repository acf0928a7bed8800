"""Whether rewards are those of a team, and such as can be learned; a part of ``check``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qtot.envs.host.check_play import Played, Player
from qtot.envs.report import Problem, problem

HUGE_RETURN = 1e4
RIVALRY = -0.5
"""agents' rewards that correlate less are those of opponents"""
ENOUGH_REWARDS = 20


def rivals(player: Player) -> Iterator[Problem]:
    """Whether the agents are a team at all."""
    own = np.array(player.agent_rewards)
    own = own[np.isfinite(own).all(-1)] if len(own) else own
    if player.spec.n_agents == 1 or not own.any():
        return
    scale = np.abs(own).max()
    if (np.abs(own.sum(-1)) <= 1e-6 * scale).all():
        yield problem(
            "zero_sum",
            "rewards",
            "a team that gains and loses together",
            f"agents' rewards whose sum is 0 in all of {len(own)} steps",
            "opponents have nothing to learn as a team: train one side only and make the other a "
            "part of the environment",
        )
        return
    moves = np.flatnonzero(own.std(0) > 1e-9 * scale)
    if len(own) < ENOUGH_REWARDS or len(moves) < 2:
        return
    likeness = np.corrcoef(own[:, moves].T)
    one, other = np.unravel_index(likeness.argmin(), likeness.shape)
    if likeness[one, other] < RIVALRY:
        names = [player.spec.agents[moves[i]] for i in sorted((int(one), int(other)))]
        yield problem(
            "competitive",
            "rewards",
            "agents that gain together",
            f"a correlation of {likeness[one, other]:.2f} between {names[0]!r} and {names[1]!r}",
            "if they are opponents there is no team; otherwise make the reward a common one",
            severity="notice",
        )


def scale_problems(record: Played, return_mean: float | None) -> Iterator[Problem]:
    """Whether there is any reward, and whether it is of a size that can be learned."""
    rewards = record.result.reward[record.valid]
    if len(rewards) and not rewards.any():
        yield problem(
            "no_reward",
            "reward",
            "a reward now and then",
            f"0 in all of {len(rewards)} steps",
            "random play cannot find any, or it is missing; a sparse one needs long exploration",
            severity="notice",
        )
    if return_mean is not None and abs(return_mean) > HUGE_RETURN:
        scale = 10.0 ** -np.floor(np.log10(abs(return_mean)))
        yield problem(
            "reward_scale",
            "reward",
            f"returns of at most {HUGE_RETURN:g}",
            f"a mean of {return_mean:.4g}",
            f"values so large are learned slowly or not at all: --scaling.reward-scale {scale:g}",
            severity="notice",
        )

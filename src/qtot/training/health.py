"""Whether learning goes well: numbers that are not finite, and values that no reward explains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qtot.config import TrainConfig
from qtot.core.learner import Learner, TrainState

FAR = 3.0
"""times what rewards allow"""
NAMES = {"grad_norm": "the gradient", "parameters": "a parameter"}


class Health:
    """Of a run."""

    advice = (
        "A smaller --optimiser.lr or --optimiser.clip may help; 'qtot check-env' looks for rewards "
        "and observations that are not finite, and --debug-nans finds the operation that made the "
        "first one"
    )

    def __init__(self, config: TrainConfig, learner: Learner, episode_limit: int):
        self.config, self.limit = config, episode_limit
        self.quantities = (*learner.quantities, "parameters")

    def trouble(self, found: np.ndarray) -> tuple[int, str] | None:
        """The first number that was not finite, and whose: from the ``TrainState.trouble`` of every
        seed.
        """
        seeds = np.flatnonzero(found[:, 0])
        if not len(seeds):
            return None
        seed = int(min(seeds, key=lambda i: tuple(found[i, 1:])))
        which, update, step = found[seed].tolist()
        name = self.quantities[which - 1]
        return seed, (
            f"{NAMES.get(name, name)} of seed {self.config.seed + seed} is not finite at update "
            f"{update:,}, step {step:,}"
        )

    def warning(self, rows: list[dict[str, Any]], train: TrainState) -> str | None:
        """What is wrong with the last log, if anything is."""
        for i, row in enumerate(rows):
            where = f"of seed {row['seed']} at step {row['env_steps']:,}"
            lost = [k for k, v in row.items() if v is None]
            if lost:
                return f"{lost[0]} {where} is not finite; 'qtot check-env' looks for the cause"
            reward = self._largest_reward(train, i)
            allowed = reward * self.horizon
            value = abs(row.get("q_tot", 0.0))
            if 0.0 < FAR * allowed < value:
                gamma = self.config.target.gamma
                return (
                    f"Q_tot {where} is {value:.3g} in size, on average, but rewards of at most "
                    f"{reward:.3g} allow no more than {allowed:.3g} (--target.gamma {gamma:g}): it "
                    "diverges; try a smaller --optimiser.lr, a larger --target.interval, a smaller "
                    "--target.gamma, or --target.time-limit end"
                )
        return None

    def _largest_reward(self, train: TrainState, seed: int) -> float:
        """As the loss is given it."""
        scaling, largest = self.config.scaling, float(train.largest_reward[seed])
        if scaling.standardise_rewards and largest:
            moments = train.stats.reward
            variance = float(moments.m2[seed]) / max(float(moments.n[seed]), 1.0)
            spread = math.sqrt(max(variance, 1e-12))
            largest = (largest + abs(float(moments.mean[seed]))) / spread
        return largest * scaling.reward_scale

    @property
    def horizon(self) -> float:
        """The sum of the discounts of all steps that count for a value."""
        gamma, ends = self.config.target.gamma, self.config.target.time_limit == "end"
        if gamma == 1.0:
            return float(self.limit)
        return (1.0 - gamma ** (self.limit if ends else math.inf)) / (1.0 - gamma)

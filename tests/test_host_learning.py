"""QMIX learns in environments that Python steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import qtot
from extras import package
from qtot.envs.host.base import Seen, Stepped
from qtot.envs.spec import EnvSpec
from smac_like import Battle

LBF, MPE = "gym/Foraging-8x8-2p-2f-coop-v3", "pettingzoo/mpe2.simple_spread_v3"

LIMITED = {"time_limit": "end"}
"""who hides ends every battle by time: bootstrapped, the values of hiding drift"""


def battles(out: Path, seeds: int) -> list[float]:
    """Best win rate of each seed, 64 greedy battles; random play never wins."""
    run = qtot.train(
        partial(Battle, n=3),
        data="online",
        steps=100_000,
        seeds=seeds,
        out=out,
        quiet=True,
        exploration={"steps": 60_000},
        target=LIMITED,
        evaluation={"every": 10_000, "episodes": 64, "final_episodes": 64},
    )
    assert run.metrics()[0]["eval/win_rate"] == 0.0
    return [row["best/win_rate"] for row in run.result()]


@pytest.mark.long
def test_the_battle_of_smacs_api_is_won(tmp_path: Path):
    assert battles(tmp_path / "run", seeds=1)[0] > 0.8


@pytest.mark.long
def test_the_battle_of_smacs_api_is_won_by_every_seed(tmp_path: Path):
    assert min(battles(tmp_path / "run", seeds=4)) > 0.8


@pytest.mark.long
def test_foraging_is_learned_in_800k_steps(tmp_path: Path):
    """Everything eaten is 1; random play gets about .005. The default preset, every seed."""
    package("lbforaging", "gym")
    run = qtot.train(LBF, steps=800_000, seeds=3, out=tmp_path / "run", quiet=True)
    returns = [row["return"] for row in qtot.evaluate(run, episodes=256)]
    assert min(returns) > 0.8, returns


@pytest.mark.long
def test_simple_spread_is_learned_in_400k_steps(tmp_path: Path):
    """Random play gets about -75. The default preset, every seed."""
    package("mpe2", "pettingzoo")
    run = qtot.train(MPE, steps=400_000, seeds=2, out=tmp_path / "run", quiet=True)
    returns = [row["return"] for row in qtot.evaluate(run, episodes=256)]
    assert min(returns) > -60.0, returns


class Signals:
    """Each agent is shown a number, and paid for naming it together with the others."""

    spec = EnvSpec("own:signals", ("a", "b"), (3, 3), (3, 3), 6, 10)

    def reset(self, seed: int) -> Seen:
        self.rng, self.time = np.random.default_rng(seed), 0
        return self._seen()

    def _seen(self) -> Seen:
        self.shown = self.rng.integers(3, size=2)
        obs = np.eye(3, dtype=np.float32)[self.shown]
        return Seen(obs, obs.reshape(-1), np.ones((2, 3), bool), np.ones(2, bool))

    def step(self, actions: Sequence[int]) -> Stepped:
        right, self.time = tuple(actions) == tuple(self.shown), self.time + 1
        return Stepped(self._seen(), float(right), False, self.time == 10, {})

    def close(self) -> None:
        pass


@pytest.mark.long
def test_one_and_sixteen_environments_learn_alike(tmp_path: Path):
    """The same steps, updates and epsilon; returns halfway up that overlap over seeds."""
    halfway = {}
    for envs in (1, 16):
        run = qtot.train(
            Signals,
            data="replay",
            steps=2_500,
            seeds=8,
            log_every=320,
            out=tmp_path / f"{envs}",
            quiet=True,
            collect={"envs": envs},
            replay={"length": 10, "warmup": 32},
            exploration={"steps": 2_500},
            evaluation={"every": 0, "episodes": 32, "final_episodes": 32},
        )
        rows = [row for row in run.metrics() if row["env_steps"] >= 960]
        ratios = [row["updates"] / (row["env_steps"] - 320) for row in rows]
        assert np.allclose(ratios, 1 / 64, rtol=0.2), ratios
        epsilons = [row["epsilon"] for row in rows]
        expected = [1 - 0.95 * min(row["env_steps"] / 2_500, 1.0) for row in rows]
        assert np.allclose(epsilons, expected, atol=1e-3)
        halfway[envs] = np.array([row["eval/return"] for row in run.result()])
    few, many = halfway[1], halfway[16]
    spread = np.sqrt(few.var(ddof=1) / len(few) + many.var(ddof=1) / len(many))
    assert min(few.mean(), many.mean()) > 2.0, halfway  # random play: 10 / 9
    assert abs(few.mean() - many.mean()) < 3 * spread, halfway

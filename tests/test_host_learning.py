"""QMIX learns in environments that Python steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import qtot
from extras import package
from smac_like import Battle

LBF, MPE = "gym/Foraging-8x8-2p-2f-coop-v3", "pettingzoo/mpe2.simple_spread_v3"


def battles(out: Path, seeds: int) -> list[float]:
    """Best win rate of each seed, 64 greedy battles; random play never wins."""
    run = qtot.train(
        partial(Battle, n=3),
        data="replay",
        steps=100_000,
        seeds=seeds,
        out=out,
        quiet=True,
        collect={"envs": 16},
        evaluation={"every": 10_000, "episodes": 64, "final_episodes": 64},
    )
    assert run.metrics()[0]["eval/win_rate"] == 0.0
    return [row["best/win_rate"] for row in run.result()]


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


@pytest.mark.long
def test_one_and_sixteen_environments_learn_alike(tmp_path: Path):
    """The same steps, updates and epsilon; win rates that overlap over seeds."""
    rates = {}
    for envs in (1, 16):
        run = qtot.train(
            partial(Battle, n=3),
            data="replay",
            steps=100_000,
            seeds=6,
            out=tmp_path / f"{envs}",
            quiet=True,
            collect={"envs": envs},
            evaluation={"every": 10_000, "episodes": 32, "final_episodes": 32},
        )
        rows = [row for row in run.metrics() if row["env_steps"] >= 10_000]
        ratios = [row["updates"] / row["env_steps"] for row in rows if row["env_steps"] >= 30_000]
        assert np.allclose(ratios, 1 / 64, rtol=0.15)
        rates[envs] = np.array([row["best/win_rate"] for row in run.result()])
    assert min(rates[1].mean(), rates[16].mean()) > 0.5, rates
    spread = np.sqrt(sum(r.var(ddof=1) / len(r) for r in rates.values()))
    assert abs(rates[1].mean() - rates[16].mean()) < 3 * spread + 0.1, rates

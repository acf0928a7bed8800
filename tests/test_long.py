"""Learning on real tasks, and every method on every kind of environment. ``make test-long``."""

from __future__ import annotations

import math

import numpy as np
import pytest

import qtot
from qtot.core.methods import METHODS
from qtot.reproduce import reproduce

pytestmark = pytest.mark.long


CASES = [
    *(("smax/2s3z", algo) for algo in METHODS),
    *(
        (env, algo)
        for env in ("smax/8m", "mpe/simple_spread", "mpe/simple_speaker_listener")
        for algo in ("qmix", "vdn", "iql")
    ),
    *(
        (env, "qmix")
        for env in ("lbf/8x8-2p-2f-coop", "rware/tiny-2ag", "hanabi/2p-small", "riddle/switch-3")
    ),
    ("overcooked/cramped_room-shaped", "qmix"),
    ("predator_prey/p2", "ow_qmix"),
]


@pytest.mark.parametrize(("env", "algo"), CASES)
def test_every_method_trains_on_every_kind_of_task(env, algo, tmp_path):
    run = qtot.train(
        env, algo, steps=30_000, out=tmp_path / "run", quiet=True, replay={"capacity": 1_000}
    )
    rows = run.metrics()
    assert rows[-1]["env_steps"] >= 30_000
    assert rows[-1]["updates"] > 200
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) >= 2
    assert all(math.isfinite(x) for x in losses)
    assert math.isfinite(qtot.evaluate(run, episodes=32)[0]["return"])


def test_simple_spread_improves_clearly_over_random(tmp_path):
    """Random play gives about -77; three seeds, every one well above all of random's means."""
    options = {"exploration": {"steps": 20_000}}
    run = qtot.train(
        "mpe/simple_spread", steps=200_000, seeds=3, out=tmp_path / "run", quiet=True, **options
    )
    random = qtot.train(
        "mpe/simple_spread",
        steps=20_000,
        out=tmp_path / "random",
        quiet=True,
        exploration={"start": 1.0, "end": 1.0},
        replay={"capacity": 1_000},
    )
    at_random = np.mean([r["train/return"] for r in random.metrics() if "train/return" in r])
    trained = [row["return"] for row in qtot.evaluate(run, episodes=256)]
    assert -85 < at_random < -70, at_random
    assert min(trained) > at_random + 5, (trained, at_random)


def test_smax_3m_is_learned_by_default(tmp_path):
    """Seeds 0 to 4 end at win rates of 85, 84, 82, 86 and 84 % (2026-11-22)."""
    run = qtot.train("smax/3m", out=tmp_path / "run", quiet=True)
    assert qtot.evaluate(run, episodes=256)[0]["win_rate"] > 0.7


def test_coma_learns_to_win(tmp_path):
    """Untrained agents, and random ones, win next to nothing on this map."""
    run = qtot.train("smax/3m", "coma", steps=300_000, seeds=3, out=tmp_path / "run", quiet=True)
    before = [row["eval/win_rate"] for row in run.metrics() if row["env_steps"] == 0]
    after = [row["win_rate"] for row in qtot.evaluate(run, episodes=256)]
    assert max(before) < 0.1
    assert min(after) > 0.2, after


@pytest.mark.parametrize("name", ["two-step", "non-monotonic", "random-matrix", "predator-prey"])
def test_experiments_come_out_as_published_in_their_quick_form(name, tmp_path):
    assert reproduce(name, quick=True, out=str(tmp_path)) == 0

"""Every method from training to a loaded run that acts, on a game with everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import builders
import everything
import qtot
from qtot.core.config import TargetConfig
from qtot.core.methods import METHODS, method
from qtot.store.run_folder import METRICS

pytestmark = pytest.mark.usefixtures("quick_compile")

STEPS = 240
TINY: dict[str, Any] = {
    "steps": STEPS,
    "log_every": STEPS // 2,
    "agent": {"encoder": (), "hidden": 4, "layer_norm": False},
    "mixer": {"embed": 3, "hypernet_layers": 1, "hypernet_embed": 4, "heads": 2},
    "critic": {"embed": 5},
    "exploration": {"steps": 100},
    "replay": {"length": 4, "capacity": 64, "batch": 8, "warmup": 8},
    "collect": {"envs": 4, "update_ratio": 0.1},
    "scaling": {"normalise_state": False},
    "target": {"td_lambda": 0.0},
    "evaluation": {"every": 0, "episodes": 8, "final_episodes": 8},
}
MOVED = {"q_tot", "target", "td_error_abs", "critic_loss", "q_taken", "policy_loss", "entropy"}


@pytest.fixture(autouse=True)
def _game() -> Iterator[None]:
    with everything.registered():
        yield


# In the quick tests one of every loss, and the mixers that read more than Q-values and state; the
# programs of the others differ from these by a mixer only.
QUICK = ("qplex", "qatten", "cw_qmix", "qtran", "coma")
EACH = [pytest.param(a, marks=[] if a in QUICK else pytest.mark.long, id=a) for a in METHODS]


@pytest.mark.parametrize("algo", EACH)
def test_every_method_trains_saves_loads_and_acts(algo: str, tmp_path: Path):
    # Memory where a critic has one, too; it compiles slowly, and mixers do not see it.
    memory = "none" if method(algo).critic is None else "gru"
    options = {**TINY, "agent": {**TINY["agent"], "memory": memory}}
    run = qtot.train(everything.NAME, algo, out=tmp_path / "run", quiet=True, **options)
    rows = run.metrics()
    assert [row["env_steps"] >= steps for row, steps in zip(rows, (0, 120, 240), strict=True)]
    for row in rows:
        assert all(math.isfinite(v) for v in row.values())
        assert set(row) <= set(METRICS) | {"train/paid", "eval/paid"}
    assert rows[-1]["updates"] > 5
    assert rows[-1]["loss"] != rows[-2]["loss"]
    assert len(MOVED & set(rows[-1])) >= 3
    assert ("q_taken" in rows[-1]) == method(algo).on_policy

    loaded = qtot.load(run.path)
    for ours, theirs in zip(
        jax.tree.leaves(run.params()), jax.tree.leaves(loaded.params()), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    (evaluated,) = qtot.evaluate(loaded, episodes=8)
    assert evaluated["length"] == everything.LIMIT
    assert math.isfinite(evaluated["return"])

    agent = loaded.agent("agent_0")
    action, after = agent.act(np.ones(2), [False, True], agent.reset())
    assert action == 1
    assert after.hidden.shape == (4 if memory == "gru" else 0,)  # its own, without a critic's


@pytest.mark.parametrize("algo", METHODS)
def test_an_update_moves_every_part_that_a_method_has(algo: str):
    """And the target networks, slowly."""
    learner = builders.make_learner(
        algo,
        agent=builders.agent_config(memory="none"),
        target=TargetConfig(update="soft", tau=0.5),
    )
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = state._replace(
        online=builders.random_networks(1, algo, config=learner.agent),
        target=builders.random_networks(2, algo, config=learner.agent),
        env_steps=np.int32(10**6),  # epsilon 1 would leave actors nothing to learn
    )
    after, metrics = jax.jit(learner.update)(state, builders.random_batch(0, memory=0))
    assert set(metrics) <= set(METRICS)
    for kind in ("online", "target"):
        for part in ("agent", "mixer", "critic"):
            old, new = (getattr(getattr(s, kind), part) for s in (state, after))
            leaves = list(zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
            assert all(np.isfinite(b).all() for _, b in leaves)
            assert not leaves or any(not np.array_equal(a, b) for a, b in leaves), (kind, part)
    assert (after.online.critic is None) == (method(algo).critic is None)
    assert (after.online.mixer is None) == (method(algo).mixer is None)

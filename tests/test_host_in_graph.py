"""A JAX environment stepped by Python, beside itself in the graph: the same run, to rounding."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from qtot.config import TrainConfig, nested_replace
from qtot.envs import jax_env
from qtot.envs.host.base import Seen, Stepped
from qtot.presets import preset_config
from qtot.training.compile import traced_init
from qtot.training.engine import Engine, InGraph
from qtot.training.ingraph import Program
from qtot.training.onhost import OnHost
from qtot.training.shown import Shown


class HostOf:
    """A JAX environment in which chance plays no part, as Python steps it."""

    def __init__(self, name: str):
        env = jax_env(name)
        self.spec = env.spec
        self._reset, self._step, self._observe = map(jax.jit, (env.reset, env.step, env.observe))

    def _seen(self) -> Seen:
        return Seen(*map(np.asarray, self._observe(self.state)))

    def reset(self, seed: int) -> Seen:
        self.key = jax.random.key(seed)
        self.state = self._reset(self.key)
        return self._seen()

    def step(self, actions: Any) -> Stepped:
        self.state, result = self._step(self.key, self.state, np.array(actions, np.int32))
        info = {k: float(v) for k, v in result.info.items()}
        ends = bool(result.terminated), bool(result.truncated)
        return Stepped(self._seen(), float(result.reward), *ends, info)

    def close(self) -> None:
        pass


def config(env: str, sequences: str, algo: str, data: str, seeds: int) -> TrainConfig:
    unit = "episode" if sequences == "episodes" else "step"
    return nested_replace(
        preset_config(env, algo, data=data),
        {
            "seeds": seeds,
            "steps": 400,
            "agent": {"encoder": (8,), "hidden": 8},
            "mixer": {"embed": 4, "hypernet_embed": 8},
            "replay": {"sequences": sequences, "length": 7, "batch": 8, "warmup": 16},
            "online": {"minibatches": 2},
            "collect": {"envs": 4, "update_unit": unit, "update_ratio": 1 / 8},
            "target": {"interval": 3},
            "scaling": {"normalise_state": True},
            "exploration": {"steps": 200},
            "host": {"workers": 0},
        },
    )


def trained(engine: Engine, steps: int) -> tuple[Any, Any]:
    try:
        state = engine.start()
        state = engine.chunk(state, steps, lambda: False)
        progress = state.progress
        evaluated = engine.evaluate(state.seeds.train, steps, 0)
        return jax.tree.map(np.asarray, (state.seeds.train, progress)), evaluated
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("env", "sequences", "algo", "data", "seeds"),
    [
        ("matrix/two_step", "segments", "qmix", "replay", 2),
        pytest.param("matrix/two_step", "episodes", "qplex", "replay", 1, marks=pytest.mark.long),
        pytest.param("probe/dead", "segments", "qmix", "replay", 1, marks=pytest.mark.long),
        pytest.param("probe/chain", "episodes", "vdn", "replay", 2, marks=pytest.mark.long),
        pytest.param(
            "probe/chain_truncated", "segments", "cw_qmix", "replay", 1, marks=pytest.mark.long
        ),
        pytest.param("probe/long", "segments", "qmix", "online", 1, marks=pytest.mark.long),
        pytest.param("matrix/two_step", "segments", "coma", "online", 2, marks=pytest.mark.long),
    ],
)
def test_a_run_on_the_host_is_the_run_in_the_graph(
    env: str, sequences: str, algo: str, data: str, seeds: int
):
    """Exploration, slots, memories, replay, updates and evaluation all have to be the same."""
    chosen = config(env, sequences, algo, data, seeds)
    spec = jax_env(env).spec
    inside = Program.make(jax_env(env), chosen)
    outside = Program.make(Shown(spec), chosen)
    here = trained(InGraph(inside, traced_init(inside)), 400)
    there = trained(OnHost(outside, traced_init(outside), partial(HostOf, env), spec), 400)
    assert here[0][0].updates.min() > 5
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(here), jax.tree.leaves(there), strict=True
    ):
        np.testing.assert_allclose(
            one, other, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path)
        )

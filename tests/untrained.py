"""Runs whose networks nobody trained: a run folder with random numbers in every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

import qtot
from qtot.config import TrainConfig
from qtot.core.learner import PolicyParams
from qtot.envs import make_env
from qtot.store.run_folder import RunFolder
from qtot.training.ingraph import make_learner

MEMORY = {"agent": {"memory": "gru", "hidden": 8, "encoder": (8,), "prev_action": True}}


def untrained(path: Path, config: TrainConfig, scale: float = 0.4) -> qtot.Run:
    """One run of ``config`` at ``path``; statistics of observations are those of some."""
    spec = make_env(config.env).spec
    folder = RunFolder.create(path, {"config": config.to_dict(), "env": spec.to_dict()})
    learner = make_learner(spec, config)
    template = jax.eval_shape(lambda: PolicyParams.of(learner.init(jax.random.key(0))))
    for seed in range(config.seed, config.seed + config.seeds):
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda x: _drawn(rng, x, scale), template)  # noqa: B023
        obs = params.stats.obs
        moments = obs._replace(n=np.float32(50), m2=50 * np.abs(obs.m2) + np.float32(0.5))
        params = params._replace(stats=params.stats._replace(obs=moments))
        folder.save("last", seed, params)
    return qtot.load(path)


def _drawn(rng: np.random.Generator, leaf: Any, scale: float) -> np.ndarray:
    return np.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

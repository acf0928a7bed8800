"""Run folders that nobody trained: metrics made up, to be reported on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qtot.config import nested_replace
from qtot.envs import make_env
from qtot.store.run_folder import RunFolder
from small import small_config


def made_run(
    path: Path,
    algo: str = "qmix",
    env: str = "matrix/two_step",
    *,
    seeds: Sequence[int] = (0,),
    rows: int = 11,
    steps: int = 1000,
    finished: bool = True,
    won: bool = False,
    skew: int = 0,
    agents: Sequence[str] | None = None,
    **changes: Any,
) -> Path:
    """One run of consecutive seeds; its values follow from method and seed alone."""
    base = {"steps": steps, "seed": seeds[0], "seeds": len(seeds)}
    config = nested_replace(small_config(env, algo), {**base, **changes})
    spec = make_env(env).spec.to_dict()
    if agents is not None:
        spec["agents"] = tuple(agents)
    device = {"kind": "cpu", "count": 1, "cpu_cores": 2}
    facts = {"config": config.to_dict(), "env": spec, "versions": {"qtot": "0"}, "device": device}
    folder = RunFolder.create(path, facts)
    last, written = [], []
    for seed in seeds:
        values = value_of(algo, seed, rows)
        for i in range(rows):
            at = i * steps // (rows - 1)
            row = {
                "seed": seed,
                "env_steps": at + skew * seed * (0 < i < rows - 1),
                "wall_s": round(0.5 + at / 100 * (1 + 0.1 * seed), 3),
                "compile_s": 3.0,
                "eval/return": 10 * values[i],
                "eval/length": 2.0,
                "eval/episodes": 32,
            }
            if won:
                row["eval/win_rate"] = values[i]
            if i:
                row |= {"loss": 1.0 / i, "q_tot": values[i]}
            written.append(row)
        last.append({**row, "peak_gib": 1.0, "share/learner": 0.25})
    folder.append(written)
    if finished:
        folder.close(last)
    return path


def value_of(algo: str, seed: int, rows: int = 11) -> np.ndarray:
    """From 0 up, at most 1."""
    rng = np.random.default_rng([seed, *algo.encode()])
    end = {"qmix": 0.9, "vdn": 0.7, "iql": 0.4}.get(algo, 0.5)
    noise = 0.05 * rng.normal(size=rows)
    return np.round(np.clip(np.linspace(0, end, rows) + noise, 0, 1), 6)

"""Predator-prey with a penalty for catching alone (Rashid et al. 2020b, section 6.1), ε annealed
over 50,000 steps: a monotone Q_tot learns not to catch at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.presets import preset_config
from qtot.reproduce.curves import draw_curves, final, median_cell, train_seeds
from qtot.reproduce.page import Grid, Page, Settings

METHODS_SHOWN = ("vdn", "qmix", "cw_qmix", "ow_qmix", "qplex")
# Recalled from the paper's figure, not verified: orientation only.
ORIENTATION = {"vdn": "about 0", "qmix": "about 0", "cw_qmix": "about 40", "ow_qmix": "about 40"}


def config(algo: str, *, quick: bool) -> TrainConfig:
    """ε over 50k steps and α = 0.1 as published; learning as in the default preset, one-step."""
    changes: dict[str, Any] = {
        "steps": 1_000_000,
        "log_every": 10_000,
        "exploration": {"start": 1.0, "end": 0.05, "steps": 50_000},
        "target": {"td_lambda": 0.0},
        "loss": {"alpha": 0.1},
        "evaluation": {"every": 50_000, "episodes": 32, "final_episodes": 128},
    }
    if quick:
        changes |= {
            "steps": 120_000,
            "agent": {"encoder": (32,), "hidden": 32},
            "replay": {"length": 16},
            "evaluation": {"every": 10_000, "episodes": 32, "final_episodes": 128},
        }
    env = "predator_prey/small-p2" if quick else "predator_prey/p2"
    return nested_replace(preset_config(env, algo), changes)


def run(settings: Settings) -> Page:
    """Train each method; the greedy return over time."""
    seeds = settings.count(full=5, quick=3)
    configs = {algo: config(algo, quick=settings.quick) for algo in METHODS_SHOWN}
    curves, seconds = train_seeds(configs, seeds, "eval/return", settings)
    finals = {algo: final(entry) for algo, entry in curves.items()}
    medians = {algo: float(np.median(values)) for algo, values in finals.items()}
    lead = max(medians["cw_qmix"], medians["ow_qmix"]) - medians["qmix"]
    best, size = (
        (20, "6 x 6 grid, 4 agents, 4 prey, 50 steps")
        if settings.quick
        else (40, "10 x 10 grid, 8 agents, 8 prey, 200 steps")
    )
    clearly = lead > 0.25 * best
    rows = [
        [a, "-" if settings.quick else ORIENTATION.get(a, "-"), median_cell(v, ".1f")]
        for a, v in finals.items()
    ]
    return Page(
        title="Predator-prey with miscapture penalty -2",
        setup=(
            f"{size}; a capture by two pays 10, catching alone costs 2; the best return is {best}. "
            f"{seeds} seeds of {configs['qmix'].steps:,} steps, ε from 1 to 0.05 over 50,000. "
            "Greedy return of the final policy over 128 episodes: median over seeds with 95 % "
            "bootstrap interval, then every seed."
        ),
        grids=[Grid("Greedy return", ("method", "published (recalled)", "measured"), rows)],
        notes=[
            f"The better of CW- and OW-QMIX is {lead:.1f} above QMIX, "
            f"{'clearly' if clearly else 'NOT clearly'} (a quarter of the best return is asked)."
        ],
        results={"final": finals, "curves": curves},
        agrees=clearly,
        seconds=seconds,
        draw=lambda figure: draw_curves(figure.subplots(), curves, "greedy return"),
    )

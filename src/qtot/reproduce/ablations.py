"""QMIX, its ablations and the methods it was compared with (Rashid et al. 2020, section 7), on SMAX
in place of StarCraft II.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.presets import preset_config
from qtot.reproduce.curves import Curves, draw_curves, final, median_cell, train_seeds
from qtot.reproduce.page import Grid, Page, Settings

METHODS_SHOWN = ("qmix", "qmix_lin", "qmix_ns", "vdn_s", "vdn", "iql", "coma")
# Test win rates in per cent on SMAC, StarCraft II, after 2M steps: other maps of the same name.
SMAC = {
    "2s3z": {"iql": 75, "vdn": 97, "qmix": 99, "coma": 43},
    "3s5z": {"iql": 10, "vdn": 84, "qmix": 97, "coma": 1},
}


def config(algo: str, task: str, *, quick: bool) -> TrainConfig:
    """The default preset; the quick form is far too short to learn to win."""
    changes: dict[str, Any] = {"steps": 2_000_000, "evaluation": {"every": 100_000}}
    if quick:
        changes = {
            "steps": 40_000,
            "exploration": {"steps": 20_000},
            "evaluation": {"every": 20_000, "episodes": 64, "final_episodes": 64},
        }
        if METHODS[algo].on_policy:
            del changes["exploration"]
    return nested_replace(preset_config(f"smax/{task}", algo), changes)


def run(settings: Settings) -> Page:
    """Train each method on each map; the greedy win rate over time."""
    tasks = ("2s3z",) if settings.quick else ("2s3z", "3s5z")
    seeds = settings.count(full=5, quick=2)
    curves: dict[str, Curves] = {}
    seconds = 0.0
    for task in tasks:
        configs = {f"{task}-{a}": config(a, task, quick=settings.quick) for a in METHODS_SHOWN}
        named, spent = train_seeds(configs, seeds, "eval/win_rate", settings)
        seconds += spent
        curves[task] = {name.partition("-")[2]: entry for name, entry in named.items()}
    finals = {t: {a: final(entry) for a, entry in c.items()} for t, c in curves.items()}
    rows = []
    for algo in METHODS_SHOWN:
        cells = []
        for task in tasks:
            known = SMAC[task].get(algo)
            cells += [
                "-" if known is None else f"{known} %",
                median_cell(finals[task][algo], ".0%"),
            ]
        rows.append([algo, *cells])
    columns = ["method"]
    for task in tasks:
        columns += [f"SMAC {task}, 2M steps", f"SMAX {task}"]
    steps = config("qmix", tasks[0], quick=settings.quick).steps
    notes = [
        "SMAC's numbers are for StarCraft II's maps of the same name: the order of methods may be "
        "compared, the numbers may not.",
    ]
    if settings.quick:
        notes.append("This form only shows that everything runs; it is far too short to win.")
    return Page(
        title="QMIX and its ablations on SMAX",
        setup=(
            f"{seeds} seeds of {steps:,} steps each, default preset. Greedy win rate: median over "
            "seeds with 95 % bootstrap interval, then every seed."
        ),
        grids=[Grid("Final win rate", columns, rows)],
        notes=notes,
        results={"final": finals, "curves": curves},
        agrees=settings.quick or _qmix_leads(finals),
        draw=lambda figure: _draw(figure, curves),
        seconds=seconds,
        size=(5.5 * len(tasks) + 1, 4.5),
    )


def _qmix_leads(finals: dict[str, dict[str, list[float]]]) -> bool:
    """QMIX is at least as good as every other method, up to a twentieth."""
    medians = {t: {a: np.median(v) for a, v in by.items()} for t, by in finals.items()}
    return all(m["qmix"] >= max(m.values()) - 0.05 for m in medians.values())


def _draw(figure: Any, curves: dict[str, Curves]) -> None:
    axes = np.atleast_1d(figure.subplots(1, len(curves), sharey=True))
    for ax, (task, of_task) in zip(axes, curves.items(), strict=True):
        draw_curves(ax, of_task, "greedy win rate")
        ax.set(title=f"smax/{task}", ylim=(-0.02, 1.02))

"""The climbing and penalty games (Claus & Boutilier 1998), 25 times in a row as in EPyMARL's
benchmark (Papoudakis et al. 2021): relative overgeneralisation, and the price of missing each
other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.envs.matrix import make
from qtot.presets import preset_config
from qtot.reproduce.games import play_games
from qtot.reproduce.page import Grid, Page, Settings

GAMES = ("climbing", "penalty-0", "penalty-25", "penalty-50", "penalty-75", "penalty-100")
BEST = {"climbing": 275.0} | dict.fromkeys(GAMES[1:], 250.0)
QUICK = ("iql", "vdn", "qmix", "qplex", "ow_qmix", "coma")
# Maximum returns in EPyMARL's benchmark, from memory: for orientation only.
ORIENTATION = {"climbing": "175", "penalty-0": "250"} | dict.fromkeys(GAMES[2:], "50")


def config(algo: str, steps: int) -> TrainConfig:
    """EPyMARL's kind of setup: exploration annealed over half of the run. The time limit is taken
    for an end, as there.
    """
    exploration = {"start": 1.0, "end": 0.05, "steps": steps // 2}
    if METHODS[algo].on_policy:
        exploration = {"start": 0.5, "end": 0.01, "steps": steps // 2}
    changes: dict[str, Any] = {
        "steps": steps,
        "agent": {"encoder": (), "hidden": 64, "memory": "none", "prev_action": False},
        "mixer": {"embed": 16, "hypernet_embed": 32},
        "critic": {"embed": 64},
        "loss": {"alpha": 0.1},
        "target": {"interval": 100, "time_limit": "end"},
        "optimiser": {"name": "adam", "lr": 1e-3, "lr_end": 0.0},
        "exploration": exploration,
        "scaling": {"normalise_state": False, "reward_scale": 0.1},
        "replay": {"sequences": "episodes", "capacity": 1_000, "batch": 8, "warmup": 8},
        "collect": {"envs": 4, "update_ratio": 1.0, "update_unit": "episode"},
    }
    return nested_replace(preset_config("matrix/climbing", algo, "paper"), changes)


def run(settings: Settings) -> Page:
    """Train every method on all games."""
    seeds = settings.count(full=10, quick=5)
    steps = 50_000 if settings.quick else 100_000
    methods = QUICK if settings.quick else tuple(METHODS)
    payoffs = np.stack([make(game).payoffs for game in GAMES])
    template = make(GAMES[0])
    results: dict[str, dict[str, list[float]]] = {game: {} for game in GAMES}
    for algo in methods:
        played = play_games(config(algo, steps), template, payoffs, seeds)
        for game, returns in zip(GAMES, played.returns, strict=True):
            results[game][algo] = [float(r) for r in returns]
        medians = " ".join(f"{np.median(r):g}" for r in played.returns)
        settings.say(f"{algo}: medians {medians} ({played.seconds:.0f} s)")
    rows = [
        ["best", *(f"{BEST[game]:g}" for game in GAMES)],
        ["QMIX, VDN published", *(ORIENTATION[game] for game in GAMES)],
        *([algo, *(_cell(results[game][algo]) for game in GAMES)] for algo in methods),
    ]
    return Page(
        title="Climbing and penalty games",
        setup=(
            f"{seeds} seeds of {steps} steps, episodes of 25, exploration annealed over half "
            "of the run, rewards x 0.1 while learning, no bootstrap from the time limit. Raw "
            "greedy return: median, and the lowest and highest seed."
        ),
        grids=[Grid("Greedy return", ("method", *GAMES), rows)],
        notes=[
            "The published row is what EPyMARL's benchmark reports for QMIX and VDN, recalled "
            "and not verified: for orientation only. There the agents remember; here they do not.",
            "A return that is 25 times a single payoff means one joint action for good: on "
            "climbing 275, 175, 125 and 150 are the payoffs 11, 7, 5 and 6.",
        ],
        results=results,
        draw=lambda figure: _draw(figure, results, methods),
        size=(10.0, 5.5),
    )


def _cell(values: list[float]) -> str:
    return f"{np.median(values):g}\n[{min(values):g}, {max(values):g}]"


def _draw(figure: Any, results: dict[str, Any], methods: tuple[str, ...]) -> None:
    axes = figure.subplots(2, 3).ravel()
    for ax, game in zip(axes, GAMES, strict=True):
        for i, algo in enumerate(methods):
            y = np.array(results[game][algo])
            ax.plot(i + np.linspace(-0.25, 0.25, len(y)), y, "o", ms=3, color="C0")
            ax.plot([i - 0.35, i + 0.35], [np.median(y)] * 2, color="C3")
        ax.axhline(BEST[game], color="0.7", zorder=0)
        ax.set_title(game, size=9)
        ax.set(xticks=range(len(methods)))
        ax.set_xticklabels(methods, rotation=60, size=7)
        ax.set_ylim(bottom=min(-20, ax.get_ylim()[0] if game == "climbing" else -20))

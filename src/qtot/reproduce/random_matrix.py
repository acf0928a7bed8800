"""Random single-state games (Rashid et al. 2020, section 6.2): how much of the best payoff each
method finds as agents and actions grow.

Everyone explores at random throughout, so the greedy joint action is that of the method's best fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qtot.envs.matrix import make
from qtot.evaluation.statistics import median_interval
from qtot.reproduce.games import play_games, uniform
from qtot.reproduce.page import Grid, Page, Settings

METHODS_SHOWN = ("iql", "vdn", "qmix")
AGENTS, ACTIONS = (2, 3, 4), (2, 3, 4)
QUICK = ((2, 2), (2, 4), (3, 3))
EPISODES = 10_000


def run(settings: Settings) -> Page:
    """Train each method on every game of every size."""
    sizes = QUICK if settings.quick else tuple((n, k) for n in AGENTS for k in ACTIONS)
    count = settings.count(full=40, quick=20)
    episodes = EPISODES // 2 if settings.quick else EPISODES
    results: dict[str, dict[str, Any]] = {}
    for n, k in sizes:
        games = [make(f"random-{n}x{k}-{g}") for g in range(count)]
        payoffs = np.stack([game.payoffs for game in games])
        best = payoffs.reshape(count, -1).max(axis=1)
        entry = results.setdefault(f"{n}x{k}", {})
        for algo in METHODS_SHOWN:
            template = games[0]
            config = uniform(algo, episodes, collect={"update_ratio": 0.5})
            played = play_games(config, template, payoffs, 1, independent=True)
            entry[algo] = (played.returns[:, 0] / best).round(4).tolist()
            settings.say(
                f"{n}x{k} {algo}: median {np.median(entry[algo]):.3f} ({played.seconds:.0f} s)"
            )
    return page_of(results, count, episodes)


def page_of(results: dict[str, dict[str, Any]], count: int, episodes: int) -> Page:
    """The outcome of ``count`` games of each size."""
    rows = []
    for size, entry in results.items():
        cells = [_cell(entry[algo]) for algo in METHODS_SHOWN]
        rows.append([size.replace("x", " agents, ") + " actions", *cells])
    medians = {a: [float(np.median(e[a])) for e in results.values()] for a in METHODS_SHOWN}
    mean = {algo: float(np.mean(values)) for algo, values in medians.items()}
    pairs = list(zip(medians["qmix"], medians["vdn"], strict=True))
    above, below = sum(q > v for q, v in pairs), sum(q < v for q, v in pairs)
    return Page(
        title="Random matrix games",
        setup=(
            f"{count} games of each size, payoffs uniform in [0, 10), played once; one team per "
            f"game, {episodes} episodes with uniformly random actions, an update for every second; "
            "then the greedy joint action's payoff divided by the best. Medians over games with "
            "95 % bootstrap intervals."
        ),
        grids=[Grid("Median normalised return", ("game", *METHODS_SHOWN), rows)],
        notes=[
            "Mean of the medians: " + ", ".join(f"{a} {m:.3f}" for a, m in mean.items()) + ".",
            f"QMIX's median is above VDN's in {above} of {len(pairs)} sizes and below in {below}; "
            "the paper, which shows curves and no numbers, finds it above, the more so the larger "
            "the game. With everyone exploring at random, IQL and VDN fit the same thing, each "
            "action's mean payoff.",
        ],
        results=results,
        agrees=mean["qmix"] >= mean["vdn"],
        draw=lambda figure: _draw(figure, results),
    )


def _cell(values: list[float]) -> str:
    low, high = median_interval(values)
    return f"{np.median(values):.3f} [{low:.3f}, {high:.3f}]"


def _draw(figure: Any, results: dict[str, Any]) -> None:
    ax = figure.subplots()
    x = np.arange(len(results))
    for i, algo in enumerate(METHODS_SHOWN):
        middle = [np.median(e[algo]) for e in results.values()]
        spans = np.array([median_interval(e[algo]) for e in results.values()])
        at = x + (i - 1) * 0.2
        ax.errorbar(at, middle, np.abs(spans.T - middle), fmt="o", capsize=3, label=algo)
    ax.set(xticks=x, xticklabels=list(results), xlabel="agents x actions")
    ax.set(ylabel="greedy payoff / best payoff", ylim=(None, 1.02))
    ax.grid(axis="y", alpha=0.3)
    ax.legend()

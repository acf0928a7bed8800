"""The two-step game (Rashid et al. 2018, section 5): what VDN and QMIX can represent.

Everyone explores at random throughout (ε = 1), so what is learned is the method's best fit. QMIX
represents the game; VDN's best sum in state 2B is the least-squares one, which makes the safe
state look better.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.envs.matrix import make
from qtot.presets import preset_config
from qtot.reproduce.games import Played, play_games
from qtot.reproduce.page import Grid, Page, Settings, matrix

STATES = ("1", "2A", "2B")
TOLERANCE = 0.2
# Q_tot of joint actions [agent 0][agent 1]: the paper's table 2 for QMIX; for VDN the exact
# least-squares fit, gamma 0.99.
PUBLISHED: dict[str, dict[str, list[list[float]]]] = {
    "qmix": {"1": [[6.93, 6.93], [7.92, 7.92]], "2A": [[7, 7], [7, 7]], "2B": [[0, 1], [1, 8]]},
    "vdn": {
        "1": [[6.93, 6.93], [6.435, 6.435]],
        "2A": [[7, 7], [7, 7]],
        "2B": [[-1.5, 2.5], [2.5, 6.5]],
    },
}
SOURCE = {"qmix": "published", "vdn": "exact fit"}
RETURNS = {"qmix": 8.0, "vdn": 7.0}
QUICK = ("vdn", "qmix", "iql", "qplex", "coma")


def config(algo: str, episodes: int = 5_000) -> TrainConfig:
    """The published setup: 5000 episodes, an update of 32 of them per episode, mixing width 8.

    Two things differ, because the tables are limits: the learning rate falls to zero, and the
    replay keeps every episode. With a constant rate and the last 500 episodes a seed of QMIX lies
    within about 0.3 of the limit, and one of VDN, whose fit moves with the frequencies of the
    joint actions in the replay, within about 0.5. An on-policy method cannot learn from random
    play: COMA mixes a falling share of it into its policy, and plays 8 episodes per update.
    """
    changes: dict[str, Any] = {
        "steps": 2 * episodes,
        "agent": {"encoder": (), "hidden": 64, "memory": "none", "prev_action": False},
        "mixer": {"embed": 8},
        "target": {"interval": 100},
        "optimiser": {"lr_end": 0.0},
        "exploration": {"start": 1.0, "end": 1.0},
        "replay": {"capacity": episodes},
    }
    if METHODS[algo].on_policy:
        changes["exploration"] = {"start": 0.5, "end": 0.01, "steps": episodes}
        changes["collect"] = {"envs": 8}
    return nested_replace(preset_config("matrix/two_step", algo, "paper"), changes)


def play(algo: str, seeds: int) -> Played:
    """Train the seeds of one method."""
    game = make("two_step")
    return play_games(config(algo), game, game.payoffs[None], seeds)


def q_tot_tables(played: Played, seed: int) -> dict[str, np.ndarray]:
    """Q_tot of every joint action in every state, ``[2, 2]`` each."""
    return dict(zip(STATES, played.tables(0, seed)["q_tot"], strict=True))


def measure(played: Played, algo: str) -> dict[str, Any]:
    """Greedy returns of every seed; for methods whose tables are known, also those."""
    returns = [float(r) for r in played.returns[0]]
    if algo not in PUBLISHED:
        return {"returns": returns}
    tables = [q_tot_tables(played, seed) for seed in range(len(returns))]
    published = PUBLISHED[algo]
    worst = max(np.abs(t[s] - np.array(published[s])).max() for t in tables for s in STATES)
    worst = max(worst, *(abs(r - RETURNS[algo]) for r in returns))
    mean = {s: np.mean([t[s] for t in tables], axis=0).round(3).tolist() for s in STATES}
    return {"returns": returns, "tables": mean, "worst": float(worst)}


def run(settings: Settings) -> Page:
    """Train every method; print tables and greedy returns beside the published ones."""
    seeds = settings.count(full=5, quick=3)
    results: dict[str, Any] = {}
    for algo in QUICK if settings.quick else METHODS:
        played = play(algo, seeds)
        results[algo] = measure(played, algo)
        settings.say(f"{algo}: {seeds} seeds in {played.seconds:.0f} s, {results[algo]['returns']}")
    worst = max(results[algo]["worst"] for algo in PUBLISHED)
    agrees = worst <= TOLERANCE
    rows = []
    for algo, published in PUBLISHED.items():
        tables = results[algo]["tables"]
        measured = [matrix(tables[s]) for s in STATES]
        mean = f"{np.mean(results[algo]['returns']):.2f}"
        rows.append([algo, "measured", *measured, mean])
        known = [matrix(published[s]) for s in STATES]
        rows.append(["", SOURCE[algo], *known, f"{RETURNS[algo]:.2f}"])
    columns = ("method", "", *(f"state {s}" for s in STATES), "return")
    return Page(
        title="The two-step game",
        setup=(
            f"Mean over {seeds} seeds of 5000 episodes, everyone exploring at random (ε = 1), an "
            "update of 32 episodes after each, mixing width 8. The learning rate falls to zero and "
            "the replay keeps every episode, since the tables are limits; the paper's replay keeps "
            "the last 500. COMA, which is on-policy, starts with half of its actions at random."
        ),
        grids=[
            Grid("Q_tot of every joint action", columns, rows),
            Grid(
                "Return of the greedy policy, of each seed (best 8)",
                ("method", "returns"),
                [[a, " ".join(f"{x:g}" for x in r["returns"])] for a, r in results.items()],
            ),
        ],
        notes=[
            f"QMIX and VDN {'agree with' if agrees else 'DIFFER from'} these numbers: largest "
            f"difference of any seed {worst:.3f} (tolerance {TOLERANCE}).",
        ],
        results=results,
        agrees=agrees,
        draw=lambda figure: _draw(figure, results),
        size=(8.0, 3.5),
    )


def _draw(figure: Any, results: dict[str, Any]) -> None:
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    for ax, algo in zip(axes, PUBLISHED, strict=False):
        table = np.array(results[algo]["tables"]["2B"])
        ax.imshow(table, cmap="cividis", vmin=-2, vmax=8)
        for i, j in np.ndindex(2, 2):
            colour = "black" if table[i, j] > 4 else "white"
            ax.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=colour)
        ax.set(title=f"{algo}: Q_tot in 2B", xlabel="agent 1", ylabel="agent 0")
        ax.set(xticks=[0, 1], yticks=[0, 1])
    names = list(results)
    for i, name in enumerate(names):
        y = results[name]["returns"]
        axes[2].plot(y, np.full(len(y), i) + np.linspace(-0.2, 0.2, len(y)), "o", color="C0")
    axes[2].set(title="greedy return, seed by seed", yticks=range(len(names)), yticklabels=names)
    axes[2].set(xlim=(-0.3, 8.5))
    axes[2].axvline(8, color="0.7", zorder=0)

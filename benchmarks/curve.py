"""Learning curves of finished runs as a small PNG: greedy evaluations of every seed, and their
interquartile mean.

    python benchmarks/curve.py runs/a [runs/b ...] --out curve.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import qtot
from qtot.evaluation.statistics import iqm


def evaluations(folders: list[str], key: str) -> dict[int, list[dict[str, float]]]:
    """Each seed's rows that hold an evaluation."""
    rows: dict[int, list[dict[str, float]]] = defaultdict(list)
    for folder in folders:
        for row in qtot.load(folder).metrics():
            if key in row:
                rows[row["seed"]].append(row)
    return rows


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", default="curve.png")
    args = parser.parse_args()
    first = qtot.load(args.runs[0]).metrics()
    key = "eval/win_rate" if any("eval/win_rate" in row for row in first) else "eval/return"
    seeds = evaluations(args.runs, key)
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, layout="constrained")
    for axis, x, label in (
        (axes[0], "env_steps", "environment steps"),
        (axes[1], "wall_s", "seconds of training, evaluation included"),
    ):
        for rows in seeds.values():
            axis.plot([r[x] for r in rows], [r[key] for r in rows], color="#9aa7b5", lw=1)
        at = list(zip(*seeds.values(), strict=False))  # the seeds' evaluations come in step
        xs = [float(np.mean([r[x] for r in rows])) for rows in at]
        axis.plot(xs, [iqm([r[key] for r in rows]) for rows in at], color="#0b5cad", lw=2)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(key.removeprefix("eval/").replace("_", " ") + " (greedy)")
    config = qtot.load(args.runs[0]).config
    figure.suptitle(
        f"{config.algo} on {config.env}: {len(seeds)} seeds (grey), interquartile mean (blue)",
        fontsize=10,
    )
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()

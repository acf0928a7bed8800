"""Wall clock to a greedy win rate or return: the median over seeds, each a run of its own.

    python benchmarks/time_to.py --env smax/3m --threshold .65 --seeds 5
    python benchmarks/time_to.py --env mpe/simple_spread --metric return --threshold -43.4 \\
        -- --steps 2000000 --log-every 50000 --evaluation.every 50000 --evaluation.episodes 512

What stands after ``--`` goes to ``qtot train``, which is started once per seed, one after another,
so that the process settings it makes for itself count, too.

``seconds`` is the clock of ``metrics.jsonl`` (``wall_s``): it starts when compilation is done, and
includes logging, evaluation and saving. ``training_s`` leaves evaluation, logging and saving out:
the sum, over rows, of the steps taken divided by ``steps_per_s``. Both are those of the first
evaluation at or above the threshold: with few episodes that is optimistic, so a seed's ``held``
says what its evaluations from there on were on average. ``from_start_s`` adds compilation. A seed
that never gets there counts as infinite in the median.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import median, report

import qtot


def run_once(env: str, seed: int, flags: list[str]) -> list[dict[str, Any]]:
    """The rows of one run of the command."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "qtot", "train", "--env", env, "--seed", str(seed)]
        subprocess.run([*command, "--quiet", *flags, "--out", str(out)], check=True)
        return qtot.load(out).metrics()


def evaluations(rows: list[dict[str, Any]], metric: str) -> list[dict[str, float]]:
    """Where the greedy policy was played: ``env_steps``, ``seconds``, ``training_s``, ``value``."""
    found, steps, training = [], 0, 0.0
    for row in rows:
        if "steps_per_s" in row:
            training += (row["env_steps"] - steps) / row["steps_per_s"]
            steps = row["env_steps"]
        if f"eval/{metric}" in row:
            found.append(
                {
                    "env_steps": row["env_steps"],
                    "seconds": row["wall_s"],
                    "training_s": training,
                    "from_start_s": row["wall_s"] + row["compile_s"],
                    "value": row[f"eval/{metric}"],
                }
            )
    return found


def first_above(found: list[dict[str, float]], threshold: float) -> dict[str, float]:
    """The first evaluation that reached the threshold; infinite where none did."""
    for i, at in enumerate(found):
        if at["value"] >= threshold:
            later = [e["value"] for e in found[i:]]
            return {**at, "held": sum(later) / len(later)}
    never = dict.fromkeys(("env_steps", "seconds", "training_s", "from_start_s"), math.inf)
    return {**never, "value": max(e["value"] for e in found), "held": math.nan}


def main() -> None:
    """Run the seeds and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="smax/3m")
    parser.add_argument("--threshold", type=float, default=0.65)
    parser.add_argument("--metric", default="win_rate", help="win_rate, return, ...")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--short", action="store_true", help="one seed, 100,000 steps")
    parser.add_argument("flags", nargs="*", help="after --: flags of qtot train")
    args = parser.parse_args()
    if args.short:
        args.seeds, args.flags = 1, ["--steps", "100000", *args.flags]
    rows = []
    for seed in range(args.seed, args.seed + args.seeds):
        found = evaluations(run_once(args.env, seed, args.flags), args.metric)
        if not found:
            sys.exit(f"{args.env} reports no {args.metric}; name another with --metric")
        row = first_above(found, args.threshold)
        rows.append({"seed": seed, **row, "last": found[-1]["value"]})
        print(f"seed {seed}: {row['seconds']:.1f} s", file=sys.stderr)
    middle = {"seed": "median"} | {k: median(r[k] for r in rows) for k in rows[0] if k != "seed"}
    facts = {"env": args.env, "metric": args.metric, "threshold": args.threshold}
    report("time_to", [*rows, middle], **facts, flags=args.flags)


if __name__ == "__main__":
    main()

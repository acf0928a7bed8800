"""What lies beside a page: its numbers, for machines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qtot.errors import QtotError
from qtot.reporting import tables
from qtot.reporting.curves import metric_names
from qtot.reporting.page import Report, render
from qtot.reporting.read import Group, Seed
from qtot.store.files import make_folder, write_atomic
from qtot.store.run_folder import is_run
from qtot.store.sweep_folder import is_sweep


def check_page(out: Path) -> None:
    """Before episodes are recorded for it.

    Raises:
        QtotError: another ending, or a place where others write.
    """
    if out.suffix != ".html":
        raise QtotError(f"expected a page that ends in .html, got {str(out)!r}")
    if is_run(out.parent) or is_sweep(out.parent):
        raise QtotError(f"{out.parent} is a run's or a sweep's own folder; choose another --out")


def write_report(report: Report, out: Path) -> list[Path]:
    """The page at ``out``, and beside it ``.csv`` (every row of the metrics), ``.tables.json``
    and ``.marl-eval.json`` (evaluations in the form that marl-eval reads).

    Raises:
        QtotError: they cannot be written.
    """
    check_page(out)
    files = {
        out: render(report),
        out.with_suffix(".csv"): as_csv(report.groups),
        out.with_suffix(".tables.json"): json.dumps(as_json(report), indent=1),
        out.with_suffix(".marl-eval.json"): json.dumps(as_marl_eval(report.groups), indent=1),
    }
    make_folder(out.parent)
    for path, text in files.items():
        try:
            write_atomic(path, text.encode())
        except OSError as error:
            raise QtotError(f"cannot write {path} ({error.strerror}); choose --out") from None
    return list(files)


def as_csv(groups: Sequence[Group]) -> str:
    """A line for each seed and log; empty where a metric was not measured."""
    names = ["env_steps", "wall_s", "compile_s", "episodes", "updates", *metric_names(groups)]
    names += ["eval/episodes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "method", "run", "seed", *names])
    for group in groups:
        for run in group.runs:
            for seed in run.seeds:
                for row in seed.rows:
                    known = (row.get(name) for name in names)
                    cells = ["" if value is None else value for value in known]
                    writer.writerow([group.task, group.label, run.path, seed.seed, *cells])
    return text.getvalue()


def as_json(report: Report) -> dict[str, Any]:
    """The numbers of the page's tables."""
    groups = report.groups
    finals = [
        {
            "task": x.group.task,
            "method": x.group.label,
            "metric": x.metric,
            "iqm": x.iqm,
            "low": x.low,
            "high": x.high,
            "seeds": x.values,
            "env_steps": x.steps,
        }
        for x in report.finals
    ]
    reached = []
    for task, its in tables.tasks_of(groups).items():
        metric = tables.main_metric(its)
        for group in its:
            for x in tables.reached(group, metric, tables.thresholds_of(its, metric)):
                known = {k: None if v == float("inf") else v for k, v in x._asdict().items()}
                reached.append({"task": task, "method": group.label, "metric": metric, **known})
    return {
        "last_evaluation": finals,
        "time_to": reached,
        "probability_of_improvement": [x._asdict() for x in report.improvements],
        "performance_profile": report.profiles,
        "runs": [
            {
                "run": str(run.path),
                "task": group.task,
                "method": group.label,
                "config": asdict(run.config),
                "versions": run.recorded.get("versions"),
                "device": run.recorded.get("device"),
                "git_commit": run.recorded.get("git_commit"),
                "result": [seed.result for seed in run.seeds],
            }
            for group in groups
            for run in group.runs
        ],
    }


def as_marl_eval(groups: Sequence[Group]) -> dict[str, Any]:
    """Environment → task → method → ``seed_S`` → steps, each metric a list (Gorsane et al. 2022).

    A value is the mean over the episodes of an evaluation; ``absolute_metrics`` are those of the
    last one.
    """
    out: dict[str, Any] = {}
    for group in groups:
        env, _, task = group.task.partition("/")
        home = out.setdefault(env, {}).setdefault(task or env, {}).setdefault(group.label, {})
        for seed in group.seeds:
            home[f"seed_{seed.seed}"] = _steps(seed)
    return out


def _steps(seed: Seed) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for row in seed.rows:
        found = {
            name.partition("/")[2]: [value]
            for name, value in row.items()
            if name.startswith("eval/") and name != "eval/episodes" and value is not None
        }
        if found:
            at = {"step_count": row["env_steps"], "elapsed_time": row["wall_s"]}
            steps[f"step_{len(steps)}"] = {**at, **found}
            last = found
    return {**steps, "absolute_metrics": last}

"""Sweeps in a report: every trial in a table and as a line, the best ones as runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtot.reporting.read import Group, read_runs
from qtot.reporting.wording import number, setting
from qtot.store.run_folder import is_run
from qtot.store.sweep_folder import Sweep, is_sweep, read_sweep

BEST = 5
"""trials whose curves are drawn, too"""


def read_all(paths: Sequence[Path]) -> tuple[list[Group], list[Sweep]]:
    """The runs, with those of the sweeps among them that are shown as runs; and the sweeps.

    Raises:
        QtotError: one is missing or damaged.
    """
    sweeps = [read_sweep(path) for path in paths if is_sweep(path)]
    alone = [path for path in paths if all(path != sweep.path for sweep in sweeps)]
    runs = [*alone, *(run for sweep in sweeps for run in _runs_of(sweep))]
    return read_runs(runs) if runs or not sweeps else [], sweeps


def _runs_of(sweep: Sweep) -> list[Path]:
    """Run folders of its best trials, and of those under way where none is finished.

    Raises:
        QtotError: one is a link, or cannot be looked at.
    """
    trials = sweep.ranked()[:BEST] or list(sweep.trials[:BEST])
    paths = [sweep.run_path(trial) for trial in trials]
    return [path for path in paths if is_run(path)]


def table(sweep: Sweep) -> dict[str, Any]:
    """For the template."""
    ranked = sweep.ranked()
    rest = [trial for trial in sweep.trials if trial.state != "finished"]
    names = list(sweep.space)
    importance = ", ".join(
        f"{name} {share:.0%}"
        for name, share in sorted(sweep.importance.items(), key=lambda one: -one[1])
    )
    return {
        "path": str(sweep.path),
        "metric": sweep.metric or "value",
        "names": names,
        "importance": importance,
        "rows": [
            {
                "number": trial.number,
                "value": number(trial.value),
                "values": [setting(trial.params.get(name), 4) for name in names],
                "state": trial.state + (f": {trial.reason}" if trial.reason else ""),
                "run": trial.name,
            }
            for trial in [*ranked, *rest]
        ],
    }


def lines(sweep: Sweep) -> dict[str, Any]:
    """For the parallel coordinates: a line a finished trial."""
    names = list(sweep.space)
    return {
        "names": names,
        "metric": sweep.metric or "value",
        "goal": sweep.goal,
        "log": [bool(getattr(sweep.space[name], "log", False)) for name in names] + [False],
        "trials": [
            {
                "number": trial.number,
                "value": trial.value,
                "values": [_plain(trial.params.get(name)) for name in names],
            }
            for trial in sweep.ranked()
        ],
    }


def _plain(value: Any) -> Any:
    return (
        value if isinstance(value, int | float) and not isinstance(value, bool) else setting(value)
    )

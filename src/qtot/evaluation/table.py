"""Tables of greedy play: a row per seed, and the interquartile mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Column(NamedTuple):
    """One number of every seed; "-" where a seed has none."""

    key: str
    """in the rows"""
    title: str
    form: str
    """format specification"""
    interval: bool = True
    """whether the mean over seeds is said with how sure it is"""
    spread: str = ""
    """key of what is said after ±"""

    def cell(self, row: Mapping[str, Any]) -> str:
        """Of one seed."""
        if row.get(self.key) is None:
            return "-"
        spread = f" ± {row[self.spread]:{self.form}}" if self.spread else ""
        return f"{row[self.key]:{self.form}}{spread}"

    def mean(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Over seeds."""
        from qtot.evaluation.statistics import iqm, iqm_interval  # SciPy: not before the first step

        values = [math.nan if row.get(self.key) is None else row[self.key] for row in rows]
        mean = f"{iqm(values):{self.form}}"
        if not self.interval:
            return mean
        low, high = iqm_interval(values)
        return f"{mean} [{low:{self.form}}, {high:{self.form}}]"


def seeds_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    """A row per seed; with several, their interquartile mean."""
    table = Table()
    for title in ("seed", *(column.title for column in columns)):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(str(row["seed"]), *(column.cell(row) for column in columns))
    if len(rows) > 1:
        table.add_section()
        table.add_row("IQM", *(column.mean(rows) for column in columns))
    return table


def print_evaluation(rows: Sequence[Mapping[str, float]]) -> None:
    """What ``evaluate`` returned."""
    columns = [
        Column(
            key=name,
            title=name.replace("_", " "),
            form=".1%" if name == "win_rate" else ".2f",
            spread="return_std" if name == "return" else "",
        )
        for name in rows[0]
        if name not in ("seed", "episodes", "return_std")
    ]
    console = Console(highlight=False)
    console.print(f"greedy policy, {rows[0]['episodes']} episodes per seed")
    console.print(seeds_table(rows, columns))

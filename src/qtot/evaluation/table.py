"""The table of ``qtot eval``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def print_evaluation(rows: Sequence[dict[str, float]]) -> None:
    """What ``evaluate`` returned: a row per seed, and the interquartile mean over seeds."""
    from qtot.evaluation.statistics import iqm, iqm_interval

    names = [k for k in rows[0] if k not in ("seed", "episodes", "return_std")]
    console, table = Console(highlight=False), Table()
    console.print(f"greedy policy, {rows[0]['episodes']} episodes per seed")
    for name in ("seed", *names):
        table.add_column(name.replace("_", " "), justify="right")

    def cell(name: str, value: float) -> str:
        return f"{value:.1%}" if name == "win_rate" else f"{value:.2f}"

    for row in rows:
        spread = {"return": f" ± {row['return_std']:.2f}"}
        cells = [cell(k, row[k]) + spread.get(k, "") for k in names]
        table.add_row(str(row["seed"]), *cells)
    if len(rows) > 1:
        table.add_section()
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            low, high = iqm_interval(values)
            cells.append(f"{cell(name, iqm(values))} [{cell(name, low)}, {cell(name, high)}]")
        table.add_row("IQM", *cells)
    console.print(table)

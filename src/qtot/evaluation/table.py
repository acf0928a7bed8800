"""Tables of greedy play: a row per seed, and the interquartile mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from qtot.evaluation.teams import Agreement


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


def print_records(path: str, recorded: Sequence[Mapping[str, Any]]) -> None:
    """What ``record`` returned."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for one in recorded:
        found = one["certificate"]
        words = f"seed {one['seed']}: {one['episodes']} episodes recorded"
        if found.smallest_credit is not None:
            words += f"; over {found.states:,} states ∂Q_tot/∂Q_a is at least "
            words += f"{found.smallest_credit:.3g}"
        if found.agree is not None:
            words += f", and everyone's argmax is the joint one in {found.agree:.1%}"
        console.print(words)
    console.print(f"'qtot report {path}' shows them")


SHOWN = 20
"""episodes that have a row of their own"""


def print_episodes(
    episodes: Sequence[Mapping[str, float]],
    agents: Mapping[str, str],
    agreement: Agreement | None,
    pids: Sequence[int],
) -> None:
    """What ``play`` returned."""
    console = Console(highlight=False, markup=False)
    if len(set(agents.values())) > 1:
        console.print("team: " + ", ".join(f"{name} of {run}" for name, run in agents.items()))
    names = list(episodes[0])
    table = Table()
    for name in ("episode", *names):
        table.add_column({"win_rate": "won"}.get(name, name.replace("_", " ")), justify="right")
    for i, row in enumerate(episodes[:SHOWN]):
        forms = (".2f" if name == "return" else "g" for name in names)
        cells = (f"{row[name]:{form}}" for name, form in zip(names, forms, strict=True))
        table.add_row(str(i), *cells)
    if len(episodes) > SHOWN:
        table.add_row("...", *("" for _ in names))
    if len(episodes) > 1:
        table.add_section()
        means = (sum(row[name] for row in episodes) / len(episodes) for name in names)
        table.add_row("mean", *(f"{mean:.2f}" for mean in means))
    console.print(table)
    if agreement is not None:
        console.print(
            f"{len(pids)} agents in {len(pids)} processes of their own, each sent only its own "
            f"observation: {agreement.equal:,} of {agreement.steps:,} joint actions as those that "
            f"they choose together; {agreement.ties} parted at ties, {agreement.unexplained} "
            "otherwise"
        )


def print_export(out: str, parity: Mapping[str, float], *, played: bool) -> None:
    """What ``export`` left, and returned."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"written to {out}:")
    for path in sorted(Path(out).iterdir()):
        console.print(f"  {path.name}  {path.stat().st_size:,} bytes")
    answers, same = int(parity["answers"]), int(parity["same_action"])
    asked = "in greedy episodes" if played else "with random inputs"
    console.print(
        f"asked {answers:,} times {asked}: values within {parity['largest_difference_of_q']:.1e} "
        f"of training's, the same action {same:,} times ({same / answers:.2%})"
    )

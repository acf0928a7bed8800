"""What every experiment leaves: tables on the screen; a page, a figure and numbers in a folder."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from qtot.errors import QtotError
from qtot.store.files import make_folder, write_atomic, write_json
from qtot.training.resources import device_facts, versions

PIPED_WIDTH = 160


@dataclass(frozen=True)
class Settings:
    """How an experiment is to be run."""

    out: Path
    """its folder: the page, and the runs that it can go on from"""
    quick: bool = False
    """a smaller form, of a few minutes on 2 cores"""
    seeds: int | None = None
    """independent seeds; None for the experiment's own number"""
    say: Callable[[str], None] = print

    def count(self, full: int, quick: int) -> int:
        """The number of seeds."""
        if self.seeds is not None:
            return self.seeds
        return quick if self.quick else full


class Grid(NamedTuple):
    """A table of text; a cell may have several lines."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Page:
    """The outcome of an experiment."""

    title: str
    setup: str
    """what was done, in a paragraph"""
    grids: list[Grid]
    results: dict[str, Any]
    """for machines"""
    draw: Callable[[Any], None]
    """draws into a matplotlib figure"""
    size: tuple[float, float] = (8.0, 4.5)
    """of the figure, in inches"""
    notes: list[str] = field(default_factory=list)
    agrees: bool = True
    """whether what should come out came out"""
    seconds: float | None = None
    """spent on runs that earlier calls finished, too; None where there were none"""


def publish(page: Page, settings: Settings, name: str, seconds: float) -> None:
    """Print the page; write ``name.md``, ``name.json`` and ``name.png``.

    Raises:
        QtotError: the folder cannot be written.
    """
    command = f"qtot reproduce {name}{' --quick' * settings.quick}"
    command += f" --seeds {settings.seeds}" if settings.seeds is not None else ""
    facts = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "wall_clock_s": round(seconds if page.seconds is None else page.seconds, 1),
        "device": device_facts(),
        "versions": versions(),
    }
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_WIDTH)
    console.print(f"\n{page.title}", style="bold")
    console.print(page.setup)
    for grid in page.grids:
        table = Table(title=grid.title)
        for column in grid.columns:
            table.add_column(column, no_wrap=True)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for note in page.notes:
        console.print(f"- {note}")
    out = make_folder(settings.out)
    write_json(out / f"{name}.json", {**facts, "agrees": page.agrees, "results": page.results})
    write_atomic(out / f"{name}.png", _png(page))
    write_atomic(out / f"{name}.md", _markdown(page, name, facts).encode())
    console.print(f"written to {out}: {name}.md, {name}.json, {name}.png")


def _png(page: Page) -> bytes:
    figure = Figure(figsize=page.size, dpi=110, layout="constrained")
    page.draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _markdown(page: Page, name: str, facts: dict[str, Any]) -> str:
    cores = facts["device"]["cpu_cores"]
    made = (
        f"`{facts['command']}` · {facts['date']} · {facts['wall_clock_s']:.0f} s on "
        f"{facts['device']['kind']}, {cores} cores · "
        + ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    )
    parts = [f"# {page.title}", page.setup, f"![{page.title}]({name}.png)"]
    for grid in page.grids:
        head = "| " + " | ".join(grid.columns) + " |\n|" + "---|" * len(grid.columns)
        rows = ["| " + " | ".join(c.replace("\n", "<br>") for c in row) + " |" for row in grid.rows]
        parts.append(f"**{grid.title}**\n\n" + "\n".join([head, *rows]))
    if page.notes:
        parts.append("\n".join(f"- {note}" for note in page.notes))
    return "\n\n".join([*parts, made]) + "\n"


def check_seeds(seeds: int | None) -> None:
    """Refuses a number of seeds below one.

    Raises:
        QtotError: says what was expected.
    """
    if seeds is not None and seeds < 1:
        raise QtotError(f"--seeds must be a whole number of at least 1, got {seeds}")


def matrix(values: Any, digits: int = 2) -> str:
    """Numbers in rows, for a cell."""
    return "\n".join(
        " ".join(f"{round(x, digits) + 0.0:.{digits}f}" for x in row) for row in values
    )

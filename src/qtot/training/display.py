"""What the user sees while a run goes on. A terminal or notebook gets a live bar, a pipe gets
lines.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from qtot.config import TrainConfig
from qtot.console import Undeterred
from qtot.envs import names_code
from qtot.evaluation.table import Column, seeds_table

CLOSING = (
    Column("eval/win_rate", "win rate", ".1%"),
    Column("eval/return", "return", ".2f"),
    Column("best/win_rate", "best win rate", ".1%", interval=False),
    Column("best/return", "best return", ".2f", interval=False),
    Column("env_steps", "steps", ",.0f", interval=False),
    Column("updates", "updates", ",.0f", interval=False),
    Column("wall_s", "seconds", ".0f", interval=False),
    Column("peak_gib", "GiB at most", ".2f", interval=False),
    Column("peak_device_gib", "GiB of GPU", ".2f", interval=False),
)


def named_again(config: TrainConfig) -> str:
    """What a command has to say of a run whose folder names code of the user's own."""
    if config.env.startswith("own:"):
        return " --env MODULE:FACTORY" + " --trust" * bool(config.agent.module)
    if config.agent.module or config.ray_address:
        return " --trust"
    return f" --env {config.env}" if names_code(config.env) else ""


class Display:
    """Header, progress, closing table; silent when ``quiet``."""

    def __init__(self, config: TrainConfig, *, quiet: bool):
        self.config, self.quiet = config, quiet
        self.console = Undeterred(stderr=False, quiet=quiet, highlight=False)
        # In a notebook rich draws through ipywidgets; without it, lines.
        notebook = self.console.is_jupyter and find_spec("ipywidgets") is not None
        terminal = self.console.is_terminal and not self.console.is_jupyter
        self.live = not quiet and (terminal or notebook)
        self._bar = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
        )
        self._task = self._bar.add_task("", total=config.steps)
        self._facts = Text()
        self._view = Live(Group(self._bar, self._facts), console=self.console)

    def say(self, text: str, style: str = "") -> None:
        """One line."""
        self.console.print(text, style=style, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """One line that stands out."""
        self.say(f"warning: {text}", "yellow")

    def header(self, lines: dict[str, str]) -> None:
        """What the run is."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for title, line in lines.items():
            table.add_row(title, line)
        self.console.print(table)

    def compiled(self, seconds: float) -> None:
        """How long the first step had to wait for its program."""
        self.say(f"compiled in {seconds:.1f} s")

    def time_split(self, split: dict[str, float]) -> None:
        """Where the time of a training step goes."""
        shares = " · ".join(f"{name} {share:.0%}" for name, share in split.items())
        self.say(f"time split: {shares}")

    def __enter__(self) -> Display:
        if self.live:
            self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.stop()

    def progress(self, rows: list[dict[str, Any]], wall_s: float) -> None:
        """One log: means over seeds."""

        def mean(key: str) -> float | None:
            values = [r[key] for r in rows if r.get(key) is not None]
            return float(np.mean(values)) if values else None

        steps = min(r["env_steps"] for r in rows)
        parts = []
        for label, key, form in (
            ("return", "train/return", ".2f"),
            ("win", "train/win_rate", ".0%"),
            ("eval", "eval/return", ".2f"),
            ("eval win", "eval/win_rate", ".0%"),
            ("ε", "epsilon", ".2f"),
            ("loss", "loss", ".3g"),
            ("steps/s", "steps_per_s", ",.0f"),
        ):
            value = mean(key)
            if value is not None:
                parts.append(f"{label} {value:{form}}")
        facts = " · ".join(parts)
        if self.live:
            if mean("eval/return") is not None:
                self.say(f"{steps:>10,} steps · {facts}")
            self._bar.update(self._task, completed=steps)
            self._facts.plain = facts
        else:
            left_s = wall_s * max(self.config.steps / steps - 1, 0.0) if steps else 0.0
            self.say(f"{steps:>10,} steps · {facts} · {left_s:.0f} s left")

    def closing(self, result: list[dict[str, Any]], out: str) -> None:
        """A row per seed, and the interquartile mean over seeds."""
        self._view.stop()
        columns = [c for c in CLOSING if any(row.get(c.key) is not None for row in result)]
        self.say(f"final greedy policy, {result[0]['eval/episodes']} episodes per seed")
        self.console.print(seeds_table(result, columns))
        self.say(f"saved in {out} · evaluate again with: qtot eval {out}{named_again(self.config)}")

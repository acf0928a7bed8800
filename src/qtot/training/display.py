"""What the user sees while a run goes on. A terminal or notebook gets a live bar, a pipe gets
lines.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from qtot.config import TrainConfig
from qtot.core.replay import Replay
from qtot.envs.spec import EnvSpec


def human_bytes(n: int) -> str:
    """1536 → '1.5 KiB'."""
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _spread(mesh: dict[str, int]) -> str:
    """Over which devices the work is spread."""
    groups = (
        f"{mesh['seed']} groups of seeds" if mesh["seed"] > 1 else "",
        f"{mesh['data']} parts of each seed's environments" if mesh["data"] > 1 else "",
    )
    if not any(groups):
        return ""
    return f" · {mesh['seed'] * mesh['data']} devices: " + " x ".join(g for g in groups if g)


def spec_lines(spec: EnvSpec) -> dict[str, str]:
    """The facts of an environment in words."""

    def span(values: tuple[int, ...]) -> str:
        same = len(set(values)) == 1
        return str(values[0]) if same else ", ".join(str(v) for v in values) + " (padded)"

    return {
        "environment": f"{spec.name} · {spec.about}" if spec.about else spec.name,
        "agents": f"{spec.n_agents} ({', '.join(spec.agents[:4])}{', ...' * (spec.n_agents > 4)})",
        "actions": f"{span(spec.n_actions)} · masks: {spec.masks}",
        "observation": span(spec.obs_sizes),
        "state": f"{spec.state_size} · from {spec.state_source}",
        "team reward": f"{spec.team_reward} · episode limit {spec.episode_limit}",
        "reports": ", ".join(spec.info) or "nothing but the return",
    }


class Display:
    """Header, progress, closing table; silent when ``quiet``."""

    def __init__(self, config: TrainConfig, *, quiet: bool):
        self.config, self.quiet = config, quiet
        self.console = Console(stderr=False, quiet=quiet, highlight=False)
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

    def header(
        self,
        spec: EnvSpec,
        *,
        device: dict[str, Any],
        parameters: dict[str, int],
        memory: dict[str, int],
        ring: Replay | None,
        settings: str,
        workers: str,
        out: str,
    ) -> None:
        """Device, environment facts, sizes: all known before anything is allocated."""
        config = self.config
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        last = config.seed + config.seeds - 1
        rows = {
            "device": f"{device['kind']}, {device['cpu_cores']} CPU cores{_spread(device['mesh'])}",
            "settings": settings,
            **spec_lines(spec),
            "method": f"{config.algo} · preset {config.preset} · "
            + (f"seeds {config.seed} to {last}" if config.seeds > 1 else f"seed {config.seed}"),
            "parameters": " · ".join(f"{name} {n:,}" for name, n in parameters.items()),
            "workers": workers,
            "data": self._data(ring, memory, device),
            "steps": f"{config.steps:,} per seed",
            "run folder": out,
        }
        for name, value in rows.items():
            if value:
                table.add_row(name, value)
        self.console.print(table)
        if "warning" in device:
            self.warn(device["warning"])

    def _data(self, ring: Replay | None, memory: dict[str, int], device: dict[str, Any]) -> str:
        """What is learned from, and how often."""
        config, many = self.config, self.config.seeds > 1
        whole = device["platform"] == "cpu" or math.prod(device["mesh"].values()) == 1
        where = "" if whole else " on each device"
        sequences, envs = config.replay.sequences, config.collect.envs
        if ring is None:
            epochs, parts = config.online.epochs, config.online.minibatches
            return (
                f"online: each rollout of {envs} {sequences} in {parts} minibatches, {epochs} "
                f"epoch{'s' * (epochs > 1)}; no replay"
            )
        return (
            f"replay of {ring.rows * ring.envs:,} {sequences} of {ring.stride} slots · "
            f"{human_bytes(memory['replay'])}{f' for {config.seeds} seeds' * many}{where} · "
            f"{config.collect.update_ratio:.4g} updates per {config.collect.update_unit} · "
            f"batch {config.replay.batch}"
        )

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
        from qtot.evaluation.statistics import iqm, iqm_interval  # SciPy: not before the first step

        columns = {
            "eval/win_rate": ("win rate", ".1%"),
            "eval/return": ("return", ".2f"),
            "best/win_rate": ("best win rate", ".1%"),
            "best/return": ("best return", ".2f"),
            "env_steps": ("steps", ",.0f"),
            "updates": ("updates", ",.0f"),
            "wall_s": ("seconds", ".0f"),
        }
        self._view.stop()
        columns = {k: v for k, v in columns.items() if any(r.get(k) is not None for r in result)}
        self.say(f"final greedy policy, {result[0]['eval/episodes']} episodes per seed")
        table = Table()
        table.add_column("seed", justify="right")
        for title, _ in columns.values():
            table.add_column(title, justify="right")
        for row in result:
            cells = [
                "-" if row.get(k) is None else format(row[k], form)
                for k, (_, form) in columns.items()
            ]
            table.add_row(str(row["seed"]), *cells)
        if len(result) > 1:
            cells = []
            for k, (_, form) in columns.items():
                values = [math.nan if r.get(k) is None else r[k] for r in result]
                low, high = iqm_interval(values)
                plain = f"{iqm(values):{form}}"
                span = f" [{low:{form}}, {high:{form}}]" if k.startswith("eval/") else ""
                cells.append(plain + span)
            table.add_section()
            table.add_row("IQM", *cells)
        self.console.print(table)
        env, named = self.config.env, ""  # code of the user's own has to be named again
        if ":" in env.partition("/")[0]:
            named = f" --env {'MODULE:FACTORY' if env.startswith('own:') else env}"
        self.say(f"saved in {out} · evaluate again with: qtot eval {out}{named}")

"""The table of ``qtot envs``: every environment with the facts that its EnvSpec states."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from qtot.envs import FAMILIES, make_env, tasks
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError, unknown

LEGEND = """\
actions, obs: of each agent; smallest-largest where agents differ
state: its features; own, the environment's state; obs, all observations in a row
limit: transitions in an episode. info: scalars reported at its end
reward: how the team's is formed from the agents' own
masks: env, the environment says which actions are legal; all, they all are"""
PIPED_WIDTH = 1000  # no row of a pipe is ever cut or folded


def print_environments(family: str | None = None) -> None:
    """Prints one table for each family.

    Args:
        family: only this one; all of them by default.

    Raises:
        QtotError: there is no such family; says the nearest one.
    """
    if family is not None and family not in FAMILIES:
        raise unknown("environment family", family, FAMILIES)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_WIDTH)
    for name in FAMILIES if family is None else (family,):
        console.print(f"[bold]{name}[/bold]: {FAMILIES[name].about}")
        try:
            specs = [make_env(f"{name}/{task}").spec for task in tasks(name)]
        except QtotError as error:  # a package that this family needs is missing
            console.print(f"  not available: {error}", markup=False)
        else:
            console.print(facts_table(specs, console))
        console.print()
    console.print(LEGEND, style="dim")
    sys.stdout.flush()


def facts_table(specs: Iterable[EnvSpec], console: Console) -> Table:
    """With what the environments are about in a last column, where there is room for it."""
    full = _rows(specs, about=True)
    room = console.options.update(max_width=PIPED_WIDTH)
    if console.measure(full, options=room).maximum <= console.width:
        return full
    return _rows(specs, about=False)


def _rows(specs: Iterable[EnvSpec], *, about: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for head in ("environment", "agents", "actions", "obs", "state", "limit"):
        table.add_column(head, no_wrap=True, justify="left" if head == "environment" else "right")
    for head in ("reward", "masks", "info", *(["about"] if about else [])):
        table.add_column(head, no_wrap=head != "info")
    for spec in specs:
        source = "own" if spec.state_source == "environment" else "obs"
        row = (
            spec.name,
            str(spec.n_agents),
            _span(spec.n_actions),
            _span(spec.obs_sizes),
            f"{spec.state_size} {source}",
            str(spec.episode_limit),
            spec.team_reward,
            "env" if spec.masks == "environment" else "all",
            " ".join(spec.info) or "-",
        )
        table.add_row(*row, *([spec.about] if about else []))
    return table


def _span(sizes: Iterable[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low}-{high}"

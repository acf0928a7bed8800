"""The page: what the templates say, and what the scripts draw, from runs that were read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qtot import __version__
from qtot.reporting import curves, rows, tables
from qtot.reporting.gallery import gallery
from qtot.reporting.read import Group
from qtot.reporting.sweeps import lines, read_all, table

SCRIPTS = ("charts", "drawing", "viewer", "start")


class Report(NamedTuple):
    """What a page is made of, and what lies beside it."""

    groups: list[Group]
    finals: list[tables.Final]
    improvements: list[tables.Improvement]
    profiles: list[dict[str, Any]]
    context: dict[str, Any]
    """for the templates"""
    data: dict[str, Any]
    """for the scripts"""


def make_report(paths: Sequence[Path], notes: Sequence[str] = ()) -> Report:
    """Everything there is to say of some runs, and what is to be noted of their episodes.

    Raises:
        QtotError: one is missing or damaged.
    """
    groups, sweeps = read_all(paths)
    labels = [group.label for group in groups]
    colours = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    names = curves.metric_names(groups)
    metrics = [{"name": n, "title": curves.title(n), "about": curves.about(n)} for n in names]
    by_method = tables.scores(groups)
    profiles = tables.profiles(by_method) if len(by_method) > 1 else []
    improvements = tables.improvements(by_method)
    shown = gallery(groups)
    data = {
        "labels": labels,
        "colours": colours,
        "metrics": metrics,
        "axes": curves.AXES,
        "curves": curves.curves(groups),
        "sweeps": [lines(sweep) for sweep in sweeps],
        "profiles": profiles,
        "stages": shown.stages,
        "episodes": shown.episodes,
    }
    tasks = tables.tasks_of(groups)
    finals = tables.finals(groups)
    context = {
        "title": rows.title(groups)
        if groups
        else f"sweep {', '.join(str(x.path) for x in sweeps)}",
        "verdicts": [rows.verdict(task, its, finals) for task, its in tasks.items()],
        "notes": [note for group in groups for note in group.notes],
        "metrics": metrics,
        "axes": list(curves.AXES.items()),
        **rows.finals(groups, finals),
        "reached": [
            block for task, its in tasks.items() if (block := rows.reached(task, its, groups))
        ],
        "improvements": [rows.improvement(x) for x in improvements],
        "overall": rows.overall(by_method) if len(by_method) > 1 else [],
        "episodes": shown.names,
        "episode_notes": [*notes, *shown.notes],
        "certificates": shown.certificates,
        "sweeps": [table(sweep) for sweep in sweeps],
        "runs": [rows.run(run, group) for group in groups for run in group.runs],
        "versions": rows.versions(groups),
        **rows.settings(groups),
    }
    return Report(groups, finals, improvements, profiles, context, data)


def render(report: Report, *, live: float | None = None) -> str:
    """The page as one string.

    Args:
        report: what it says.
        live: seconds between questions to the server that it watches; None: it opens from a file.
    """
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **report.context,
            live=live,
            version=__version__,
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            css=Markup(_asset("page.css")),
            plotly="" if live else Markup(plotly()),
            data=Markup(as_script(report.data)),
            **{name: Markup(_asset(f"{name}.js")) for name in SCRIPTS},
        )
    )


def sections(report: Report) -> str:
    """What is between the page's header and its end, for one that watches."""
    return _environment().get_template("sections.html.j2").render(**report.context)


def as_script(data: Any) -> str:
    """JSON that no text in it can leave."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plotly() -> str:
    """The library that draws the charts."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("qtot.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return resources.files("qtot.reporting").joinpath("assets", name).read_text(encoding="utf-8")

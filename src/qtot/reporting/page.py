"""The page: what the templates say, and what the scripts draw, from runs that were read."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qtot import __version__
from qtot.errors import QtotError
from qtot.reporting import curves, tables
from qtot.reporting.episodes import BUDGET, Record, episode, read_checked, size_of, stage
from qtot.reporting.read import Group, ReadRun, read_runs
from qtot.reporting.sweeps import lines, read_sweeps, runs_of, table
from qtot.store.sweep_folder import Sweep

SCRIPTS = ("charts", "drawing", "viewer", "start")


class Report(NamedTuple):
    """What a page is made of."""

    groups: list[Group]
    context: dict[str, Any]
    """for the templates"""
    data: dict[str, Any]
    """for the scripts"""


def make_report(paths: Sequence[Path], notes: Sequence[str] = ()) -> Report:
    """Everything there is to say of some runs, and what is to be noted of their episodes.

    Raises:
        QtotError: one is missing or damaged.
    """
    sweeps = read_sweeps(paths)
    runs = [*_without(paths, sweeps), *(run for x in sweeps for run in runs_of(x))]
    groups = read_runs(runs) if runs or not sweeps else []
    labels = [group.label for group in groups]
    colours = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    names = curves.metric_names(groups)
    metrics = [{"name": n, "title": curves.title(n), "about": curves.about(n)} for n in names]
    by_method = tables.scores(groups)
    compared = len(by_method) > 1
    shown = _episodes(groups)
    data = {
        "labels": labels,
        "colours": colours,
        "metrics": metrics,
        "axes": curves.AXES,
        "curves": curves.curves(groups),
        "sweeps": [lines(sweep) for sweep in sweeps],
        "profiles": tables.profiles(by_method) if compared else [],
        "stages": shown.stages,
        "episodes": shown.episodes,
    }
    tasks = tables.tasks_of(groups)
    finals = tables.finals(groups)
    context = {
        "title": _title(groups) if groups else f"sweep {', '.join(str(x.path) for x in sweeps)}",
        "verdicts": [_verdict(task, its, finals) for task, its in tasks.items()],
        "notes": [note for group in groups for note in group.notes],
        "metrics": metrics,
        "axes": list(curves.AXES.items()),
        **_finals(groups, finals),
        "reached": [block for task, its in tasks.items() if (block := _reached(task, its, groups))],
        "improvements": [_improvement(x) for x in tables.improvements(by_method)],
        "overall": _overall(by_method) if compared else [],
        "episodes": shown.names,
        "episode_notes": [*notes, *shown.notes],
        "certificates": shown.certificates,
        "sweeps": [table(sweep) for sweep in sweeps],
        "runs": [_run(run, group) for group in groups for run in group.runs],
        "versions": _versions(groups),
        **_settings(groups),
    }
    return Report(groups, context, data)


def _without(paths: Sequence[Path], sweeps: Sequence[Sweep]) -> list[Path]:
    return [path for path in paths if all(path != sweep.path for sweep in sweeps)]


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


# In short -------------------------------------------------------------------------------------


def _title(groups: Sequence[Group]) -> str:
    tasks = list(dict.fromkeys(group.task for group in groups))
    methods = list(dict.fromkeys(group.label for group in groups))
    return f"{_some(methods)} on {_some(tasks)}"


def _some(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return ", ".join(names)


def _verdict(task: str, groups: Sequence[Group], finals: Sequence[tables.Final]) -> str:
    """A sentence on a task."""
    metric = tables.main_metric(groups)
    its = [x for x in finals if x.group.task == task and x.metric == metric]
    if not its:
        return f"On {task}, nothing was evaluated yet."
    its.sort(key=lambda x: -x.iqm)
    said = []
    for final in its[:3]:
        seeds = len(final.values)
        sure = f" {_interval(final.low, final.high, metric)}" if seeds > 1 else ""
        many = f"{seeds} seeds" if seeds > 1 else "1 seed"
        said.append(f"{final.group.label} {_value(final.iqm, metric)}{sure} ({many})")
    rest = f", and {len(its) - 3} more methods" if len(its) > 3 else ""
    what = "win rate" if metric == "eval/win_rate" else "return"
    ends = {_large(x.steps) for x in its}
    steps = f"after {ends.pop()} steps" if len(ends) == 1 else "where each ended"
    return f"{task} {steps}, greedy {what}: {'; '.join(said)}{rest}."


def _value(value: float | None, metric: str) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if metric.endswith("win_rate") else f"{value:.4g}"


def _interval(low: float, high: float, metric: str) -> str:
    return f"[{_value(low, metric)}, {_value(high, metric)}]"


def _large(value: float) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _time(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


# Tables ---------------------------------------------------------------------------------------


def _finals(groups: Sequence[Group], finals: Sequence[tables.Final]) -> dict[str, Any]:
    names = list(dict.fromkeys(final.metric for final in finals))
    rows = []
    for index, group in enumerate(groups):
        mine = {final.metric: final for final in finals if final.group is group}
        if not mine:
            continue
        cells: list[Any] = []
        for name in names:
            final = mine.get(name)
            if final is None:
                cells.append(None)
                continue
            several = len(final.values) > 1
            seeds = ", ".join(_value(v, name) for v in final.values)
            cells.append(
                {
                    "mean": _value(final.iqm, name),
                    "interval": _interval(final.low, final.high, name) if several else "",
                    "seeds": f"seeds: {seeds}",
                }
            )
        rows.append(
            {
                "task": group.task,
                "label": group.label,
                "group": index,
                "seeds": len(next(iter(mine.values())).values),
                "steps": _large(next(iter(mine.values())).steps),
                "cells": cells,
            }
        )
    return {"finals": rows, "final_metrics": [curves.title(name) for name in names]}


def _reached(task: str, its: Sequence[Group], groups: Sequence[Group]) -> dict[str, Any] | None:
    metric = tables.main_metric(its)
    thresholds = tables.thresholds_of(its, metric)
    rows = []
    for group in its:
        found = tables.reached(group, metric, thresholds)
        if any(x.seeds for x in found):
            cells = [
                {
                    "steps": _large(x.steps) if math.isfinite(x.steps) else "–",
                    "rest": f"{_time(x.seconds)}, {x.seeds}/{x.of}"
                    if math.isfinite(x.seconds)
                    else f"{x.seeds}/{x.of}",
                }
                for x in found
            ]
            rows.append({"label": group.label, "group": _index(group, groups), "cells": cells})
    if not rows:
        return None
    said = [_value(x, metric) for x in thresholds]
    return {"task": task, "metric": curves.title(metric), "thresholds": said, "rows": rows}


def _index(group: Group, groups: Sequence[Group]) -> int:
    return next(i for i, one in enumerate(groups) if one is group)


def _improvement(found: tables.Improvement) -> dict[str, Any]:
    return {
        "method": found.method,
        "than": found.than,
        "tasks": found.tasks,
        "probability": f"{found.probability:.2f}",
        "interval": "–" if found.low is None else f"[{found.low:.2f}, {found.high:.2f}]",
        "left": round(100 * (found.probability if found.low is None else found.low), 1),
        "width": round(100 * ((found.high or 0.0) - (found.low or 0.0)), 1),
        "at": round(100 * found.probability, 1),
    }


def _overall(by_method: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "label": x.label,
            "tasks": x.tasks,
            "mean": f"{x.iqm:.3f}",
            "interval": "" if x.low is None else f"[{x.low:.3f}, {x.high:.3f}]",
        }
        for x in tables.overall(by_method)
        if x.tasks > 1
    ]


# Episodes -------------------------------------------------------------------------------------


class _Shown(NamedTuple):
    stages: list[dict[str, Any]]
    episodes: list[dict[str, Any]]
    names: list[str]
    notes: list[str]
    certificates: list[dict[str, Any]]


def _episodes(groups: Sequence[Group]) -> _Shown:
    """The first episodes of all records, then the second ones, as far as there is room."""
    records: list[tuple[Group, ReadRun, Record]] = []
    notes, certificates = [], []
    for group in groups:
        for run in group.runs:
            for seed in run.seeds:
                if not run.folder.has_record(seed.seed):
                    continue
                try:
                    record = read_checked(run, seed.seed)
                except QtotError as error:
                    notes.append(str(error))
                    continue
                records.append((group, run, record))
                certificates.append(_certificate(run, group, record))
                now = run.folder.digest(record.facts["which"], seed.seed)
                if record.facts["params"] != now:
                    notes.append(
                        f"{run.path}: seed {seed.seed} has learned since its episodes were recorded"
                    )
    chosen, room = [], BUDGET
    most = max((record.episodes for _, _, record in records), default=0)
    for index in range(most):
        for number, (_, _, record) in enumerate(records):
            if index < record.episodes and size_of(record) <= room:
                room -= size_of(record)
                chosen.append((number, index))
    left = sum(record.episodes for _, _, record in records) - len(chosen)
    if left:
        notes.append(f"{left} recorded episodes had no room on this page.")
    episodes, names = [], []
    for number, index in sorted(chosen):
        group, _, record = records[number]
        shown = {"stage": number, **episode(record, index)}
        won = shown["info"].get("won")
        end = "" if won is None else ", won" if won else ", lost"
        names.append(
            f"{group.label} on {group.task}, seed {shown['seed']}, episode {index}: return "
            f"{_number(shown['return'])}{end}"
        )
        episodes.append(shown)
    stages = [stage(run, record) for _, run, record in records]
    return _Shown(stages, episodes, names, notes, certificates)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _certificate(run: ReadRun, group: Group, record: Record) -> dict[str, Any]:
    found = record.certificate

    def share(agree: str, gap: str) -> str:
        if found[agree] is None:
            return "–"
        short = f", short by {found[gap]:.3g}" if found[agree] < 1 else ""
        return f"{found[agree]:.1%} of {found['tried']}{short}"

    mixed = found["smallest_credit"] is not None
    return {
        "run": str(run.path),
        "method": group.label,
        "seed": record.facts["seed"],
        "states": f"{found['states']:,}",
        "smallest": f"{found['smallest_credit']:.3g}" if mixed else "nothing is mixed",
        "negative": f"{found['negative']:.2%}" if mixed else "–",
        "agree": share("agree", "gap")
        if found["tried"]
        else f"too many joint actions ({found['joint_actions']:,})"
        if mixed
        else "–",
        "agree_joint": share("agree_joint", "gap_joint"),
    }


# How it was made ------------------------------------------------------------------------------


def _run(run: ReadRun, group: Group) -> dict[str, Any]:
    rows = [seed.rows[-1] for seed in run.seeds if seed.rows]
    steps = min((int(row["env_steps"]) for row in rows), default=0)
    last = rows[0] if rows else {}
    wall, compiled = last.get("wall_s"), last.get("compile_s")
    result = run.seeds[0].result or {} if run.seeds else {}
    device = run.recorded.get("device")
    device = device if isinstance(device, dict) else {}
    shares = {
        name.partition("/")[2]: value
        for name, value in result.items()
        if name.startswith("share/") and value is not None
    }
    taken = steps * len(run.seeds)
    peak = result.get("peak_gib")
    return {
        "path": str(run.path),
        "task": group.task,
        "label": group.label,
        "seeds": ", ".join(str(seed.seed) for seed in run.seeds),
        "steps": _large(steps),
        "state": "finished" if run.finished else f"at {steps / run.config.steps:.0%}",
        "time": _time(wall) + (f" + {_time(compiled)} compiling" if compiled else ""),
        "rate": _large(taken / wall) if wall else "–",
        "split": " · ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "–",
        "device": _device(device),
        "memory": f"{peak:.2f} GiB" if peak is not None else "–",
        "commit": str(run.recorded.get("git_commit") or "–")[:10],
    }


def _device(device: dict[str, Any]) -> str:
    parts = [f"{device.get('count', '?')} × {device.get('kind', '?')}"]
    if device.get("cpu_cores"):
        parts.append(f"{device['cpu_cores']} cores")
    return ", ".join(map(str, parts))


def _versions(groups: Sequence[Group]) -> str:
    found = [run.recorded.get("versions") for group in groups for run in group.runs]
    said = [
        ", ".join(f"{name} {version}" for name, version in one.items())
        for one in found
        if isinstance(one, dict)
    ]
    return " | ".join(dict.fromkeys(said))


def _settings(groups: Sequence[Group]) -> dict[str, Any]:
    """The configuration: what differs between groups, or between runs of one, and the rest."""
    settings = [[run.settings for run in group.runs] for group in groups]
    names = list(dict.fromkeys(n for its in settings for one in its for n in one if n != "seed"))
    different, shared = [], []
    for name in names:
        said = [dict.fromkeys(_setting(one.get(name)) for one in its) for its in settings]
        values = [" | ".join(its) for its in said]
        if len(set(values)) > 1 or any(len(its) > 1 for its in said):
            different.append({"name": name, "values": values})
        else:
            shared.append({"name": name, "value": values[0]})
    titles = [f"{group.label}, {group.task}" for group in groups]
    return {"differences": different, "shared": shared, "group_names": titles}


def _setting(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

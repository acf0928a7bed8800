"""What the templates say of runs: sentences, and rows of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qtot.reporting import curves, tables
from qtot.reporting.read import Group, ReadRun
from qtot.reporting.wording import duration, interval, large, setting, some, value_of


def title(groups: Sequence[Group]) -> str:
    """Which methods on which tasks."""
    tasks = list(dict.fromkeys(group.task for group in groups))
    methods = list(dict.fromkeys(group.label for group in groups))
    return f"{some(methods)} on {some(tasks)}"


def verdict(task: str, groups: Sequence[Group], finals: Sequence[tables.Final]) -> str:
    """A sentence on a task."""
    metric = tables.main_metric(groups)
    its = [x for x in finals if x.group.task == task and x.metric == metric]
    if not its:
        return f"On {task}, nothing was evaluated yet."
    its.sort(key=lambda x: -x.iqm)
    said = []
    for final in its[:3]:
        seeds = len(final.values)
        sure = f" {interval(final.low, final.high, metric)}" if seeds > 1 else ""
        many = f"{seeds} seeds" if seeds > 1 else "1 seed"
        said.append(f"{final.group.label} {value_of(final.iqm, metric)}{sure} ({many})")
    rest = f", and {len(its) - 3} more methods" if len(its) > 3 else ""
    what = "win rate" if metric == "eval/win_rate" else "return"
    ends = {large(x.steps) for x in its}
    steps = f"after {ends.pop()} steps" if len(ends) == 1 else "where each ended"
    return f"{task} {steps}, greedy {what}: {'; '.join(said)}{rest}."


def finals(groups: Sequence[Group], finals: Sequence[tables.Final]) -> dict[str, Any]:
    """A row for each group: where its seeds ended."""
    names = list(dict.fromkeys(final.metric for final in finals))
    out = []
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
            seeds = ", ".join(value_of(v, name) for v in final.values)
            cells.append(
                {
                    "mean": value_of(final.iqm, name),
                    "interval": interval(final.low, final.high, name) if several else "",
                    "seeds": f"seeds: {seeds}",
                }
            )
        out.append(
            {
                "task": group.task,
                "label": group.label,
                "group": index,
                "seeds": len(next(iter(mine.values())).values),
                "steps": large(next(iter(mine.values())).steps),
                "cells": cells,
            }
        )
    return {"finals": out, "final_metrics": [curves.title(name) for name in names]}


def reached(task: str, its: Sequence[Group], groups: Sequence[Group]) -> dict[str, Any] | None:
    """A row for each group of a task: how soon it got somewhere; None where none did."""
    metric = tables.main_metric(its)
    thresholds = tables.thresholds_of(its, metric)
    out = []
    for group in its:
        found = tables.reached(group, metric, thresholds)
        if any(x.seeds for x in found):
            cells = [
                {
                    "steps": large(x.steps) if math.isfinite(x.steps) else "–",
                    "rest": f"{duration(x.seconds)}, {x.seeds}/{x.of}"
                    if math.isfinite(x.seconds)
                    else f"{x.seeds}/{x.of}",
                }
                for x in found
            ]
            out.append({"label": group.label, "group": _index(group, groups), "cells": cells})
    if not out:
        return None
    said = [value_of(x, metric) for x in thresholds]
    return {"task": task, "metric": curves.title(metric), "thresholds": said, "rows": out}


def _index(group: Group, groups: Sequence[Group]) -> int:
    return next(i for i, one in enumerate(groups) if one is group)


def improvement(found: tables.Improvement) -> dict[str, Any]:
    """A row for a pair of methods, in per cent for its bar."""
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


def overall(by_method: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each method, where they share several tasks."""
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


def run(run: ReadRun, group: Group) -> dict[str, Any]:
    """A row for a run: how long it took, and on what."""
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
    taken = steps * run.config.seeds
    peak = result.get("peak_gib")
    return {
        "path": str(run.path),
        "task": group.task,
        "label": group.label,
        "seeds": ", ".join(str(seed.seed) for seed in run.seeds),
        "steps": large(steps),
        "state": "finished" if run.finished else f"at {steps / run.config.steps:.0%}",
        "time": duration(wall) + (f" + {duration(compiled)} compiling" if compiled else ""),
        "rate": large(taken / wall) if wall else "–",
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


def versions(groups: Sequence[Group]) -> str:
    """Of the packages that made the runs."""
    found = [run.recorded.get("versions") for group in groups for run in group.runs]
    said = [
        ", ".join(f"{name} {version}" for name, version in one.items())
        for one in found
        if isinstance(one, dict)
    ]
    return " | ".join(dict.fromkeys(said))


def settings(groups: Sequence[Group]) -> dict[str, Any]:
    """The configuration: what differs between groups, or between runs of one, and the rest."""
    settings = [[run.settings for run in group.runs] for group in groups]
    names = list(dict.fromkeys(n for its in settings for one in its for n in one if n != "seed"))
    different, shared = [], []
    for name in names:
        said = [dict.fromkeys(setting(one.get(name)) for one in its) for its in settings]
        values = [" | ".join(its) for its in said]
        if len(set(values)) > 1 or any(len(its) > 1 for its in said):
            different.append({"name": name, "values": values})
        else:
            shared.append({"name": name, "value": values[0]})
    titles = [f"{group.label}, {group.task}" for group in groups]
    return {"differences": different, "shared": shared, "group_names": titles}

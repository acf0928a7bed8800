"""Which recorded episodes a page has room for, and what the networks say on their states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from qtot.errors import QtotError
from qtot.reporting.episodes import BUDGET, Record, episode, read_checked, size_of, stage
from qtot.reporting.read import Group, ReadRun
from qtot.reporting.wording import number


class Gallery(NamedTuple):
    """The episodes that a page shows."""

    stages: list[dict[str, Any]]
    episodes: list[dict[str, Any]]
    names: list[str]
    notes: list[str]
    certificates: list[dict[str, Any]]


def gallery(groups: Sequence[Group]) -> Gallery:
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
        for which, (_, _, record) in enumerate(records):
            if index < record.episodes and size_of(record) <= room:
                room -= size_of(record)
                chosen.append((which, index))
    left = sum(record.episodes for _, _, record in records) - len(chosen)
    if left:
        notes.append(f"{left} recorded episodes had no room on this page.")
    episodes, names = [], []
    for which, index in sorted(chosen):
        group, _, record = records[which]
        shown = {"stage": which, **episode(record, index)}
        won = shown["info"].get("won")
        end = "" if won is None else ", won" if won else ", lost"
        names.append(
            f"{group.label} on {group.task}, seed {shown['seed']}, episode {index}: return "
            f"{number(shown['return'])}{end}"
        )
        episodes.append(shown)
    stages = [stage(run, record) for _, run, record in records]
    return Gallery(stages, episodes, names, notes, certificates)


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

"""Which recorded episodes a page has room for, and what the networks say on their states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from qtot.errors import QtotError
from qtot.reporting.episodes import Record, episode, read_checked, stage
from qtot.reporting.read import Group, ReadRun
from qtot.reporting.wording import number

BUDGET = 8_000_000
"""characters that episodes may take of a page"""


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
    shown = _shown([record for _, _, record in records])
    left = sum(record.episodes for _, _, record in records) - len(shown)
    if left:
        notes.append(f"{left} recorded episodes had no room on this page.")
    names = []
    for which, index in shown:
        group, _, record = records[which]
        one = shown[which, index]
        won = one["info"].get("won")
        end = "" if won is None else ", won" if won else ", lost"
        names.append(
            f"{group.label} on {group.task}, seed {one['seed']}, episode {index}: return "
            f"{number(one['return'])}{end}"
        )
    stages = [stage(run, record) for _, run, record in records]
    return Gallery(stages, list(shown.values()), names, notes, certificates)


def _shown(records: Sequence[Record]) -> dict[tuple[int, int], dict[str, Any]]:
    """By record and number. Once one had no room, later ones of its record are not tried."""
    shown, room, full = {}, BUDGET, set[int]()
    for index in range(max((record.episodes for record in records), default=0)):
        for which, record in enumerate(records):
            if index >= record.episodes or which in full:
                continue
            one = {"stage": which, **episode(record, index)}
            size = len(json.dumps(one, separators=(",", ":")))
            if size <= room:
                shown[which, index] = one
                room -= size
            else:
                full.add(which)
    return dict(sorted(shown.items()))


def _certificate(run: ReadRun, group: Group, record: Record) -> dict[str, Any]:
    found = record.certificate

    def share(agree: float | None, gap: float | None) -> str:
        if agree is None:
            return "–"
        short = f", short by {gap:.3g}" if agree < 1 else ""
        return f"{agree:.1%} of {found.tried}{short}"

    mixed = found.smallest_credit is not None
    joint = found.joint_actions
    many = f"{joint:,}" if joint < 10**9 else f"more than 10^{len(str(joint)) - 1}"
    return {
        "run": str(run.path),
        "method": group.label,
        "seed": record.facts["seed"],
        "states": f"{found.states:,}",
        "smallest": f"{found.smallest_credit:.3g}" if mixed else "nothing is mixed",
        "negative": f"{found.negative:.2%}" if mixed else "–",
        "agree": share(found.agree, found.gap)
        if found.tried
        else f"too many joint actions ({many})"
        if mixed
        else "–",
        "agree_joint": share(found.agree_joint, found.gap_joint),
    }

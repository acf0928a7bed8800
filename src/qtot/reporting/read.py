"""Runs as they lie in their folders, sorted into methods on tasks: seeds that differ in nothing
else are one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qtot.config import TrainConfig
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.reporting.wording import setting
from qtot.store.run_folder import RunFolder, is_run

Row = dict[str, Any]
ASIDE = ("env", "seed", "seeds", "log_every", "collectors", "ray_address")
"""fields of a configuration that do not make another method"""
ASIDE_PARTS = ("checkpoint.", "evaluation.", "host.workers", "host.timeout_s", "host.failures")


@dataclass(frozen=True)
class Seed:
    """How one seed went."""

    seed: int
    rows: list[Row]
    """of its metrics, in the order in which they were written"""
    result: Row | None
    """of the closing table; None while it goes on, or if it was stopped"""

    @property
    def steps(self) -> int:
        """Environment steps that it took."""
        return int(self.rows[-1]["env_steps"]) if self.rows else 0


@dataclass(frozen=True)
class ReadRun:
    """One run folder."""

    folder: RunFolder
    config: TrainConfig
    spec: EnvSpec
    recorded: dict[str, Any]
    seeds: list[Seed]

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def finished(self) -> bool:
        """Whether it took all its steps."""
        return all(seed.result is not None for seed in self.seeds)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration, flat: dotted names."""
        return flat(asdict(self.config))

    @cached_property
    def method(self) -> dict[str, Any]:
        """What of it makes a method."""
        return {
            name: value
            for name, value in self.settings.items()
            if name not in ASIDE and not name.startswith(ASIDE_PARTS)
        }


@dataclass
class Group:
    """A method on a task."""

    task: str
    label: str
    runs: list[ReadRun]
    notes: list[str] = field(default_factory=list)

    @property
    def algo(self) -> str:
        """Its method's name."""
        return self.runs[0].config.algo

    @property
    def seeds(self) -> list[Seed]:
        """Of all its runs."""
        return [seed for run in self.runs for seed in run.seeds]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def read_run(path: Path) -> ReadRun:
    """One run.

    Raises:
        QtotError: there is none, or it is damaged.
    """
    folder = RunFolder.open(path)
    config, spec = folder.facts()
    rows, results = folder.metrics(), {row["seed"]: row for row in folder.result()}
    numbers = range(config.seed, config.seed + config.seeds)
    by_seed: dict[int, list[Row]] = {number: [] for number in numbers}
    for row in rows:
        if row["seed"] not in by_seed:
            raise QtotError(f"{path} has metrics of seed {row['seed']}, which is none of its own")
        if row.get("env_steps") is None or row.get("wall_s") is None:
            raise QtotError(f"{path / 'metrics.jsonl'} has a row without env_steps and wall_s")
        by_seed[row["seed"]].append(row)
    seeds = [Seed(number, by_seed[number], results.get(number)) for number in numbers]
    return ReadRun(folder, config, spec, folder.recorded(), seeds)


def found(paths: Sequence[Path]) -> list[Path]:
    """The run folders named, and those directly below folders that are none.

    Raises:
        QtotError: nothing there.
    """
    if not paths:
        raise QtotError("name the runs to report on: their folders, or one in which they lie")
    out: dict[Path, None] = {}
    for path in paths:
        if is_run(path):
            out[path] = None
            continue
        try:
            below = sorted(one.parent for one in path.glob("*/config.json"))
        except OSError as error:
            raise QtotError(f"{path} cannot be read ({error})") from None
        if not below:
            raise QtotError(f"{path} is not a run folder, and there is none in it")
        out |= dict.fromkeys(below)
    return list(out)


def read_runs(paths: Sequence[Path]) -> list[Group]:
    """All runs, sorted into groups, in the order in which they were named.

    Raises:
        QtotError: one is missing or damaged.
    """
    groups: dict[Any, list[ReadRun]] = {}
    for path in found(paths):
        run = read_run(path)
        key = (run.config.env, tuple(sorted((k, str(v)) for k, v in run.method.items())))
        groups.setdefault(key, []).append(run)
    made = [Group(key[0], runs[0].config.algo, runs) for key, runs in groups.items()]
    for task in dict.fromkeys(group.task for group in made):
        _tell_apart([group for group in made if group.task == task])
    for group in made:
        _without_doubles(group)
    return made


def _tell_apart(groups: Sequence[Group]) -> None:
    """Groups of one task and algorithm are called by what differs between them."""
    taken: dict[str, int] = {}
    for group in groups:
        same = [other.runs[0].method for other in groups if other.algo == group.algo]
        mine = group.runs[0].method
        differs = [n for n, value in mine.items() if any(other.get(n) != value for other in same)]
        said = [f"{name}={setting(mine[name], 4)}" for name in differs[:3]]
        label = " ".join([group.algo, *said, *(["..."] if len(differs) > 3 else [])])
        taken[label] = taken.get(label, 0) + 1
        group.label = label if taken[label] == 1 else f"{label} #{taken[label]}"


def _without_doubles(group: Group) -> None:
    """A seed that was run twice is no second sample: the longer one counts."""
    longest: dict[int, Seed] = {}
    for seed in group.seeds:
        other = longest.get(seed.seed)
        if other is None or seed.steps > other.steps:
            longest[seed.seed] = seed
    twice = len(group.seeds) - len(longest)
    if twice:
        kept = {id(seed) for seed in longest.values()}
        for run in group.runs:
            run.seeds[:] = [seed for seed in run.seeds if id(seed) in kept]
        group.runs = [run for run in group.runs if run.seeds]
        group.notes.append(
            f"{group.label} on {group.task}: {twice} seeds were run twice; the longer run counts"
        )
    ends = [seed.steps for seed in group.seeds]
    if min(ends) < 0.9 * max(ends):
        group.notes.append(
            f"{group.label} on {group.task}: its seeds ended at {min(ends):,} to {max(ends):,} "
            "steps; curves end where the first did"
        )

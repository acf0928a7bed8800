"""What trains many runs: reproduce, sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from qtot.commands.flags import Process, Switch
from qtot.config import TrainConfig
from qtot.reproduce import EXPERIMENTS
from qtot.tracking.base import Name

ABOUT_EXPERIMENTS = "; ".join(
    f"{name}: {e.about}; {e.full} on 2 cores, with --quick {e.quick}"
    for name, e in EXPERIMENTS.items()
)


@dataclass(frozen=True)
class Reproduce(Process):
    """Repeat a published experiment, and print its numbers beside the published ones."""

    experiment: Annotated[
        Literal[tuple(EXPERIMENTS)],  # pyright: ignore[reportInvalidTypeForm]
        Positional,
        arg(metavar="EXPERIMENT", help=ABOUT_EXPERIMENTS),
    ]
    quick: Switch = False
    """a smaller form, of a few minutes on 2 cores"""
    seeds: Annotated[int | None, arg(help_behavior_hint="(default: the experiment's own)")] = None
    """independent seeds (of random-matrix: games of each size)"""
    out: Annotated[
        str | None,
        arg(metavar="DIR", help_behavior_hint="(default: runs/reproduce-EXPERIMENT[-quick])"),
    ] = None
    """folder for the page, its figure and numbers, and for runs that it can go on with"""

    def execute(self) -> int:
        """The exit code says whether what should come out came out."""
        self.prepare()
        from qtot.reproduce import reproduce

        return reproduce(self.experiment, quick=self.quick, seeds=self.seeds, out=self.out)


@dataclass(frozen=True)
class Sweep(Process):
    """Train with one combination of settings after another, the next where the ones before say it
    may pay; needs qtot[sweep]. All settings of train are those of every trial. The same command
    again goes on.
    """

    config: Annotated[TrainConfig, arg(name="")]
    space: Annotated[tuple[str, ...], arg(metavar="FIELD=VALUES")]
    """what is searched: fields, named as the flags of train, with LOW..HIGH, LOW..HIGH:log or
    A,B,C, such as optimiser.lr=1e-4..3e-3:log mixer.embed=16,32,64"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for sweep.json, and a run folder for each trial"""
    trials: int = 20
    """in all, with those that are there"""
    jobs: Annotated[int | None, arg(help_behavior_hint="(default: one per core)")] = None
    """trials at once, each in a process of its own that has its share of the cores"""
    metric: Annotated[
        str | None, arg(help_behavior_hint="(default: eval/win_rate if there is one)")
    ] = None
    """key of metrics.jsonl; a trial's value is the mean of its last three, over all seeds"""
    goal: Literal["max", "min"] = "max"
    """whether more of it is better, or less"""
    prune: Switch = False
    """stop trials that are worse than the median of those before them"""
    track: Annotated[tuple[Name, ...], arg(help_behavior_hint="(default: none)")] = ()
    """trackers that get the metrics of every trial, too"""
    quiet: Switch = False
    """print nothing but errors"""

    def execute(self) -> int:
        """The exit code says whether any trial has finished."""
        from qtot.space import parse_space

        space = parse_space(self.space, self.config)
        from pathlib import Path

        from qtot.sweeping.begin import sweep
        from qtot.sweeping.search import Settings

        done = sweep(
            Path(self.out),
            self.config,
            space,
            Settings(
                trials=self.trials,
                jobs=self.jobs,
                quiet=self.quiet,
                tune=not self.no_tune,
                keep=not self.no_cache,
                track=self.track,
            ),
            metric=self.metric,
            goal=self.goal,
            prune=self.prune,
        )
        return 0 if done.ranked() else 1

"""What trains one run: train, resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from qtot.commands.flags import Process, RunEnv, RunPath, Switch, Trust
from qtot.config import TrainConfig
from qtot.tracking.base import Name
from qtot.validation import validate


@dataclass(frozen=True, kw_only=True)
class Training(Process):
    """Flags of what trains."""

    quiet: Switch = False
    """print nothing but errors"""
    hosts: Annotated[
        str | None, arg(metavar="HOSTS", help_behavior_hint="(default: this machine alone)")
    ] = None
    """train on several machines, one process each: ADDRESS:PORT,PROCESSES,INDEX with the address of
    process 0, which writes the run folder; or auto, where a cluster's manager says it all. All must
    see the run folder to resume"""
    debug_nans: Switch = False
    """look for the operation that makes the first number that is none (NaN); slow"""
    track: Annotated[
        tuple[Name, ...],
        arg(help_behavior_hint="(default: none, or those that the run has)"),
    ] = ()
    """trackers that get the metrics, too; a run that goes on keeps those that it has, and one that
    sends what it gets (wandb, online) is then to be named again"""

    def meet(self) -> None:
        """The other processes, if there are any."""
        if self.hosts is not None:
            from qtot.training.hosts import join

            join(self.hosts)


@dataclass(frozen=True)
class Train(Training):
    """Train a team; --env, --algo, --preset and --data decide the defaults of the other flags."""

    config: Annotated[TrainConfig, arg(name="")]
    out: Annotated[
        str | None, arg(metavar="DIR", help_behavior_hint="(default: runs/ENV-ALGO-TIME)")
    ] = None
    """run folder, for the configuration, metrics and parameters"""

    def execute(self) -> int:
        """Checks the configuration, then hands it over."""
        config = validate(self.config)
        self.prepare()
        self.meet()
        from qtot.api import train_config

        train_config(
            config, self.out, quiet=self.quiet, debug_nans=self.debug_nans, track=self.track
        )
        return 0


@dataclass(frozen=True)
class Resume(Training):
    """Go on with a run that was stopped, or take a finished one further."""

    run: RunPath
    steps: Annotated[int | None, arg(help_behavior_hint="(default: as many as were asked for)")] = (
        None
    )
    """environment steps of each seed at the end"""
    reschedule: Switch = False
    """let the learning rate's schedule end with the new steps; else it stays as it was"""
    env: RunEnv = None
    trust: Trust = False

    def execute(self) -> int:
        """Trains on."""
        self.prepare()
        self.meet()
        from qtot.api import resume

        resume(
            self.run,
            steps=self.steps,
            reschedule=self.reschedule,
            env=self.env,
            trust=self.trust,
            quiet=self.quiet,
            debug_nans=self.debug_nans,
            track=self.track,
        )
        return 0

"""What is looked at: report, watch, render."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from qtot.commands.flags import PolicySeed, Process, RunEnv, RunPath, Runs, Trust, Which


@dataclass(frozen=True)
class Report(Process):
    """One page of runs: curves over seeds, tables, and episodes to watch; it opens offline."""

    runs: Runs
    out: Annotated[str, arg(metavar="FILE")] = "report.html"
    """the page; its numbers are written beside it, as .csv, .tables.json and .marl-eval.json"""
    episodes: int = 2
    """recorded now where none were, of the first seed of every method on a task; 0: none"""

    def execute(self) -> int:
        """Writes it, and says where."""
        self.prepare()
        from qtot.api import report

        for path in report(self.runs, self.out, episodes=self.episodes):
            print(f"{path}  {path.stat().st_size:,} bytes")  # noqa: T201
        return 0


@dataclass(frozen=True)
class Watch:
    """Show that page while training goes on, in a browser on this machine."""

    runs: Runs
    port: int = 0
    """of 127.0.0.1; 0: any that is free"""

    def execute(self) -> int:
        """Serves it until Ctrl-C."""
        from pathlib import Path

        from qtot.reporting.watch import watch

        watch([Path(run) for run in self.runs], self.port, lambda s: print(s, flush=True))  # noqa: T201
        return 0


@dataclass(frozen=True)
class Render(Process):
    """One greedy episode as a moving picture."""

    run: RunPath
    out: Annotated[str, arg(metavar="FILE")]
    """.gif, or .mp4 (with qtot[video])"""
    episode: int = 0
    """number of the episode, of those that 'qtot eval --record' recorded; recorded now if none of
    these parameters were"""
    which: Which = "last"
    policy_seed: PolicySeed = None
    fps: float = 8.0
    """steps per second"""
    env: RunEnv = None
    trust: Trust = False

    def execute(self) -> int:
        """Draws it."""
        self.prepare()
        from qtot.api import load, render

        run = load(self.run, which=self.which, trust=self.trust)
        frames = render(
            run,
            self.out,
            episode=self.episode,
            policy_seed=self.policy_seed,
            fps=self.fps,
            env=self.env,
        )
        print(f"{self.out}: {frames} frames")  # noqa: T201
        return 0

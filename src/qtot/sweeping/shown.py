"""What a sweep says: a line per trial, a closing table, and how to repeat the best alone."""

from __future__ import annotations

import shlex

from rich.table import Table

from qtot.config import TrainConfig
from qtot.console import Undeterred
from qtot.presets import preset_config
from qtot.space import differences, shown
from qtot.store.sweep_folder import LAST, Sweep, Trial

PIPED_WIDTH = 1000  # no row of a pipe is ever cut or folded
SHOWN = 20
"""trials that have a row of their own"""


class Screen:
    """The user's."""

    def __init__(self, trials: int, *, quiet: bool):
        self.trials, self.quiet = trials, quiet
        self.console = Undeterred(highlight=False, markup=False)
        if not self.console.is_terminal:
            self.console = Undeterred(highlight=False, markup=False, width=PIPED_WIDTH)

    def say(self, line: str) -> None:
        """One line."""
        if not self.quiet:
            self.console.print(line)

    def header(self, sweep: Sweep, jobs: int) -> None:
        """What will be done."""
        done = sum(trial.state != "running" for trial in sweep.trials)
        self.say(
            f"{self.trials} trials of {sweep.config.algo} on {sweep.config.env}, {jobs} at a time, "
            f"in {sweep.path}" + f"; {done} have ended before" * bool(sweep.trials)
        )
        for name, dimension in sweep.space.items():
            self.say(f"  {name}  {dimension}")

    def ended(self, sweep: Sweep, trial: Trial) -> None:
        """What came of a trial."""
        outcome = trial.state
        if trial.value is not None:
            outcome += f" at {sweep.metric} {trial.value:.4g}"
        self.say(
            f"{trial.name} of {self.trials}: {outcome} after {trial.seconds:.0f} s · "
            + " · ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
            + f" ({trial.reason})" * bool(trial.reason)
        )

    def closing(self, sweep: Sweep) -> None:
        """The table, the best first; what mattered; how to repeat the best."""
        if self.quiet:
            return
        ranked = sweep.ranked()
        rest = [trial for trial in sweep.trials if trial.state != "finished"]
        table = Table(title=f"{sweep.metric}, mean of the last {LAST}; {_best(sweep)} first")
        for head in ("value", *sweep.space, "seconds", "run"):
            table.add_column(head, justify="left" if head == "run" else "right")
        for trial in [*ranked, *rest][:SHOWN]:
            value = "-" if trial.value is None else f"{trial.value:.4g}"
            table.add_row(
                value if trial.state == "finished" else f"{trial.state} {value}".removesuffix(" -"),
                *(_short(trial.params[name]) for name in sweep.space),
                f"{trial.seconds:.0f}",
                str(sweep.path / trial.name),
            )
        self.console.print(table)
        if len(sweep.trials) > SHOWN:
            self.console.print(f"and {len(sweep.trials) - SHOWN} more in {sweep.path}/sweep.json")
        if sweep.importance:
            shares = (f"{name} {share:.0%}" for name, share in sweep.importance.items())
            self.console.print(f"what values depend on: {', '.join(shares)}")
        if ranked:
            command = command_of(sweep.config_of(ranked[0]))
            self.console.print(f"the best alone: {command}", soft_wrap=True)


def _best(sweep: Sweep) -> str:
    return "largest" if sweep.goal == "max" else "smallest"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else shown(value)  # pyright: ignore[reportArgumentType]


def command_of(config: TrainConfig) -> str:
    """The ``qtot train`` that trains it."""
    words = ["qtot", "train", "--env", config.env, "--algo", config.algo]
    if config.preset != TrainConfig.preset:
        words += ["--preset", config.preset]
    start = preset_config(config.env, config.algo, config.preset)
    if config.data != start.data:  # which decides defaults, too
        words += ["--data", config.data]
        start = preset_config(config.env, config.algo, config.preset, config.data)
    for name, value in differences(start, config).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            part, _, last = flag.rpartition(".")
            words.append(f"--{part}.{last if value else f'no-{last}'}")
        else:
            words.append(f"--{flag}")
            words += map(str, value) if isinstance(value, tuple) else [_exact(value)]
    return shlex.join(words)


def _exact(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)

"""Flags that several commands have, each described once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

Switch = Annotated[bool, FlagCreatePairsOff]
RunPath = Annotated[str, Positional, arg(metavar="RUN", help="run folder, as 'qtot train' made it")]
Runs = Annotated[
    tuple[str, ...],
    Positional,
    arg(metavar="RUN...", help="run folders, or folders in which they lie"),
]
Which = Annotated[
    Literal["last", "best"],
    arg(help="parameters at the end of training, or of the best evaluation"),
]
RunEnv = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help_behavior_hint="(default: the run's, unless your own)",
        help="environment, where it is another one of the run's shape, or your own, "
        "package.module:factory, which has to be named again: a run folder's word is not enough "
        "to import code",
    ),
]
PolicySeed = Annotated[
    int | None,
    arg(
        help="seed of the run whose policies they are",
        help_behavior_hint="(default: the first)",
    ),
]
Trust = Annotated[
    bool,
    FlagCreatePairsOff,
    arg(
        help="import the code that the run folder names: its environment, where that is your own "
        "or from pettingzoo/ or gym/, and a network of your own (--agent.module)"
    ),
]


@dataclass(frozen=True, kw_only=True)
class Process:
    """Flags of every command that runs JAX."""

    no_cache: Switch = False
    """keep no compiled programs on disk, and use none (see also QTOT_CACHE)"""
    no_tune: Switch = False
    """leave devices, allocator and time-outs of the process as they are (see also QTOT_TUNE)"""

    def prepare(self) -> None:
        """Before anything else imports JAX."""
        from qtot.process import prepare

        prepare(tune=not self.no_tune, keep=not self.no_cache)

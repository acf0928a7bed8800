"""The commands, in the order in which help lists them.

A command is a dataclass of its flags, and what it does with them; those of ``train`` are generated
from ``TrainConfig``. JAX is imported by what they call, never by these files.
"""

from __future__ import annotations

from typing import Protocol

from qtot.commands.environments import CheckEnv, Envs
from qtot.commands.looking import Render, Report, Watch
from qtot.commands.many import Reproduce, Sweep
from qtot.commands.policies import Evaluate, Export, ImportPymarl, Play
from qtot.commands.training import Resume, Train


class Command(Protocol):
    """Flags, once they were parsed."""

    def execute(self) -> int:
        """Does what the flags say; returns the exit code."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "resume": Resume,
    "eval": Evaluate,
    "play": Play,
    "report": Report,
    "watch": Watch,
    "render": Render,
    "export": Export,
    "import-pymarl": ImportPymarl,
    "envs": Envs,
    "reproduce": Reproduce,
    "sweep": Sweep,
    "check-env": CheckEnv,
}

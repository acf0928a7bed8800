"""What an environment is: envs, check-env."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from qtot.commands.flags import Process
from qtot.envs.host.config import HostConfig


@dataclass(frozen=True)
class Envs:
    """List the environments with their facts."""

    family: Annotated[
        str | None, Positional, arg(metavar="[FAMILY]", help_behavior_hint="(default: all)")
    ] = None
    """list one family only"""

    def execute(self) -> int:
        """Prints."""
        from qtot.listing import print_environments

        print_environments(self.family)
        return 0


@dataclass(frozen=True)
class CheckEnv(Process):
    """Play an environment at random and say what is wrong with it; exit code 1 if training breaks.

    Notices, which are right if they are meant, do not count.
    """

    target: Annotated[str, Positional, arg(metavar="TARGET")]
    """environment, FAMILY/TASK or your own"""
    host: HostConfig = field(default_factory=HostConfig)
    steps: Annotated[int | None, arg(help_behavior_hint="(default: some episodes' worth)")] = None
    """transitions to play (in each of 8 copies, where the environment is written in JAX)"""
    seed: int = 0
    """decides episodes and actions"""

    def execute(self) -> int:
        """Prints the report."""
        from qtot.envs import is_in_graph
        from qtot.envs.check_any import check_any

        if is_in_graph(self.target):
            self.prepare()
        report = check_any(self.target, steps=self.steps, seed=self.seed, config=self.host)
        print(report)  # noqa: T201
        return 0 if report.ok else 1

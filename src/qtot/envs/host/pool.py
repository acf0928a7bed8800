"""Many environments on one board, stepped in this process or in others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import Board
from qtot.envs.host.config import HostConfig
from qtot.envs.host.in_process import InProcess
from qtot.envs.host.player import Failure
from qtot.envs.host.processes import Processes
from qtot.envs.spec import EnvSpec
from qtot.process import cores


class Pool(Protocol):
    """n environments on a board, in groups that are stepped independently of each other."""

    spec: EnvSpec
    board: Board
    failures: list[Failure]
    """since someone looked"""

    def send(self, group: int, t: int | None) -> None:
        """Play slot ``t`` of a group's environments; with None, open episodes at slot 0."""
        ...

    def wait(self, group: int) -> None:
        """Until that is done.

        Raises:
            QtotError: they fail again and again.
        """
        ...

    def close(self) -> None:
        """End everything."""
        ...


def make_pool(
    make: Callable[[], HostEnv],
    spec: EnvSpec,
    config: HostConfig,
    *,
    slots: int,
    n: int,
    groups: int,
    whole: bool,
) -> Pool:
    """A pool as ``config.workers`` says.

    Args:
        make: one environment; closures are fine, since cloudpickle carries them.
        spec: what it is.
        config: workers, time-outs, patience.
        slots: T of the board.
        n: environments.
        groups: equal parts of them, side by side on the board.
        whole: whole episodes only: one that fails is not begun again in between.
    """
    places = [tuple(map(int, part)) for part in np.split(np.arange(n), groups)]
    if config.workers == 0:
        return InProcess(make, spec, config, slots=slots, groups=places, whole=whole)
    workers = worker_count(config, n)
    return Processes(make, spec, config, slots=slots, groups=places, whole=whole, workers=workers)


def worker_count(config: HostConfig, n: int) -> int:
    """Processes for n environments; 0 where there are none."""
    return min(config.workers if config.workers >= 0 else cores(), n)

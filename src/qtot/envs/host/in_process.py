"""Environments in this process: no isolation, but a debugger sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import private
from qtot.envs.host.config import HostConfig
from qtot.envs.host.player import Failure, Player
from qtot.envs.host.strikes import Strikes
from qtot.envs.spec import EnvSpec


class InProcess:
    """A ``Pool`` that steps when it is told to, and has nothing to wait for."""

    def __init__(
        self,
        make: Callable[[], HostEnv],
        spec: EnvSpec,
        config: HostConfig,
        *,
        slots: int,
        groups: Sequence[tuple[int, ...]],
        whole: bool,
    ):
        n = sum(map(len, groups))
        self.spec, self.groups = spec, groups
        self.board, self.failures = private(spec, slots, n), list[Failure]()
        self.strikes = Strikes(n, 1, config.failures)
        self.player = Player(
            make,
            spec,
            self.board,
            range(n),
            whole=whole,
            patience=config.failures,
            again=False,
            told=self._told,
        )

    def _told(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.strikes.count(failure, 0)

    def send(self, group: int, t: int | None) -> None:
        """Does it at once."""
        envs = self.groups[group]
        if t is None:
            self.player.begin(envs)
        else:
            self.player.slot(envs, t)
            self.strikes.forget(np.array(envs)[self.board.ended[t, envs]], 0)

    def wait(self, group: int) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Close the environments."""
        self.player.close()

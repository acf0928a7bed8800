"""How many failures in a row are put up with."""

from __future__ import annotations

import numpy as np

from qtot.envs.host.player import Failure
from qtot.errors import QtotError


class Strikes:
    """Failures in a row of each environment, and of each process."""

    def __init__(self, n: int, workers: int, patience: int):
        self.patience = patience
        self.of_env = np.zeros(n, np.int64)
        self.of_worker = np.zeros(workers, np.int64)

    def count(self, failure: Failure, worker: int) -> None:
        """One more.

        Raises:
            QtotError: it is enough.
        """
        if len(failure.envs) == 1 and failure.envs[0] >= 0:
            self.of_env[failure.envs[0]] += 1
            strikes = self.of_env[failure.envs[0]]
        else:
            self.of_worker[worker] += 1
            strikes = self.of_worker[worker]
        if strikes >= self.patience:
            raise gave_up(failure, int(strikes))

    def forget(self, envs: np.ndarray, worker: int) -> None:
        """These have finished an episode."""
        if len(envs):
            self.of_env[envs] = 0
            self.of_worker[worker] = 0


def gave_up(failure: Failure, strikes: int) -> QtotError:
    """What ends a run."""
    return QtotError(
        f"environments failed {strikes} times in a row without finishing an episode "
        f"(--host.failures allows fewer than that); the last: {failure.what}{end_of(failure)}"
    )


def end_of(failure: Failure) -> str:
    """The end of its traceback, in one line."""
    last = " | ".join(failure.traceback.strip().splitlines()[-8:])
    return f". Traceback: {last}" if last else ""

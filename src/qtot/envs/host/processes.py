"""Environments in worker processes; what crashes, hangs or fails is replaced and told of."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Sequence

import cloudpickle
import numpy as np

from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import RUNNING, shared
from qtot.envs.host.child import Child
from qtot.envs.host.config import HostConfig
from qtot.envs.host.player import Failure
from qtot.envs.host.strikes import Strikes, end_of
from qtot.envs.host.worker import BROKEN, DONE, FAILED, ORDER, QUIT, Job
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError

MAKING = 5.0
"""making environments may take so many times as long as an answer"""


class Processes:
    """A ``Pool`` of worker processes, with equally many of each group's environments."""

    def __init__(
        self,
        make: Callable[[], HostEnv],
        spec: EnvSpec,
        config: HostConfig,
        *,
        slots: int,
        groups: Sequence[tuple[int, ...]],
        whole: bool,
        workers: int,
    ):
        n = sum(map(len, groups))
        self.spec, self.config, self.failures = spec, config, list[Failure]()
        self.board, self.fd = shared(spec, slots, n)
        self.strikes = Strikes(n, workers, config.failures)
        try:
            pickled = cloudpickle.dumps(make)
        except Exception as error:
            raise QtotError(
                f"the environment's factory cannot be sent to worker processes ({error}); keep "
                "what cannot be copied out of it (open files, locks), or use --host.workers 0"
            ) from None
        shares = [np.array_split(np.array(group), workers) for group in groups]
        for share in shares[1::2]:  # who has fewer of one group has more of the other
            share.reverse()
        self.sent: dict[int, int | None] = {}
        """orders that groups carry out: the slot, or None to begin"""
        self.workers: list[Child] = []
        try:
            for w in range(workers):
                job = Job(
                    make=pickled,
                    spec=spec,
                    slots=slots,
                    n=n,
                    groups=tuple(tuple(map(int, share[w])) for share in shares),
                    whole=whole,
                    patience=config.failures,
                    again=False,
                )
                self.workers.append(Child(self.fd, job))
        except BaseException:
            self.close()
            raise

    def send(self, group: int, t: int | None) -> None:
        """Tell all workers."""
        self.sent[group] = t
        for worker in self.workers:
            if worker.job.groups[group]:
                worker.order(group, t)

    def wait(self, group: int) -> None:
        """Until all workers have done it; one that crashes or hangs is replaced meanwhile."""
        for w in range(len(self.workers)):
            while not self._answered(w, group):
                pass
        t = self.sent.pop(group)
        if t is not None:
            for w, worker in enumerate(self.workers):
                envs = np.array(worker.job.groups[group], np.int64)
                self.strikes.forget(envs[self.board.ended[t, envs]], w)

    def _answered(self, w: int, group: int) -> bool:
        """Hear what a worker has to say, perhaps that it has done what this group waits for."""
        worker = self.workers[w]
        if group not in worker.waiting:
            return True
        made = worker.waiting[0] in worker.made
        patience = self.config.timeout_s * (1.0 if made else MAKING)
        try:
            if not worker.speaks(patience):
                raise TimeoutError(f"no answer within {patience:g} s (--host.timeout-s)")
            said = worker.pipe.recv_bytes()
        except (EOFError, OSError, TimeoutError) as error:
            self._replace(w, error)
            return False
        kind, rest = said[:1], said[1:]
        if kind == DONE:
            worker.made.add(worker.waiting.pop(0))
        elif kind == FAILED:
            worker.made.discard(worker.waiting[0])  # another one is made now
            self._count(pickle.loads(rest), w)
        elif kind == BROKEN:
            failure: Failure = pickle.loads(rest)
            self.failures.append(failure)
            raise QtotError(
                f"a worker process cannot make or step its environments: {failure.what}"
                f"{end_of(failure)}"
            )
        return False

    def _count(self, failure: Failure, w: int) -> None:
        self.failures.append(failure)
        self.strikes.count(failure, w)

    def _replace(self, w: int, error: Exception) -> None:
        """A new process for the environments of one that is lost; it gets the same orders."""
        worker = self.workers[w]
        hangs = isinstance(error, TimeoutError)
        what, stacks = worker.end(hangs=hangs)
        envs = tuple(e for group in worker.job.groups for e in group)
        running = [e for e in envs if self.board.phase[e] == RUNNING]
        told = f"worker {w} hangs: {error}" if hangs else f"worker {w} died ({what})"
        waiting = list(worker.waiting)
        self.workers[w] = new = Child(self.fd, worker.job._replace(again=True))
        # More than one, so that it is held against the process.
        self._count(Failure((-1, *running), told, stacks, len(running)), w)
        for group in waiting:
            new.order(group, self.sent[group])

    def close(self) -> None:
        """Tell all to end, and see to it that they do."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.pipe.send_bytes(ORDER.pack(QUIT, 0, 0))
        deadline = time.monotonic() + 5.0
        for worker in self.workers:
            worker.close(deadline)
        self.workers = []
        with contextlib.suppress(OSError):
            os.close(self.fd)
        self.fd = -1

"""Environments in worker processes, or in this one; what fails is replaced and told of."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import numpy as np

from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import RUNNING, Board, private, shared
from qtot.envs.host.config import HostConfig
from qtot.envs.host.player import Failure, Player
from qtot.envs.host.worker import BEGIN, BROKEN, DONE, FAILED, ORDER, QUIT, SLOT, Job
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.process import cores

MAKING = 5.0
"""making environments may take so many times as long as an answer"""


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
        f"(--host.failures allows fewer than that); the last: {failure.what}{_end_of(failure)}"
    )


def _end_of(failure: Failure) -> str:
    last = " | ".join(failure.traceback.strip().splitlines()[-8:])
    return f". Traceback: {last}" if last else ""


class InProcess:
    """Environments in this process: no isolation, but a debugger sees them."""

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


class Processes:
    """Environments in worker processes, of each group equally many in each."""

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
        self.workers: list[Worker] = []
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
                self.workers.append(Worker(self.fd, job))
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
                f"{_end_of(failure)}"
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
        self.workers[w] = new = Worker(self.fd, worker.job._replace(again=True))
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


START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from qtot.envs.host.worker import main; main(*map(int, sys.argv[2:]))"
)


class Worker:
    """One process, as its parent sees it."""

    def __init__(self, board: int, job: Job):
        self.job = job
        self.made: set[int] = set()
        """groups whose environments are known to be made"""
        self.waiting: list[int] = []
        """groups whose orders it has not answered, in order"""
        ours, theirs = _pair()
        lifeline, self._alive = os.pipe()
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        files = (theirs, lifeline, board, self._stacks.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, _path(), *map(str, files)],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        os.close(theirs)
        os.close(lifeline)
        self.pipe = Connection(ours)
        with contextlib.suppress(OSError):  # one that has died says so when it is waited for
            self.pipe.send_bytes(pickle.dumps(job))

    def order(self, group: int, t: int | None) -> None:
        """Have something done."""
        self.waiting.append(group)
        kind = BEGIN if t is None else SLOT
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(ORDER.pack(kind, t or 0, group))

    def speaks(self, patience: float) -> bool:
        """Within so many seconds; also if it has died, since its pipe may be held open by what its
        environments have started.
        """
        deadline = time.monotonic() + patience
        while not self.pipe.poll(max(min(deadline - time.monotonic(), 0.5), 0.0)):
            if self.process.poll() is not None and not self.pipe.poll():
                raise EOFError
            if time.monotonic() >= deadline:
                return False
        return True

    def end(self, *, hangs: bool) -> tuple[str, str]:
        """Kill it if need be; how it ended, and the stacks that it left."""
        if hangs:
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGUSR1)
            self._stacks_written()
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        code = self.process.poll()
        self._kill()
        what = f"exit code {code}"
        if code is not None and code < 0:
            what = f"signal {_name(-code)}"
        self._stacks.seek(0)
        stacks = self._stacks.read().decode(errors="replace")
        self._give_back()
        return what, stacks

    def _stacks_written(self) -> None:
        size = 0
        for _ in range(20):
            time.sleep(0.1)
            before, size = size, os.fstat(self._stacks.fileno()).st_size
            if before == size > 0 or self.process.poll() is not None:
                break

    def close(self, deadline: float) -> None:
        """Wait for it to end until then, or end it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(deadline - time.monotonic(), 0.0))
        self._kill()
        self._give_back()

    def _kill(self) -> None:
        """With whatever processes its environments have started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _give_back(self) -> None:
        self.pipe.close()
        self._stacks.close()
        with contextlib.suppress(OSError):
            os.close(self._alive)


def _pair() -> tuple[int, int]:
    """Two ends of a way to talk."""
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the many without a name
        return str(number)


def _path() -> str:
    """What can be imported here can be imported there, also what was before ``os.chdir``."""
    path = [entry for entry in sys.path if isinstance(entry, str)]  # as Python does, others are not
    found = [str(Path(entry or ".").absolute()) for entry in path]
    return json.dumps(list(dict.fromkeys([*found, *_homes(found)])))


def _homes(known: list[str]) -> list[str]:
    """Folders that imported modules came from, and that are not on the path any more."""
    homes = {}
    for name, module in list(sys.modules.items()):
        spec: Any = getattr(module, "__spec__", None)
        if "." in name or type(getattr(spec, "loader", None)) is not SourceFileLoader:
            continue
        file = Path(spec.origin)
        home = str(file.parent.parent if spec.submodule_search_locations else file.parent)
        if home not in known and spec.name == name:
            homes[home] = True
    return list(homes)


def _environment() -> dict[str, str]:
    """A worker uses one core, and no GPU unless its user says so."""
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**alone, "JAX_PLATFORMS": "cpu", **os.environ}

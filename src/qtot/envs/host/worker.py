"""A process that steps environments. It imports neither JAX nor the script that trains.

The parent starts it with ``python -c``, hands it open files by number, and tells it the rest in its
first message. It ends when it is told to, and when the parent is gone, however that went.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import struct
import subprocess
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import mapped
from qtot.envs.host.player import Failure, Player
from qtot.envs.spec import EnvSpec

BEGIN, SLOT, QUIT = b"B", b"S", b"Q"
ORDER = struct.Struct("<cqq")
"""what to do, a slot, a group"""
DONE, FAILED, BROKEN = b"d", b"f", b"b"
"""the order is carried out; a failure, which is told of; nothing more can be done"""


class Job(NamedTuple):
    """The first message."""

    make: bytes
    """pickled by cloudpickle, ``() -> HostEnv``"""
    spec: EnvSpec
    slots: int
    n: int
    groups: tuple[tuple[int, ...], ...]
    """this worker's environments, group by group"""
    whole: bool
    patience: int
    again: bool


def main(orders: int, lifeline: int, board: int, stacks: int) -> None:
    """Serve until told to end; the numbers are of open files."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for fd in (orders, lifeline, board, stacks):
        os.set_inheritable(fd, False)  # not for what environments start
    _die_with_parent(lifeline)
    os.close(lifeline)
    faulthandler.enable(stacks)  # a crash leaves its stack where the parent reads it
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    # A cluster tells the whole group; when to end is the parent's to say. Not ignored, which what
    # environments start would inherit.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    _let_parent_run()
    parent = Connection(orders)
    try:
        job: Job = pickle.loads(parent.recv_bytes())
        try:
            make = pickle.loads(job.make)
        except BaseException as error:  # a module of the user's may do anything
            parent.send_bytes(BROKEN + pickle.dumps(Failure.of(error, ())))
            return
        _serve(parent, job, make, board)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except BaseException as error:
        parent.send_bytes(BROKEN + pickle.dumps(Failure.of(error, ())))


def _serve(parent: Connection, job: Job, make: Callable[[], HostEnv], board: int) -> None:
    def told(failure: Failure) -> None:
        parent.send_bytes(FAILED + pickle.dumps(failure))

    player = Player(
        make,
        job.spec,
        mapped(board, job.spec, job.slots, job.n),
        [e for group in job.groups for e in group],
        whole=job.whole,
        patience=job.patience,
        again=job.again,
        told=told,
    )
    acts: dict[bytes, Any] = {BEGIN: player.begin, SLOT: player.slot}
    while True:
        order, t, group = ORDER.unpack(parent.recv_bytes())
        if order == QUIT:
            player.close()
            return
        acts[order](job.groups[group], t)
        parent.send_bytes(DONE)


def _let_parent_run() -> None:
    """A worker that is given an order must not take the core on which its parent goes on to give
    the others theirs.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _die_with_parent(lifeline: int) -> None:
    """Also in the middle of a step that never returns. Nobody writes to the lifeline: that it ends
    says that the parent has.
    """
    # A process of its own in this one's group: it needs no lock of Python's, and takes along what
    # environments have started.
    subprocess.Popen(
        ["/bin/sh", "-c", "trap '' TERM; read -r _; kill -9 0"],
        stdin=lifeline,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

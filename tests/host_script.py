"""Plays a pool until someone ends it: a parent for the tests of what workers outlive.

``python host_script.py MODE SECONDS`` prints the workers' numbers, then ``stepping``.
"""

from __future__ import annotations

import signal
import sys
import time
from functools import partial

import numpy as np

import faulty_hosts as faults
from faulty_hosts import SPEC, Parent, Planned
from qtot.envs.host.config import HostConfig
from qtot.envs.host.pool import make_pool
from qtot.envs.host.processes import Processes

FAULTS = {"stepping": None, "sleeping": faults.sleep, "spinning": faults.spin, "in C": faults.hold}


def main(mode: str, seconds: float) -> None:
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = {"length": 9}
    if FAULTS.get(mode):
        plan |= {"at": 4, "fault": FAULTS[mode]}
    if mode == "starting":
        plan |= {"at": 0, "fault": faults.sleep}
    make = Parent if mode == "parents" else partial(Planned, {}, plan)
    config = HostConfig(workers=2, timeout_s=600.0)
    pool = make_pool(make, SPEC, config, slots=1, n=4, groups=2, whole=False)
    assert isinstance(pool, Processes)
    try:
        print(*(worker.process.pid for worker in pool.workers), flush=True)  # noqa: T201
        pool.board.left[:] = 2**40
        pool.board.salt[:] = np.arange(4)[:, None]
        for group in (0, 1):
            pool.send(group, None)
        if mode == "starting":
            print("stepping", flush=True)  # noqa: T201
        for group in (0, 1):
            pool.wait(group)
        print("stepping", flush=True)  # noqa: T201
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pool.board.ended[:] = False
            pool.board.action[0] = pool.board.avail_actions[0].argmax(-1)
            for group in (0, 1):
                pool.send(group, 0)
            for group in (0, 1):
                pool.wait(group)
            pool.board.turn()
    finally:
        pool.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

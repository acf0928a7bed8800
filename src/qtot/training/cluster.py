"""Ray, found or started: the only module that connects to it. Nothing is reported to its makers."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType

from qtot.errors import QtotError
from qtot.process import cores

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # which Ray would send to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning for everyone
}
ANSWER = 10.0
"""seconds that a cluster may take to be there"""


def installed() -> ModuleType:
    """Ray itself.

    Raises:
        QtotError: it is missing.
    """
    os.environ.update(QUIET)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise QtotError(
            f"--collectors ray needs Ray ({error}); install it: pip install 'qtot[ray]'"
        ) from None


class Cluster:
    """A connection: to Ray as this process has it already, to a cluster, or to one of our own."""

    def __init__(self, address: str, cpus: int):
        """Connect.

        Args:
            address: ``auto`` or ``HOST:PORT``; empty: start one here.
            cpus: that one of our own has at least; it may have more than there are cores.

        Raises:
            QtotError: Ray is missing, or cannot be reached or started.
        """
        self.ray, self.ours = installed(), False
        if self.ray.is_initialized():
            return
        if address.startswith("ray://"):
            raise QtotError(
                f"--ray-address {address}: a client's address cannot be trained on; run qtot on a "
                "machine of the cluster, with auto"
            )
        try:
            if address:
                _someone_answers(address)
            with _own_signals(), warnings.catch_warnings():
                # Its servers are started by a fork, which JAX warns of, and another program.
                warnings.simplefilter("ignore")
                self.ray.init(
                    address=address or "local",
                    include_dashboard=None if address else False,
                    num_cpus=None if address else max(cores(), cpus),
                    # One of our own is for this machine alone.
                    _node_ip_address=None if address else "127.0.0.1",
                    log_to_driver=False,
                    logging_level="ERROR",
                )
        except Exception as error:  # of many kinds, by version
            what = f"join Ray at {address}" if address else "start Ray"
            said = str(error).strip().splitlines() or [type(error).__name__]
            self.ray.shutdown()
            raise QtotError(f"cannot {what}: {said[0]} (--ray-address)") from None
        self.ours = True

    def cpus(self) -> int:
        """Of all machines, free or not."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    def nodes(self) -> int:
        """Machines."""
        return sum(node["Alive"] for node in self.ray.nodes())

    def close(self) -> None:
        """Leave it; one that was started for this run ends."""
        if self.ours:
            self.ours = False
            with _own_signals():
                self.ray.shutdown()


def _someone_answers(address: str) -> None:
    """Ray itself tries for minutes.

    Raises:
        Exception: of many kinds; nobody does.
    """
    services = importlib.import_module("ray._private.services")
    found = services.canonicalize_bootstrap_address(address)
    if found is None:
        raise ConnectionError("no cluster runs on this machine ('ray start' begins one)")
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes over what ends a process; whoever had a way of his own keeps it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler not in (None, signal.SIG_DFL):
                signal.signal(number, handler)

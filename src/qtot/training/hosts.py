"""Training on several hosts: one process each, all of which run the same program (jax.distributed).

Every process is given the same configuration. The first alone writes and speaks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtot.config import TrainConfig
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.store.run_folder import RunFolder, Which

HOSTS = re.compile(r"(?P<address>[^,]+:\d+),(?P<count>\d+),(?P<index>\d+)")


def join(hosts: str) -> None:
    """Meet the other processes; before JAX is used for anything else.

    Args:
        hosts: ``address:port,processes,index``, the address being that of the process with index
            0; or ``auto``, where a cluster's manager (Slurm, Open MPI, Kubernetes) says it all.

    Raises:
        QtotError: it reads otherwise, or the others cannot be met.
    """
    given = HOSTS.fullmatch(hosts)
    if hosts != "auto" and (given is None or int(given["index"]) >= int(given["count"])):
        raise QtotError(
            "--hosts must be auto, or address:port,processes,index with the index counted from 0, "
            f"such as 10.0.0.1:1234,2,0; got {hosts!r}"
        )
    try:
        if given is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(given["address"], int(given["count"]), int(given["index"]))
    except (RuntimeError, ValueError) as error:
        raise QtotError(f"--hosts {hosts}: the processes did not meet ({error})") from error


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def fetch(tree: Any) -> Any:
    """As NumPy arrays on every host, wherever the parts lie. All processes must call it."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    from jax.experimental.multihost_utils import process_allgather

    return jax.tree.map(np.asarray, process_allgather(tree, tiled=True))


def anyone(flag: bool) -> bool:
    """Whether any process says so. All must call it."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental.multihost_utils import process_allgather

    return bool(process_allgather(np.array([flag])).any())


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what may be refused on one host alone, so that none waits for one that has stopped.

    Raises:
        QtotError: on every host, if it was raised on any.
    """
    wrong: QtotError | None = None
    try:
        yield
    except QtotError as error:
        wrong = error
    if anyone(wrong is not None):
        raise wrong or QtotError("another process could not start; it says why")


def create_folder(
    path: Path, facts: dict[str, Any], config: TrainConfig, spec: EnvSpec
) -> RunFolder:
    """The run folder, which the first process makes and alone writes.

    Raises:
        QtotError: it cannot be made.
    """
    return RunFolder.create(path, facts) if leads() else _Unwritten(path, config, spec)


def reopened_folder(folder: RunFolder, config: TrainConfig, spec: EnvSpec) -> RunFolder:
    """The same of a run that goes on: all processes have read it."""
    return folder if leads() else _Unwritten(folder.path, config, spec)


class _Unwritten(RunFolder):
    """Where another process writes, perhaps out of sight."""

    def __init__(self, path: Path, config: TrainConfig, spec: EnvSpec):
        super().__init__(path)
        self._facts = config, spec

    def facts(self) -> tuple[TrainConfig, EnvSpec]:
        return self._facts

    def append(self, rows: list[dict[str, Any]]) -> None:
        pass

    def save(self, which: Which, seed: int, tree: Any) -> None:
        pass

    def close(self, result: list[dict[str, Any]]) -> None:
        pass

    def held(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def reopen(self, facts: dict[str, Any], step: int, metrics_bytes: int) -> None:
        pass

    @property
    def metrics_bytes(self) -> int:
        return 0

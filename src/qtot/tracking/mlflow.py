"""MLflow: where it would track by itself, which MLFLOW_TRACKING_URI says, or its local default."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qtot.errors import QtotError
from qtot.tracking.base import Facts, Row, Status, package

STATUSES: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
PARAMS, METRICS = 100, 1_000
"""that MLflow takes at once"""
LONGEST = 200
"""bytes in the name of a scalar"""


class Tracker:
    """One run per seed, in one experiment, with the run folder's name as a tag to group by."""

    rewinds, sends = False, False

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent unasked
        self._mlflow: Any = package("mlflow", "mlflow")
        self._entities: Any = package("mlflow.entities", "mlflow")
        self._runs: dict[int, str] = {}
        self.said: list[str] = []

    def begin(self, facts: Facts, since: Mapping[int, int] | None) -> set[int]:
        """The runs that have our ids as tags, wherever MLflow tracks now.

        Raises:
            QtotError: its local default would lie in the run folder.
        """
        home = facts.folder.parent.resolve()
        if not self._mlflow.is_tracking_uri_set() and Path.cwd().is_relative_to(home):
            raise QtotError("its store would lie in the run folder; start qtot elsewhere")
        # MLflow tells of each table that it makes.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        with alone(self._mlflow.get_tracking_uri()):
            self._client = self._mlflow.MlflowClient()
            experiment, goes_on = self._experiment(), set()
        for seed, own in facts.ids.items():
            tagged = f"tags.`qtot.id` = '{own}'"
            found = self._client.search_runs([experiment], tagged) if since is not None else []
            if found:
                run = found[0]
                self._client.update_run(run.info.run_id, status="RUNNING")
                goes_on.add(seed)
            else:
                tags = {"qtot.id": own, "qtot.run": facts.name, "qtot.seed": str(seed)}
                name = f"{facts.name} seed {seed}"
                run = self._client.create_run(experiment, tags=tags, run_name=name)
            self._runs[seed] = run.info.run_id
            # What was said once stays: MLflow's parameters cannot change.
            config = {k: str(v) for k, v in facts.config.items() if k not in run.data.params}
            self._batch(seed, params=[self._entities.Param(k, v) for k, v in config.items()])
        self.said = [f"experiment {experiment} at {self._client.tracking_uri}"]
        return goes_on

    def _experiment(self) -> str:
        """Its id; made where it is missing, also where another process makes it now."""
        if known := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "qtot")
        for last in (False, True):
            found = self._client.get_experiment_by_name(name)
            if found is not None:
                return found.experiment_id
            try:
                return self._client.create_experiment(name)
            except self._mlflow.MlflowException:
                if last:
                    raise
        raise AssertionError

    def _batch(self, seed: int, **given: list[Any]) -> None:
        for what, size in (("params", PARAMS), ("metrics", METRICS)):
            entries = given.get(what, [])
            for at in range(0, len(entries), size):
                part = {what: entries[at : at + size]}
                self._client.log_batch(self._runs[seed], **part, synchronous=True)

    def _steps(self, seed: int, name: str) -> set[int]:
        """At which there are values."""
        return {x.step for x in self._client.get_metric_history(self._runs[seed], _named(name))}

    def log(self, rows: list[Row]) -> None:
        """As few requests as can be."""
        now = int(time.time() * 1000)
        for seed in dict.fromkeys(row.seed for row in rows):
            metrics = [
                self._entities.Metric(_named(name), float(value), now, row.step)
                for row in rows
                if row.seed == seed
                for name, value in row.values.items()
            ]
            self._batch(seed, metrics=metrics)

    def close(self, status: Status, result: list[Row]) -> None:
        """What the closing table has besides the last row, at its step; once, also where the end
        comes again.
        """
        for row in (row.beside() for row in result):
            new = {k: v for k, v in row.values.items() if row.step not in self._steps(row.seed, k)}
            self.log([row._replace(values=new)])
        for run in self._runs.values():
            self._client.set_terminated(run, STATUSES[status])


@contextlib.contextmanager
def alone(uri: str) -> Iterator[None]:
    """While a database of this machine may be made: MLflow leaves it broken where two processes
    make it at once, as the first trials of a sweep would. Its folder is what they lock.
    """
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    folder = Path(unquote(path)).parent  # of its default MLflow quotes spaces and letters
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # MLflow will say what is wrong with the folder
            if uri.startswith("sqlite:///"):
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _named(scalar: str) -> str:
    """What MLflow takes for a name, which may become that of a file: an environment's scalars may
    have any.
    """
    kind, slash, own = scalar.partition("/")
    own = re.sub(r"[^\w\-. :]", "_", own).encode()[:LONGEST].decode(errors="ignore")
    return kind + slash + (own if own.strip(".") or not slash else "_")

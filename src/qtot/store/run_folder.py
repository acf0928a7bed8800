"""The run folder. Only this layer knows its file names.

config.json       resolved configuration, environment facts, versions, git commit, device
metrics.jsonl     one JSON object per seed and log (keys: see METRICS)
params/seed-S/    last.npz and best.npz
result.json       the closing table
records/          seed-S.npz: episodes to look at (store/records.py)
tracking.json     under which id it is tracked, and what was given to whom (tracking/record.py)
tensorboard/, wandb/   a tracker's own files
checkpoints/      what ``qtot resume`` goes on from (store/checkpoints.py)
lock              held by the process that writes
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qtot.config import TrainConfig, nested_replace
from qtot.envs.spec import EnvSpec, checked_spec
from qtot.errors import QtotError
from qtot.store.checkpoints import Checkpoints
from qtot.store.files import write_json
from qtot.store.lock import only_writer
from qtot.store.params import load_params, save_params
from qtot.store.records import read_record, write_record
from qtot.validation import validate

SCHEMA = 3
OLDEST = 2
"""what is read as well: nothing but checkpoints has come since"""
Which = Literal["last", "best"]
LARGEST = 1e300
"""in size, of a number in a row; NaN is not smaller"""

# What did not happen since the last row (an episode, an update, an evaluation) has no key; a value
# that is not finite is null.
METRICS: dict[str, str] = {
    "seed": "which seed this row is about",
    "env_steps": "valid transitions taken by this seed",
    "episodes": "episodes finished by this seed",
    "updates": "learner updates done by this seed",
    "wall_s": "seconds since training began, all included but compilation",
    "compile_s": "seconds spent compiling",
    "steps_per_s": "environment steps of all seeds per second since the last row, not evaluating",
    "epsilon": "exploration rate",
    "lr": "learning rate, mean since the last row",
    "train/return": "mean raw team return of exploring episodes finished since the last row",
    "train/length": "their mean length",
    "train/win_rate": "share of them that were won (train/NAME for any other scalar of the task)",
    "env_failures": "python: failures of environments, and of their worker processes, so far",
    "discarded_episodes": "python: episodes that these cut short, and that do not count, so far",
    "loss": "mean loss since the last row: the TD error squared, and the method's other terms",
    "grad_norm": "mean global gradient norm before clipping",
    "q_tot": "mean Q_tot of the actions taken",
    "target": "mean regression target",
    "td_error_abs": "mean absolute TD error",
    "critic_loss": "cw_qmix, ow_qmix, coma: mean squared TD error of the central critic",
    "weight": "cw_qmix, ow_qmix: mean weight of a transition",
    "opt_loss": "qtran: mean squared gap to the joint Q at the greedy joint action",
    "nopt_loss": "qtran: mean squared shortfall below the joint Q at the actions taken",
    "q_taken": "coma: mean critic value of the actions taken",
    "policy_loss": "coma: mean of -advantage * log probability",
    "advantage_abs": "coma: mean absolute counterfactual advantage",
    "entropy": "coma: mean entropy of an agent's policy, in nats",
    "eval/return": "mean raw team return of greedy episodes on held-out keys",
    "eval/length": "their mean length",
    "eval/win_rate": "share of them that were won (eval/NAME for any other scalar of the task)",
    "eval/episodes": "how many greedy episodes",
}


class RunFolder:
    """A folder on disk that one run writes, and anyone may read."""

    def __init__(self, path: Path):
        self.path = path
        self._unwritten: list[str] = []
        """lines of the metrics that could not be written yet"""

    def _at(self, *parts: str) -> Path:
        """A path in the folder; nothing that is written or read lies outside.

        Raises:
            QtotError: links lead elsewhere.
        """
        path = self.path.joinpath(*parts)
        try:
            target, home = path.resolve(), self.path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise QtotError(f"{path} leads nowhere ({error})") from None
        if not target.is_relative_to(home):
            raise QtotError(f"{path} leads out of the run folder, to {target}")
        return path

    # Writing -------------------------------------------------------------------------------

    @staticmethod
    def create(path: Path, facts: dict[str, Any]) -> RunFolder:
        """A new run folder with its ``config.json``.

        Raises:
            QtotError: the folder holds a run already, or cannot be written.
        """
        folder = RunFolder(path)
        try:
            if (path / "config.json").exists():
                raise QtotError(
                    f"{path} already holds a run; go on with it: qtot resume {path}; or choose "
                    "another folder with --out, or delete it"
                )
            folder._at("params").mkdir(parents=True, exist_ok=True)
            folder._at("metrics.jsonl").write_bytes(b"")
            write_json(folder._at("config.json"), {"schema": SCHEMA, **facts})
        except OSError as error:
            raise QtotError(
                f"cannot write the run folder {path} ({error.strerror}); choose another with --out"
            ) from None
        return folder

    def held(self) -> AbstractContextManager[None]:
        """By this process alone; made where it is missing.

        Raises:
            HeldError: another one writes it.
            QtotError: it cannot be written.
        """
        return only_writer(self._at("lock"))

    def recorded(self) -> dict[str, Any]:
        """``config.json`` as it is.

        Raises:
            QtotError: it cannot be read, or is from a version that this one does not know.
        """
        path = self.path / "config.json"
        try:
            facts = json.loads(self._read("config.json") or "")
            schema = facts["schema"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, QtotError):
                raise
            raise QtotError(f"{path} is not a qtot run's configuration ({error!r})") from None
        if type(schema) is not int or not OLDEST <= schema <= SCHEMA:
            raise QtotError(
                f"{path} has schema {str(schema)[:80]}, this version reads {OLDEST} to {SCHEMA}; "
                "use the version that wrote it"
            )
        return facts

    @property
    def checkpoints(self) -> Checkpoints:
        """What the run can go on from."""
        return Checkpoints(self._at("checkpoints"))

    def reopen(self, facts: dict[str, Any], step: int, metrics_bytes: int) -> None:
        """To go on from the checkpoint of ``step``: what came after it will come again.

        Raises:
            QtotError: the folder cannot be written.
        """
        try:
            if self.metrics_bytes < metrics_bytes:
                raise QtotError(
                    f"{self.path / 'metrics.jsonl'} is shorter than when the checkpoint was "
                    f"written ({metrics_bytes} bytes); take another copy of the run"
                )
            write_json(self._at("config.json"), {**self.recorded(), **facts, "schema": SCHEMA})
            self._at("result.json").unlink(missing_ok=True)
            os.truncate(self._at("metrics.jsonl"), metrics_bytes)
            self.checkpoints.tidy(step)
            for left in [*self.path.glob(".*.json.*"), *self._at("params").glob("*/.*.npz.*")]:
                left.unlink(missing_ok=True)  # of a write that was killed
        except OSError as error:
            raise QtotError(f"cannot write the run folder {self.path} ({error})") from None

    @property
    def metrics_bytes(self) -> int:
        """How much of the metrics has been written."""
        try:
            return self._at("metrics.jsonl").stat().st_size
        except OSError:
            return 0

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Rows to ``metrics.jsonl``, on disk when this returns.

        Raises:
            OSError: they could not be written; they will be, with the next ones.
        """
        self._unwritten += [json.dumps(row) + "\n" for row in rows]
        self.flush()

    def flush(self) -> None:
        """Write what could not be written before; whole lines or nothing.

        Raises:
            OSError: it still cannot be.
        """
        if not self._unwritten:
            return
        with self._at("metrics.jsonl").open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = memoryview("".join(self._unwritten).encode())
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        self._unwritten.clear()

    def save(self, which: Which, seed: int, tree: Any) -> None:
        """The parameters of one seed."""
        path = self._params(which, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_params(path, tree)

    def close(self, result: list[dict[str, Any]]) -> None:
        """The closing table."""
        write_json(self._at("result.json"), result)

    def write_tracking(self, value: dict[str, Any]) -> None:
        """What ``tracking`` reads."""
        write_json(self._at("tracking.json"), value)

    def tracker_folder(self, name: str) -> Path:
        """For a tracker's own files; not made here.

        Raises:
            QtotError: a link where it would write leads out of the run folder.
        """
        folder = self._at(name)
        for path in (*folder.glob("*"), *folder.glob("seed-*/*")):
            self._at(*path.relative_to(self.path).parts)
        return folder

    def record(self, seed: int, facts: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Episodes of one seed, in place of those that were there.

        Raises:
            QtotError: they cannot be written.
        """
        path = self._record(seed)
        try:
            write_record(path, facts, arrays)
        except OSError as error:
            raise QtotError(f"cannot write {path} ({error.strerror})") from None

    # Reading -------------------------------------------------------------------------------

    @staticmethod
    def open(path: Path) -> RunFolder:
        """An existing run.

        Raises:
            QtotError: there is none, or it cannot be looked at.
        """
        if not is_run(path):
            raise QtotError(f"{path} is not a run folder: it has no config.json")
        return RunFolder(path)

    def facts(self) -> tuple[TrainConfig, EnvSpec]:
        """What was trained, and on what.

        Raises:
            QtotError: ``config.json`` is damaged or from another version.
        """
        path, facts = self.path / "config.json", self.recorded()
        try:
            config = nested_replace(TrainConfig(), _tuples(TrainConfig, facts["config"]))
            spec = EnvSpec(**_tuples(EnvSpec, facts["env"]))
            return validate(config), checked_spec(spec)
        except QtotError as error:
            raise QtotError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise QtotError(f"{path} is not a qtot run's configuration ({error!r})") from None

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``; a last line cut in the middle is left out."""
        text = self._read("metrics.jsonl") or ""
        lines = text.split("\n")[:-1]
        return [self._row("metrics.jsonl", self._parse("metrics.jsonl", x)) for x in lines]

    def tracking(self) -> Any:
        """``tracking.json``, which is not checked here; None where there is none."""
        text = self._read("tracking.json")
        return None if text is None else self._parse("tracking.json", text)

    def result(self) -> list[dict[str, Any]]:
        """The closing table, one row per seed; empty while the run goes on."""
        text = self._read("result.json")
        rows = [] if text is None else self._parse("result.json", text)
        if not isinstance(rows, list):
            raise QtotError(f"{self.path / 'result.json'} is damaged (it holds no list)")
        return [self._row("result.json", row) for row in rows]

    def _row(self, name: str, row: Any) -> dict[str, Any]:
        """Numbers by their names, or null where one was not finite."""
        fine = isinstance(row, dict) and all(
            value is None or (type(value) in (int, float) and abs(value) < LARGEST)
            for value in row.values()
        )
        if not fine or not isinstance(row.get("seed"), int):
            raise QtotError(f"{self.path / name} is damaged (no row of numbers: {str(row)[:80]})")
        return row

    def _read(self, name: str) -> str | None:
        path = self._at(name)
        try:
            if path.exists() and not path.is_file():
                raise QtotError(f"{path} is no plain file")
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise QtotError(f"{path} cannot be read ({error})") from None

    def _parse(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise QtotError(f"{self.path / name} is damaged ({error})") from None

    def load(self, which: Which, seed: int, template: Any) -> Any:
        """The parameters of one seed, in the shape of ``template``."""
        return load_params(self._params(which, seed), template)

    def digest(self, which: Which, seed: int) -> str:
        """Of the file that ``load`` reads; empty where there is none."""
        try:
            return hashlib.sha256(self._params(which, seed).read_bytes()).hexdigest()
        except OSError:
            return ""

    def has_record(self, seed: int) -> bool:
        """Whether episodes of a seed were recorded."""
        return self._record(seed).is_file()

    def read_record(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What ``record`` wrote: facts, which are not checked here, and arrays.

        Raises:
            QtotError: there is none, or it is damaged.
        """
        return read_record(self._record(seed))

    def _record(self, seed: int) -> Path:
        return self._at("records", f"seed-{seed}.npz")

    def _params(self, which: Which, seed: int) -> Path:
        return self._at("params", f"seed-{seed}", f"{which}.npz")


def is_run(path: Path) -> bool:
    """Whether a run lies there.

    Raises:
        QtotError: it cannot be looked at.
    """
    try:
        return (path / "config.json").is_file()
    except OSError as error:
        raise QtotError(f"cannot read the run folder {path} ({error.strerror})") from None


def new_folder(config: TrainConfig) -> Path:
    """A folder of its own below ``runs/``, named after task, method and time."""
    env = re.sub(r"[^\w.-]+", "-", config.env)
    name = f"{env}-{config.algo}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, n = Path("runs") / name, 1
    while path.exists():
        path, n = Path("runs") / f"{name}-{n}", n + 1
    return path


def _tuples(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where a dataclass has tuples."""
    hints, out = get_type_hints(cls), dict(values)
    for f in dataclasses.fields(cls):
        hint, value = hints[f.name], values.get(f.name)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            out[f.name] = _tuples(hint, value)  # pyright: ignore[reportArgumentType]
        elif isinstance(value, list) and _holds_tuples(hint):
            out[f.name] = _tuple(value)
    return out


def _holds_tuples(hint: Any) -> bool:
    """Whether the field is a tuple, in each of its forms."""
    forms = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return all(get_origin(form) is tuple and get_args(form) for form in forms)


def _tuple(value: Any) -> Any:
    """Lists within lists, too."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value

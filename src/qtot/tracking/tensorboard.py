"""TensorBoard: event files in ``RUN/tensorboard/seed-S``."""

from __future__ import annotations

from typing import Any

from qtot.tracking.base import Facts, Row, Status, package


class Tracker:
    """One folder of event files per seed, which TensorBoard shows as a run."""

    rewinds, sends = True, False

    def __init__(self) -> None:
        self._make: Any = package("tensorboardX", "tensorboard").SummaryWriter
        self._writers: dict[int, Any] = {}
        self.said: list[str] = []

    def begin(self, facts: Facts, known: bool) -> set[int]:
        """A new event file; where there are others, it says what of them counts no longer."""
        text = "\n".join(["| | |", "|-|-|", *(f"| {k} | {v} |" for k, v in facts.config.items())])
        for seed in facts.ids:
            folder = facts.folder / f"seed-{seed}"
            files = len(list(folder.glob("events.*")))  # two of one second must not be one
            step = facts.kept.get(seed, -1) + 1 if known else None
            writer = self._make(str(folder), purge_step=step, filename_suffix=f".{files:04d}")
            writer.add_text("config", text, step or 0)
            self._writers[seed] = writer
        self.said = [f"tensorboard --logdir {facts.folder}"]
        return set(facts.ids) if known else set()

    def log(self, rows: list[Row]) -> None:
        """On disk at once, as far as the system is concerned."""
        for row in rows:
            for name, value in row.values.items():
                self._writers[row.seed].add_scalar(name, value, row.step)
        for writer in self._writers.values():
            writer.flush()

    def close(self, status: Status, result: list[Row]) -> None:
        """What the closing table has besides the last row, at its step."""
        self.log([row.beside() for row in result])
        for writer in self._writers.values():
            writer.close()

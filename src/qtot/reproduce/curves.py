"""Learning curves over seeds: runs that can be gone on with, and figures like the papers'."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from qtot.api import Run, load, train_config
from qtot.config import TrainConfig, scheduled
from qtot.errors import QtotError
from qtot.evaluation.statistics import median_interval
from qtot.reproduce.page import Settings
from qtot.store.files import make_folder

Curves = dict[str, dict[str, list[float]]]
"""by method: ``steps``, and for each seed ``seed-S``, the metric at these steps"""


class Trained(NamedTuple):
    """All runs of an experiment."""

    curves: Curves
    seconds: float
    """training, evaluation and compilation of all runs, whenever they were made"""


def train_seeds(
    configs: Mapping[str, TrainConfig], seeds: int, metric: str, settings: Settings
) -> Trained:
    """The metric over time of every method and seed, each a run of its own below ``out/runs``.

    A seed that was finished by an earlier call is not trained again; one that was interrupted
    begins anew.
    """
    folder = make_folder(settings.out / "runs")
    # All seeds of a method are the same program: compile it once.
    with _compiled_once(make_folder(folder / "cache")):
        return _train_seeds(configs, seeds, metric, settings)


@contextlib.contextmanager
def _compiled_once(cache: Path) -> Iterator[None]:
    """Meanwhile, programs are compiled into ``cache`` and taken from there."""
    before = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 (unknown to its types)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def _train_seeds(
    configs: Mapping[str, TrainConfig], seeds: int, metric: str, settings: Settings
) -> Trained:
    folder = settings.out / "runs"
    curves: Curves = {}
    seconds = 0.0
    for name, config in configs.items():
        entry: dict[str, list[float]] = {}
        for seed in range(seeds):
            run = finished(replace(config, seed=seed), folder / f"{name}-seed-{seed}", settings)
            rows = [row for row in run.metrics() if metric in row]
            entry["steps"] = [_rounded(row["env_steps"], config) for row in rows]
            entry[f"seed-{seed}"] = [row[metric] for row in rows]
            value, result = entry[f"seed-{seed}"][-1], run.result()[0]
            seconds += result["wall_s"] + result["compile_s"]
            settings.say(f"{name} seed {seed}: {metric} {value:.3g} after {result['wall_s']:.0f} s")
        curves[name] = entry
    return Trained(curves, seconds)


def _rounded(steps: int, config: TrainConfig) -> int:
    """The evaluation's own step: rows come after an iteration, which may overshoot it."""
    every = config.evaluation.every or config.steps
    return min(steps // every * every, config.steps) if steps < config.steps else config.steps


def finished(config: TrainConfig, path: Path, settings: Settings) -> Run:
    """The run at ``path``: as it is when it is complete, else trained from the beginning.

    Raises:
        QtotError: there is another run, which is left alone.
    """
    if (path / "config.json").exists():
        run = load(path)
        if scheduled(run.config) != scheduled(config):
            raise QtotError(
                f"{path} holds a run with other settings (of the quick form, or of another "
                "version of qtot); choose another --out, or move it away"
            )
        if run.result():
            settings.say(f"{path.name}: finished before")
            return run
        shutil.rmtree(path)  # it was interrupted
    return train_config(config, path, quiet=True)


def at_seeds(entry: Mapping[str, Sequence[float]]) -> np.ndarray:
    """``[seeds, evaluations]``"""
    return np.array([values for key, values in entry.items() if key != "steps"])


def final(entry: Mapping[str, Sequence[float]]) -> list[float]:
    """The last value of every seed."""
    return [float(x) for x in at_seeds(entry)[:, -1]]


def median_cell(values: Sequence[float], form: str) -> str:
    """Median with its 95 % bootstrap interval, and every seed."""
    low, high = median_interval(values)

    def text(value: float) -> str:
        shown = format(value, form)
        return shown if any(digit in shown for digit in "123456789") else shown.lstrip("-")

    seeds = " ".join(text(v) for v in values)
    return f"{text(float(np.median(values)))} [{text(low)}, {text(high)}]\n{seeds}"


def draw_curves(ax: Any, curves: Curves, label: str) -> None:
    """Median over seeds, and the range from the lower to the upper quartile."""
    for name, entry in curves.items():
        values = at_seeds(entry)
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        (line,) = ax.plot(entry["steps"], middle, label=name)
        ax.fill_between(entry["steps"], low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(xlabel="environment steps", ylabel=label)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)

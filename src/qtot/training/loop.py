"""The host's side of a run: chunks of the program, with logging, evaluation and saving between
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtot.core.learner import PolicyParams, TrainState
from qtot.errors import QtotError
from qtot.store.run_folder import RunFolder, Which
from qtot.tracking.trackers import Trackers
from qtot.training.display import Display, named_again
from qtot.training.engine import Engine
from qtot.training.health import Health
from qtot.training.heirs import Inherit
from qtot.training.hosts import anyone, fetch, leads, together
from qtot.training.interrupt import Stopped, StopRequest
from qtot.training.keeping import Keeper, Resumed
from qtot.training.resources import peak_memory
from qtot.training.rows import closing, means_of, number, score
from qtot.training.state import Progress, RunState


def _with_copy_of_train(state: RunState) -> RunState:
    """For reading after ``state`` was given away."""
    train, where = state.seeds.train, jax.tree.map(lambda x: x.sharding, state.seeds.train)
    train = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=where)(train)
    return state._replace(seeds=state.seeds._replace(train=train))


@dataclass
class Training:
    """One run from its first step to its last."""

    engine: Engine
    folder: RunFolder
    display: Display
    began: float = 0.0
    """when compilation was done"""
    compiled_s: float = 0.0
    """seconds that it took until then"""
    best: dict[int, dict[str, float]] = field(default_factory=dict)
    """each seed's best evaluation so far"""
    episodes: Any = None
    """episodes finished so far, per seed"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """the last log"""
    looked: int = 0
    """the step of that"""
    spent: float = 0.0
    """seconds of chunks since then"""
    afresh: bool = True
    """whether nothing was done since then"""
    warned: bool = False
    full: bool = False
    """whether the disk refused the last write"""
    best_mean: tuple[float, float] = (-math.inf, -math.inf)
    """of the evaluations so far, the mean over seeds"""
    resumed: Resumed | None = None
    """where it goes on, if it does"""
    inherit: Inherit | None = None
    """puts other agents in the place of fresh ones"""
    before_s: float = 0.0
    """seconds of training before that"""
    trackers: Trackers = field(default_factory=Trackers)

    def __post_init__(self) -> None:
        program = self.engine.program
        self.config = program.config
        self.episodes = np.zeros(self.config.seeds)
        self.epsilon = jax.jit(program.learner.epsilon)
        limit = program.collector.env.spec.episode_limit
        self.health = Health(self.config, program.learner, limit)
        self.step = 0
        self.shares: dict[str, float] = {}
        """of the parts of an iteration in its time, where there was time to measure them"""
        if self.resumed is not None:
            self.step, record = self.resumed.step, self.resumed.record
            self.episodes, self.rows = np.array(record["episodes"]), record["rows"]
            self.best = {row["seed"]: row for row in record["best"]}
            self.before_s, self.warned = record["wall_s"], record["warned"]
            self.best_mean = tuple(record["best_mean"])
            self.looked, self.spent = record["looked"], record["spent"]
            self.afresh = record["afresh"]
            self.engine.counted(record["counts"])
        self.keeper = Keeper(self.folder.checkpoints, self.config.checkpoint, self.step)

    def record(self) -> dict[str, Any]:
        """What a resumed run has to know besides its state."""
        return {
            "step": self.step,
            "episodes": self.episodes.tolist(),
            "rows": self.rows,
            "best": list(self.best.values()),
            "best_mean": self.best_mean,
            "looked": self.looked,
            "spent": self.spent,
            "afresh": self.afresh,
            "warned": self.warned,
            "counts": self.engine.counts(),
            "wall_s": self.wall_s,
            "metrics_bytes": self.folder.metrics_bytes,
        }

    def run(self) -> None:
        """Train all seeds to their last step."""
        config, engine = self.config, self.engine
        self.display.say("compiling ...")
        with together():
            state = engine.start(self.resumed)
            if self.inherit is not None:
                state = self.inherit(state)
        self.compiled_s, self.began = engine.compile_s, time.perf_counter()
        self.display.compiled(engine.compile_s)
        # Evaluated and logged after the first chunk, which takes the original away: the program
        # that evaluates is compiled while that one runs.
        opening = None if self.resumed else _with_copy_of_train(state)
        with StopRequest() as self.stop:
            if self.step >= config.steps:  # all was done but its evaluation, which failed
                self._look(state)
                self._keep(state)
            while self.step < config.steps:
                # Boundaries lie at multiples of log_every, whatever one iteration collects.
                until = min((self.step // config.log_every + 1) * config.log_every, config.steps)
                began = time.perf_counter()
                with self._kept(state):
                    state = engine.chunk(state, until, self._pause, afresh=self.afresh)
                self.spent += time.perf_counter() - began
                self.afresh, self.step = False, int(fetch(state.seeds.train.env_steps).min())
                self._examine(state)
                if opening is not None:
                    self._look_back(state, opening)
                    opening = None
                if self.step >= until:
                    self._look(state)
                if not self.display.quiet:
                    left_s = self.wall_s * (config.steps / max(self.step, 1) - 1)
                    if (split := engine.split(state, left_s)) is not None:
                        self.display.time_split(split)
                        self.shares = {f"share/{name}": share for name, share in split.items()}
                self._keep(state)
        self._close()

    def _pause(self) -> bool:
        return self.stop.asked or self.keeper.due()

    def _examine(self, state: RunState) -> None:
        """Stop before a good checkpoint is followed by a bad one.

        Raises:
            QtotError: a number that is not finite was learned from.
        """
        train = state.seeds.train
        found = self.health.trouble(fetch(train.trouble))
        if found is None:
            return
        self._log(fetch(train), fetch(state.progress), None)
        self._wait()
        last = self.folder.checkpoints.all()
        where = f"the last checkpoint is of step {last[0].step:,}" if last else "none was kept"
        seed, said = found
        cause = self.engine.explain(seed) if self.engine.nans else self.health.advice
        raise QtotError(f"{said}; the run is stopped, and {where}. {cause}")

    def _look_back(self, state: RunState, opening: RunState) -> None:
        """Evaluate and log the state before the first step."""
        with self._kept(state):
            played = self._evaluate(opening, 0, self.config.evaluation.episodes)
            self._log(fetch(opening.seeds.train), None, played)

    def _look(self, state: RunState) -> None:
        """Evaluate where it is time, and log. An evaluation that fails is due again when the run
        goes on.
        """
        config, evaluation = self.config, self.config.evaluation
        every = evaluation.every or config.steps
        train = fetch(state.seeds.train)
        before, evaluated = self.looked, None
        progress = None if self.afresh else fetch(state.progress)
        with self._kept(state):
            try:
                if self.step >= config.steps:
                    evaluated = self._evaluate(state, config.steps, evaluation.final_episodes)
                elif self.step // every > before // every:
                    at = self.step // every * every
                    evaluated = self._evaluate(state, at, evaluation.episodes)
            finally:  # what was learned is told of, whatever came of its evaluation
                self._log(train, progress, evaluated)
        self.looked = self.step
        if evaluated is not None:
            self._hold_if_best(state)

    def _keep(self, state: RunState) -> None:
        """A checkpoint where it is time.

        Raises:
            QtotError: stopping was asked for, and what is needed to go on is not on disk.
            Stopped: it is.
        """
        ended = self.step >= self.config.steps
        asked = not ended and anyone(self.stop.asked)
        if asked or ended or anyone(leads() and self.keeper.due(self.step)):
            self._checkpoint(state, must=asked)
        if asked or ended:
            self._wait(must=asked)
        if asked:
            with self._to_disk("parameters"):
                self._save(fetch(state.seeds.train), "last", range(self.config.seeds))
            self.display.say(f"stopped at step {self.step:,}; go on with: {self._again}")
            raise Stopped(self.stop.signum)

    def _checkpoint(self, state: RunState, *, must: bool = False) -> None:
        """Begin one; if rows of the metrics are not on disk, there is no room for it either.

        Raises:
            QtotError: it ``must`` be written, and cannot be.
        """
        self._wait()
        room = False
        with self._to_disk("metrics", must=must):
            self.folder.flush()
            room = True
        self.keeper.keep(self.step, state, self.record(), write=room)

    def _wait(self, *, must: bool = False) -> None:
        """Until the last checkpoint is on disk, if it can be."""
        with self._to_disk("a checkpoint", must=must):
            self.keeper.wait()

    @contextmanager
    def _to_disk(self, what: str, *, must: bool = False) -> Iterator[None]:
        """A run goes on where the disk is full: it says so, and tries again at the next occasion.

        Raises:
            QtotError: it ``must`` be written, and cannot be.
        """
        try:
            yield
        except OSError as error:
            said = f"{what} could not be written to {self.folder.path} ({error})"
            last = self.folder.checkpoints.all()
            kept = f"the last checkpoint is of step {last[0].step:,}" if last else "there is none"
            if must:
                raise QtotError(f"{said}; {kept}") from None
            if not self.full:
                self.display.warn(f"{said}; going on, and trying again. So far, {kept}")
            self.full = True
        else:
            self.full = False

    @contextmanager
    def _kept(self, state: RunState) -> Iterator[None]:
        """Where the engine gives up, what was reached is saved: to go on from, once that is mended,
        and to act with.
        """
        try:
            yield
        except QtotError:
            train = fetch(state.seeds.train)
            if not self.afresh:
                self._log(train, fetch(state.progress), None)
            with self._to_disk("parameters"):
                self._save(train, "last", range(self.config.seeds))
            self._checkpoint(state)
            self._wait()
            if not self.full:
                self.display.say(f"stopped, and saved; once that is mended: {self._again}")
            for told in self.engine.told():
                self.display.warn(told)
            raise

    @property
    def _again(self) -> str:
        """The command that goes on."""
        said = named_again(self.config) + self.trackers.named_again
        return f"qtot resume {self.folder.path}{said}"

    @property
    def wall_s(self) -> float:
        """Seconds of training, all included but compilation."""
        here = time.perf_counter() - self.began - (self.engine.compile_s - self.compiled_s)
        return self.before_s + here

    def _evaluate(self, state: RunState, steps: int, episodes: int) -> dict[str, Any]:
        """At least ``episodes`` greedy episodes, in as many parts as one compiled program needs."""
        at_once = self.config.evaluation.episodes
        parts, train = -(-episodes // at_once), state.seeds.train
        played = [self.engine.evaluate(train, steps, part) for part in range(parts)]
        means = {f"eval/{k}": np.mean([p[k] for p in played], axis=0) for k in played[0]}
        return {**means, "eval/episodes": np.full(self.config.seeds, parts * at_once)}

    def _log(
        self, train: TrainState, progress: Progress | None, evaluated: dict[str, Any] | None
    ) -> None:
        """A row per seed to the metrics, a line to the user, parameters after an evaluation."""
        config = self.config
        if progress is not None:
            self.episodes = self.episodes + progress.collected.episodes
        wall_s, rows, counts = self.wall_s, [], self.engine.counts()
        epsilon = [float(self.epsilon(steps)) for steps in train.env_steps]
        for i in range(config.seeds):
            row: dict[str, Any] = {
                "seed": config.seed + i,
                "env_steps": train.env_steps[i],
                "episodes": self.episodes[i],
                "updates": train.updates[i],
                "epsilon": epsilon[i],
            }
            if progress is not None:
                row |= means_of(jax.tree.map(lambda x: x[i], progress))  # noqa: B023
                row["steps_per_s"] = progress.collected.transitions.sum() / self.spent
            row |= {k: v[i] for k, v in (evaluated or {}).items()}
            row |= {"wall_s": round(wall_s, 3), "compile_s": round(self.engine.compile_s, 3)}
            row |= counts
            rows.append({k: number(v) for k, v in row.items()})
        with self._to_disk("metrics"):
            self.folder.append(rows)
        self.trackers.log(rows)
        for told in self.engine.told():
            self.display.warn(told)
        self.display.progress(rows, wall_s)
        self._warn(rows, train)
        self.rows = rows
        if progress is not None:
            self.spent, self.afresh = 0.0, True
        if evaluated is not None:
            with self._to_disk("parameters"):
                self._save(train, "last", range(config.seeds))
                better = [i for i, row in enumerate(rows) if self._is_best(row)]
                self._save(train, "best", better)
                self.best |= {rows[i]["seed"]: rows[i] for i in better}

    def _warn(self, rows: list[dict[str, Any]], train: TrainState) -> None:
        """Say once that a run is going wrong."""
        if not self.warned and (said := self.health.warning(rows, train)):
            self.warned = True
            self.display.warn(said)

    def _hold_if_best(self, state: RunState) -> None:
        """A checkpoint of the best mean over seeds; the later of equals."""
        rates, returns = zip(*map(score, self.rows), strict=True)
        mean = float(np.mean(rates)), float(np.mean(returns))
        if mean >= self.best_mean:
            self.best_mean = mean
            self.keeper.hold_best(self.step, state, self.record())

    def _is_best(self, row: dict[str, Any]) -> bool:
        """By win rate where the task has one, then by return; the later of equals."""
        best = self.best.get(row["seed"])
        return best is None or score(row) >= score(best)

    def _save(self, train: TrainState, which: Which, seeds: Iterable[int]) -> None:
        """The networks and the statistics that belong to them."""
        for i in seeds:
            one = jax.tree.map(lambda x: x[i], train)  # noqa: B023
            self.folder.save(which, self.config.seed + i, PolicyParams.of(one))

    def _close(self) -> None:
        if not any(row["updates"] for row in self.rows):
            self.display.warn(
                "no learner update was made: the steps ended before --replay.warmup was stored; "
                "take more --steps"
            )
        result = closing(self.rows, self.best, {**peak_memory(), **self.shares})
        with self._to_disk("the closing table", must=True):
            self.folder.flush()
            self.folder.close(result)
        self.trackers.conclude(result)
        self.display.closing(result, str(self.folder.path))

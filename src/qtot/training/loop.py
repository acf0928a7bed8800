"""The host's side of a run: chunks of the program, with logging, evaluation and saving between
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qtot.config import TrainConfig, validate
from qtot.core.exploration import epsilon_at
from qtot.core.learner import PolicyParams, TrainState
from qtot.envs import make_env
from qtot.evaluation.episodes import evaluation_key, metric_name, play_greedy, summarise
from qtot.store.run_folder import RunFolder, Which
from qtot.training.display import Display
from qtot.training.ingraph import LEARN_KEYS, Program, Progress, RunState
from qtot.training.interrupt import StopRequest
from qtot.training.resources import check_memory, device_facts, git_commit, nbytes, versions
from qtot.training.timing import compile_together, parts, time_split


def run_training(config: TrainConfig, out: Path, *, quiet: bool = False) -> RunFolder:
    """Train and leave a complete run folder at ``out``.

    Raises:
        QtotError: the configuration is impossible, does not fit, or ``out`` cannot be written.
        KeyboardInterrupt: after the parameters reached so far have been saved.
    """
    config = validate(config)
    program = Program.make(make_env(config.env), config)
    spec, memory, device = program.collector.env.spec, check_memory(program), device_facts()
    facts = {
        "config": config.to_dict(),
        "env": spec.to_dict(),
        "versions": versions(),
        "git_commit": git_commit(),
        "device": device,
        "bytes": memory,
    }
    folder = RunFolder.create(out, facts)
    online = jax.eval_shape(program.init).seeds.train.online
    parameters = {k: nbytes(getattr(online, k)) // 4 // config.seeds for k in ("agent", "mixer")}
    ring = program.replay
    replay = f"{ring.rows * ring.envs:,} {config.replay.sequences} of {ring.stride} slots"
    display = Display(config, quiet=quiet)
    display.header(
        spec, device=device, parameters=parameters, memory=memory, replay=replay, out=str(out)
    )
    with display:
        Training(program, folder, display).run()
    return folder


@dataclass
class Training:
    """One run from its first step to its last."""

    program: Program
    folder: RunFolder
    display: Display
    wall_s: float = 0.0
    compile_s: float = 0.0
    best: dict[int, dict[str, float]] = field(default_factory=dict)
    """each seed's best evaluation so far"""
    episodes: Any = None
    """episodes finished so far, per seed"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """the last log"""
    compiled: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.episodes = np.zeros(self.program.config.seeds)

    def run(self) -> None:
        """Train all seeds to their last step."""
        config, evaluation = self.program.config, self.program.config.evaluation
        state = self._compile()
        self._log(state, None, self._evaluate(state, 0, evaluation.episodes), 0.0)
        every = evaluation.every or config.steps
        steps = 0
        with StopRequest() as stop:
            while steps < config.steps:
                # Boundaries lie at multiples of log_every, whatever one iteration collects.
                steps = min(self._steps(state), config.steps - 1)
                before, steps = steps, (steps // config.log_every + 1) * config.log_every
                steps = min(steps, config.steps)
                began = time.perf_counter()
                state, progress = self.compiled["chunk"](state, jnp.int32(steps))
                jax.block_until_ready(progress)
                spent = time.perf_counter() - began
                self.wall_s += spent
                evaluated = None
                if steps == config.steps:
                    evaluated = self._evaluate(state, steps, evaluation.final_episodes)
                elif steps // every > before // every:
                    evaluated = self._evaluate(state, steps, evaluation.episodes)
                self._log(state, progress, evaluated, spent)
                if stop.asked and steps < config.steps:
                    self._save(state, "last", range(config.seeds))
                    self.display.say(f"stopped; the parameters so far are in {self.folder.path}")
                    raise KeyboardInterrupt
        self._close()

    def _steps(self, state: RunState) -> int:
        return int(jnp.min(state.seeds.train.env_steps))

    def _compile(self) -> RunState:
        """Build the state and every program; show how long that took and the time split."""
        began, program = time.perf_counter(), self.program
        self.display.say("compiling ...")
        state = jax.block_until_ready(jax.jit(program.init)())
        lowered = {
            "chunk": jax.jit(program.chunk, donate_argnums=0).lower(state, jnp.int32(0)),
            **({} if self.display.quiet else self._lower_parts(state)),
            "evaluate": jax.jit(self._greedy).lower(state.seeds.train, jnp.int32(0), jnp.int32(0)),
        }
        self.compiled = compile_together(lowered)
        self.compile_s = time.perf_counter() - began
        if not self.display.quiet:
            self.display.compiled(self.compile_s, time_split(program, self.compiled, state))
        return state

    def _lower_parts(self, state: RunState) -> dict[str, Any]:
        return {name: jax.jit(f).lower(state) for name, f in parts(self.program).items()}

    def _greedy(self, train: TrainState, steps: Array, part: Array) -> dict[str, Array]:
        """Means over ``evaluation.episodes`` greedy episodes, one per seed."""
        program, episodes = self.program, self.program.config.evaluation.episodes

        def one(train: TrainState, seed: Array) -> dict[str, Array]:
            key = jax.random.fold_in(evaluation_key(seed, steps), part)
            env, policy = program.collector.env, PolicyParams.of(train)
            return summarise(play_greedy(env, program.learner, policy, key=key, episodes=episodes))

        seeds = program.config.seed + jnp.arange(program.config.seeds)
        return jax.vmap(one)(train, seeds)

    def _evaluate(self, state: RunState, steps: int, episodes: int) -> dict[str, Any]:
        """At least ``episodes`` greedy episodes, in as many parts as one compiled program needs."""
        began, at_once = time.perf_counter(), self.program.config.evaluation.episodes
        parts = -(-episodes // at_once)
        played = [
            self.compiled["evaluate"](state.seeds.train, jnp.int32(steps), jnp.int32(part))
            for part in range(parts)
        ]
        means = {f"eval/{k}": np.mean([p[k] for p in played], axis=0) for k in played[0]}
        self.wall_s += time.perf_counter() - began
        return {**means, "eval/episodes": np.full(self.program.config.seeds, parts * at_once)}

    def _log(
        self,
        state: RunState,
        progress: Progress | None,
        evaluated: dict[str, Any] | None,
        spent: float,
    ) -> None:
        """A row per seed to the metrics, a line to the user, parameters after an evaluation."""
        train, config = state.seeds.train, self.program.config
        columns: dict[str, Any] = {
            "env_steps": train.env_steps,
            "episodes": self.episodes,
            "updates": train.updates,
            "epsilon": jax.vmap(partial(epsilon_at, config.exploration))(train.env_steps),
        }
        if progress is not None:
            self.episodes = self.episodes + np.asarray(progress.collected.episodes)
            columns |= {**means_of(progress), "episodes": self.episodes}
            columns["steps_per_s"] = np.full(
                config.seeds, np.sum(progress.collected.transitions) / spent
            )
        columns |= evaluated or {}
        clocks = {"wall_s": round(self.wall_s, 3), "compile_s": round(self.compile_s, 3)}
        rows = []
        for i in range(config.seeds):
            values = {k: number(np.asarray(v)[i]) for k, v in columns.items()}
            # What did not happen since the last row has no mean, and no key.
            values = {k: v for k, v in values.items() if v is not None}
            rows.append({"seed": config.seed + i, **values, **clocks})
        self.folder.append(rows)
        self.display.progress(rows, self.wall_s)
        self.rows = rows
        if evaluated is not None:
            self._save(state, "last", range(config.seeds))
            better = [i for i, row in enumerate(rows) if self._is_best(row)]
            self._save(state, "best", better)

    def _is_best(self, row: dict[str, Any]) -> bool:
        """By win rate where the task has one, then by return; the later of equals."""
        best = self.best.get(row["seed"])
        if best is None or score(row) >= score(best):
            self.best[row["seed"]] = row
            return True
        return False

    def _save(self, state: RunState, which: Which, seeds: Iterable[int]) -> None:
        """The networks and the statistics that belong to them."""
        for i in seeds:
            train = jax.tree.map(lambda x: x[i], state.seeds.train)  # noqa: B023
            self.folder.save(which, self.program.config.seed + i, PolicyParams.of(train))

    def _close(self) -> None:
        result = []
        for row in self.rows:
            best = {f"best/{k[5:]}": v for k, v in self.best[row["seed"]].items() if "eval/" in k}
            best["best/env_steps"] = self.best[row["seed"]]["env_steps"]
            result.append({**row, **best})
        self.folder.close(result)
        self.display.closing(result, str(self.folder.path))


def score(row: dict[str, Any]) -> tuple[float, float]:
    """What 'best' means: the win rate where the task has one, then the return."""
    return row.get("eval/win_rate", 0.0), row["eval/return"]


def number(x: Any) -> int | float | None:
    """A JSON number, or None for a mean of nothing."""
    value = x.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def means_of(progress: Progress) -> dict[str, np.ndarray]:
    """Means since the last log, per seed; NaN where nothing happened."""
    collected = jax.tree.map(np.asarray, progress.collected)
    with np.errstate(invalid="ignore", divide="ignore"):
        episodes, updates = collected.episodes, np.asarray(progress.updates)
        return {
            "train/return": collected.episode_return / episodes,
            "train/length": collected.episode_length / episodes,
            **{f"train/{metric_name(k)}": v / episodes for k, v in collected.info.items()},
            **{k: np.asarray(progress.learned[k]) / updates for k in LEARN_KEYS},
        }

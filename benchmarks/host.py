"""Speed of training on environments that Python steps, beside the environments alone.

    python benchmarks/host.py              Level-Based Foraging and MPE, 1 to 16 environments
    python benchmarks/host.py --short      16 environments, fewer steps

Preset paper: whole episodes, a GRU agent, one update of 32 episodes for every episode played, which
is EPyMARL's ratio. ``alone`` is one environment in one process, as its package has it, with random
actions; ``adapted`` the same through our adapter. The shares are of the training process's time;
``peak_mib`` is what that process held at most, compilation included.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import Limits, Piece, report

from qtot.config import nested_replace
from qtot.envs import make_env
from qtot.envs.host.board import layout, size_of
from qtot.presets import preset_config
from qtot.training.compile import traced_init
from qtot.training.ingraph import Program
from qtot.training.world import World

LBF, MPE = "gym/Foraging-8x8-2p-2f-coop-v3", "pettingzoo/mpe2.simple_spread_v3"


def steps_per_s(step: Any, seconds: float = 2.0) -> float:
    """Calls a second of something that resets itself."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            step()
        count += 100
    return count / (time.perf_counter() - began)


def alone(name: str) -> float:
    """Steps a second of the bare package, random actions."""
    rng = np.random.default_rng(0)
    if name == LBF:
        importlib.import_module("lbforaging")  # registers
        make = importlib.import_module("gymnasium").make
        env: Any = make(name.partition("/")[2], disable_env_checker=True)
        env.reset(seed=0)

        def step() -> None:
            _, _, done, cut, _ = env.step(tuple(rng.integers(6, size=2)))
            if np.all(done) or cut:
                env.reset()
    else:
        env = importlib.import_module("mpe2.simple_spread_v3").parallel_env()
        env.reset(seed=0)

        def step() -> None:
            if not env.agents:
                env.reset()
            env.step({agent: int(rng.integers(5)) for agent in env.agents})

    return steps_per_s(step)


def adapted(name: str) -> float:
    """The same through the adapter."""
    env: Any = make_env(name)
    env.reset(0)
    rng = np.random.default_rng(0)

    def step() -> None:
        stepped = env.step(rng.integers(env.spec.n_actions[0], size=env.spec.n_agents))
        if stepped.terminated or stepped.truncated:
            env.reset(0)

    return steps_per_s(step)


def memory(pids: list[int], what: str = "VmRSS:") -> float:
    """MiB that processes hold (``VmHWM:`` held at most), shared pages once for each."""
    kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            kib += int(line.split()[1]) if line.startswith(what) else 0
    return kib / 1024


def spent_on(engine: Any) -> dict[str, float]:
    """Seconds of the training process so far, by what it waited for or did."""
    return {**engine.seconds, "learner": engine.learn_s}


class Run:
    """Training by the piece, learning from the first one on."""

    def __init__(self, name: str, envs: int, **changes: Any):
        """``changes`` to preset paper."""
        sizes = {"steps": 2**24, "collect": {"envs": envs}}
        config = nested_replace(preset_config(name, preset="paper"), sizes)
        config = nested_replace(config, changes)
        self.world = World.open(config.env, config.host)
        program = Program.make(self.world.in_graph, config)
        self.engine: Any = self.world.engine(program, traced_init(program))
        try:
            self.state = self.engine.start()
            # Once the replay holds enough to learn from.
            self.run((config.replay.warmup + envs) * self.world.spec.episode_limit)
        except BaseException:
            self.close()
            raise

    def run(self, steps: int) -> Piece:
        """``steps`` more, or a little more than these."""
        taken, began = int(self.engine.steps.min()), time.perf_counter()
        self.state = self.engine.chunk(self.state, taken + steps)
        progress = self.state.progress
        spent = time.perf_counter() - began
        done = int(self.engine.steps.min()) - taken
        return Piece(spent, done, float(progress.updates.sum()))

    def close(self) -> None:
        """Its workers, too."""
        self.engine.close()


def measure(name: str, envs: int, steps: int) -> dict[str, Any]:
    """Training speed with so many environments, in a process that has done nothing else."""
    training = Run(name, envs)
    engine = training.engine
    try:
        before = spent_on(engine)
        piece = training.run(steps)
        shares = {k: (v - before.get(k, 0.0)) / piece.seconds for k, v in spent_on(engine).items()}
        pool = engine.pools["train"]
        workers = [worker.process.pid for worker in pool.workers]
        slots, n = pool.board.valid.shape
        return {
            "env": name,
            "envs": envs,
            "workers": len(workers),
            "steps_per_s": piece.rate,
            "updates_per_s": piece.updates / piece.seconds,
            **{f"{k}_share": v for k, v in shares.items()},
            "peak_mib": memory([os.getpid()], "VmHWM:"),
            "workers_mib": memory(workers),
            "board_mib": size_of(layout(training.world.spec, slots, n)) / 2**20,
        }
    finally:
        training.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="16 environments, fewer steps")
    short = parser.parse_args().short
    rows = []
    fresh = ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1)
    for name in (LBF, MPE):
        bare = {"alone_steps_per_s": alone(name), "adapted_steps_per_s": adapted(name)}
        for envs in (16,) if short else (1, 2, 4, 8, 16):
            row = fresh.submit(measure, name, envs, 5_000 if short else 20_000).result()
            rows.append(row | bare | {"of_alone": row["steps_per_s"] / bare["alone_steps_per_s"]})
    report("host", rows, Limits.measure())


if __name__ == "__main__":
    main()

"""What a sweep's child runs in tests: no training, but the run folder that one would leave.

Its greedy return falls with the distance of ``optimiser.lr`` from 1e-3. ``replay.batch`` says what
happens: 8 a mistake, 9 a crash, 10 a kill, 16 and above so many milliseconds per evaluation.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

from qtot.config import TrainConfig, nested_replace, scheduled
from qtot.envs.spec import EnvSpec
from qtot.store.run_folder import RunFolder
from qtot.sweeping.child import NO_TRACKER, STOPPED, Job, _leave_with_parent

SPEC = EnvSpec("fake/team", ("a", "b"), (2, 2), (1, 1), state_size=1, episode_limit=4)


def greedy_return(config: TrainConfig, steps: int, seed: int) -> float:
    """It rises to its end, and is another for each seed."""
    return steps / config.steps - abs(math.log10(config.optimiser.lr) + 3) + seed


def main(said: str) -> None:
    job = Job(**json.loads(said))
    config = nested_replace(TrainConfig(), job.config)
    if config.replay.batch == 8:
        sys.stderr.write("warned before\nerror: the fake mistake\n")
        sys.exit(2)
    if job.track:
        sys.stderr.write("error: tracker x cannot begin (no route); once that is mended, go on\n")
        sys.exit(NO_TRACKER)
    if config.replay.batch == 9:
        raise RuntimeError("the fake crash")
    if config.replay.batch == 12:
        sys.stderr.write(f"error: {job.out} is no good\n")
        sys.exit(2)
    if config.replay.batch == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(STOPPED[0]))
    folder = RunFolder(Path(job.out))
    with folder.held():
        if not job.resume:
            facts = {"config": scheduled(config).to_dict(), "env": SPEC.to_dict()}
            RunFolder.create(folder.path, facts)
        (folder.path / "checkpoints" / "step-000000000000").mkdir(parents=True, exist_ok=True)
        train(folder, config)


def train(folder: RunFolder, config: TrainConfig) -> None:
    begun = folder.metrics()
    first = begun[-1]["env_steps"] + config.log_every if begun else 0
    for steps in range(first, config.steps + 1, config.log_every):
        rows = [
            {
                "seed": seed,
                "env_steps": steps,
                "wall_s": 0.5 * steps,
                "compile_s": 2.0,
                "eval/return": greedy_return(config, steps, seed),
                "eval/length": 2.0,
            }
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        folder.append(rows)
        if config.replay.batch >= 16:
            time.sleep(config.replay.batch / 1000)
    folder.close(folder.metrics()[-config.seeds :])

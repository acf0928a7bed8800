"""JaxMARL's own published QMIX against ours, taking turns, with the same settings.

    git clone https://github.com/FLAIROx/JaxMARL
    python -m venv rival && rival/bin/pip install jaxmarl flax flashbax six pyyaml
    python benchmarks/versus_jaxmarl.py --jaxmarl JaxMARL --rival-python rival/bin/python

The rival is what the checkout says, imported as it is, in a process and an interpreter of its own
(``jaxmarl_child.py``); give it the JAX that qtot runs on. Its settings are those of its
configuration file but for the sizes below, and ours are translated from them (``translated``).
Both programs are compiled, then run a piece each in turns; the other one sleeps meanwhile.

What is reported, medians over pieces:

    steps_per_s   environment steps per second, learning included. Ours are valid transitions; the
                  rival counts every slot.
    collect_ms    a rollout without learning (before learning starts, the same program)
    update_ms     one update with its sampling: (piece - its collecting) / its updates, for both
    direct_ms     our updates and their sampling compiled alone, in a loop
    of_peak       the matrix-product rate of the machine that the update reaches: useful FLOPs, by
                  formula, over update_ms and the rate measured right after
    ratio         how many times ours is faster; of steps_per_s, the median over pairs of pieces

``--learn`` trains both in full instead, one after the other, and prints greedy evaluations against
the clock: the rival as published, ours with the default preset and what stands after ``--``.

What is not the same: the rival resets its environments at every rollout, we go on; it steps with
the reset state where an episode ends, we store the final observation (about one slot in twenty);
it stores sequences from a reset and starts from zero memory, we store the memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    LOOP,
    Child,
    Limits,
    Piece,
    Training,
    commit,
    configure,
    median,
    report,
    seconds,
    update_gflop,
)
from time_to import evaluations, run_once

from qtot.config import TrainConfig


class Task(NamedTuple):
    """A task of both houses, and the rival's settings for it."""

    env: str
    alg: str
    updates: int
    """K, updates per rollout"""
    before: int
    """rollouts before learning starts when speed is measured"""
    envs: int
    length: int
    """slots of a rollout and of a stored row"""
    sizes: dict[str, Any]


SMALL = {
    "HIDDEN_SIZE": 64,
    "MIXER_EMBEDDING_DIM": 32,
    "MIXER_HYPERNET_HIDDEN_DIM": 64,
}
TASKS = {
    "3m": Task("smax/3m", "ql_rnn_smax", 8, 64, 8, 128, {**SMALL, "MAP_NAME": "3m"}),
    "2s3z": Task("smax/2s3z", "ql_rnn_smax", 8, 64, 8, 128, {**SMALL, "MAP_NAME": "2s3z"}),
    "3m-k1": Task("smax/3m", "ql_rnn_smax", 1, 64, 8, 128, {**SMALL, "MAP_NAME": "3m"}),
    "2s3z-k1": Task("smax/2s3z", "ql_rnn_smax", 1, 64, 8, 128, {**SMALL, "MAP_NAME": "2s3z"}),
    "spread": Task("mpe/simple_spread", "ql_rnn_mpe", 1, 400, 8, 26, {}),
}


class Rival:
    """The child process, run by the piece."""

    def __init__(self, args: argparse.Namespace, task: Task, changes: dict[str, Any]):
        changes = {
            "NUM_ENVS": task.envs,
            "NUM_STEPS": task.length,
            "NUM_EPOCHS": task.updates,
            **task.sizes,
            **changes,
        }
        order = {"alg": task.alg, "seed": args.seed, "changes": changes}
        child = Path(__file__).with_name("jaxmarl_child.py")
        command = [args.rival_python, str(child), args.jaxmarl, json.dumps(order)]
        self.child = Child(command, verbose=args.verbose)
        self.facts = self.child.facts
        self.config = self.facts["config"]
        self.rollout = task.envs * task.length
        self.updates = 0.0
        self.rows: list[dict[str, float]] = []
        """what it reported of the last piece"""

    def run(self, rollouts: int) -> Piece:
        """The next rollouts."""
        answer = self.child.ask(rollouts)
        self.rows = answer["rows"]
        done, self.updates = answer["updates"] - self.updates, answer["updates"]
        return Piece(answer["seconds"], rollouts * self.rollout, done)

    def close(self) -> None:
        """Stop."""
        self.child.close()


def translated(env: str, rival: dict[str, Any], before: int) -> TrainConfig:
    """The rival's settings in our words."""
    rollout = rival["NUM_ENVS"] * rival["NUM_STEPS"]
    decay = rival["EPS_DECAY"] * rival["TOTAL_TIMESTEPS"]
    return configure(
        env,
        data="replay",
        steps=rival["TOTAL_TIMESTEPS"],
        log_every=2**20,
        agent={
            "encoder": (rival["HIDDEN_SIZE"],),
            "hidden": rival["HIDDEN_SIZE"],
            "memory": "gru",
            "prev_action": False,
            "layer_norm": False,
        },
        mixer={
            "embed": rival["MIXER_EMBEDDING_DIM"],
            "hypernet_layers": 2,
            "hypernet_embed": rival["MIXER_HYPERNET_HIDDEN_DIM"],
        },
        target={
            "gamma": rival["GAMMA"],
            "td_lambda": 0.0,
            "time_limit": "end",
            "update": "hard",
            "interval": rival["TARGET_UPDATE_INTERVAL"] * rival["NUM_EPOCHS"],
        },
        optimiser={
            "name": "radam",
            "lr": rival["LR"],
            "lr_end": 0.0 if rival["LR_LINEAR_DECAY"] else 1.0,
            "eps": 1e-8,
            "clip": float(rival["MAX_GRAD_NORM"]),
        },
        exploration={"start": rival["EPS_START"], "end": rival["EPS_FINISH"], "steps": int(decay)},
        replay={
            "sequences": "segments",
            "length": rival["NUM_STEPS"],
            "capacity": rival["BUFFER_SIZE"],
            "batch": rival["BUFFER_BATCH_SIZE"],
            "warmup": before * rival["NUM_ENVS"],
        },
        collect={"envs": rival["NUM_ENVS"], "update_ratio": rival["NUM_EPOCHS"] / rollout},
        scaling={"reward_scale": float(rival.get("REW_SCALE", 1.0)), "normalise_state": False},
    )


class Side(NamedTuple):
    """One side's pieces, before and after learning starts."""

    collecting: list[Piece]
    learning: list[Piece]

    @property
    def collect_s(self) -> float:
        """Per environment step."""
        return median(p.seconds / p.steps for p in self.collecting)

    @property
    def update_s(self) -> float:
        """Per update, sampling included."""
        return median((p.seconds - p.steps * self.collect_s) / p.updates for p in self.learning)

    def row(
        self,
        name: str,
        task: Task,
        who: str,
        *,
        peak_s: float,
        compile_s: float,
        direct_s: Sequence[float] = (),
    ) -> dict[str, Any]:
        """As it is printed."""
        return {
            "task": name,
            "K": task.updates,
            "who": who,
            "steps_per_s": median(p.rate for p in self.learning),
            "collect_ms": 1e3 * self.collect_s * task.envs * task.length,
            "update_ms": 1e3 * self.update_s,
            "direct_ms": 1e3 * median(direct_s) if direct_s else None,
            "of_peak": peak_s / self.update_s,
            "compile_s": compile_s,
        }


def duel(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """One task: the two programs in turns."""
    task = TASKS[name]
    rollout = task.envs * task.length
    changes = {"TEST_DURING_TRAINING": False, "LEARNING_STARTS": task.before * rollout}
    rival = Rival(args, task, changes)
    ours = Training(translated(task.env, rival.config, task.before))
    compile_s, direct = ours.compile(), ours.part("updates")
    them, us = Side([], []), Side([], [])

    rival.run(2)  # the first rollouts touch fresh memory
    ours.run(2 * rollout)
    few = int(0.8 * task.before) // args.pieces
    for _ in range(args.pieces):
        them.collecting.append(rival.run(few))
        us.collecting.append(ours.run(few * rollout))

    while not rival.updates:
        rival.run(4)
    ours.fill()
    once = max(rival.run(2).seconds / 2, ours.run(2 * rollout).seconds / 2)
    many = max(2, round(args.seconds / once))
    direct_s: list[float] = []
    direct()
    for _ in range(args.pieces):
        them.learning.append(rival.run(many))
        us.learning.append(ours.run(many * rollout))
        direct_s += [s / LOOP for s in seconds(direct, 1, warm=0)]
    rival.close()

    peak_s = update_gflop(ours.spec, ours.config) / Limits.measure().gflops
    pairs = zip(them.learning, us.learning, strict=True)
    return [
        them.row(name, task, "rival", peak_s=peak_s, compile_s=rival.facts["compile_s"]),
        us.row(name, task, "ours", peak_s=peak_s, compile_s=compile_s, direct_s=direct_s),
        {
            "task": name,
            "K": task.updates,
            "who": "ratio",
            "steps_per_s": median(u.rate / t.rate for t, u in pairs),
            "collect_ms": them.collect_s / us.collect_s,
            "update_ms": them.update_s / us.update_s,
            "direct_ms": them.update_s / median(direct_s),
            "compile_s": rival.facts["compile_s"] / compile_s,
        },
    ]


def rival_curve(args: argparse.Namespace, task: Task) -> list[dict[str, Any]]:
    """The rival in full, with its greedy tests; time without them is counted, too: what a rollout
    with a test takes longer than the others around it.
    """
    rival = Rival(args, task, {"TOTAL_TIMESTEPS": args.steps})
    rollouts = args.steps // rival.rollout
    rival.run(rollouts)
    rival.close()
    metric = "test_returned_won_episode" if "smax" in task.env else "test_returned_episode_returns"
    ends = [row["seconds"] for row in rival.rows]
    took = [b - a for a, b in zip([0.0, *ends], ends, strict=False)]
    curve, tests = [], 0.0
    for i, row in enumerate(rival.rows):
        if metric in row:
            tests += max(0.0, took[i] - median(took[max(0, i - 5) : i + 6]))
            curve.append(
                {
                    "env_steps": row["env_steps"],
                    "seconds": row["seconds"],
                    "training_s": row["seconds"] - tests,
                    "from_start_s": row["seconds"] + rival.facts["compile_s"],
                    "value": row[metric],
                }
            )
    return curve


def learning(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """Greedy evaluations of both against the clock."""
    task = TASKS[name]
    metric = "win_rate" if "smax" in task.env else "return"
    curves = {
        "rival": rival_curve(args, task),
        "ours": evaluations(run_once(task.env, args.seed, args.flags), metric),
    }
    return [
        {"task": name, "who": who, "metric": metric, **at}
        for who, curve in curves.items()
        for at in curve
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jaxmarl", required=True, help="a checkout of JaxMARL")
    parser.add_argument("--rival-python", default=sys.executable, help="the rival's interpreter")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--pieces", type=int, default=5, help="pieces of each program")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a piece")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learn", action="store_true", help="greedy evaluations, not speed")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the rival, to learn")
    parser.add_argument("--verbose", action="store_true", help="show what the rival prints")
    parser.add_argument("flags", nargs="*", help="after --: flags of qtot train, to learn")
    args = parser.parse_args()
    measure = learning if args.learn else duel
    rows = [row for name in args.tasks for row in measure(args, name)]
    limits = None if args.learn else Limits.measure()
    report("versus_jaxmarl", rows, limits, rival_commit=commit(args.jaxmarl), flags=args.flags)


if __name__ == "__main__":
    main()

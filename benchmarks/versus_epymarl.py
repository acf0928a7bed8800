"""EPyMARL's own QMIX against ours on environments that Python steps, taking turns, same settings.

    git clone https://github.com/uoe-agents/epymarl
    python -m venv rival
    rival/bin/pip install torch pyyaml cloudpickle lbforaging pettingzoo mpe2
    python benchmarks/versus_epymarl.py --epymarl epymarl --rival-python rival/bin/python

The rival is what the checkout says, imported as it is, in a process and an interpreter of its own
(``epymarl_child.py``), on the CPU. Its settings are those of its files but for three: agents with a
GRU, as QMIX has them (its file for QMIX has none; ``--memoryless`` keeps that), the episode limit
that the environment itself has (its file says 100), and no tests while training; ours are
translated from them (``translated``). Start-up and the episodes before learning are not counted.
Then all run a piece each in turns; the others sleep.

Two duels, and every row says which:

    episode    the rival's default runner, one environment: an update of 32 episodes for each
               episode played; ours with 1 and with 16 environments, as many updates
    parallel   its parallel runner, 8 processes, which updates once for every 8 episodes; ours with
               8 environments, as few updates

What is reported:

    steps_per_s           environment steps per second, learning included, the median over pieces
    slowest, fastest      of the pieces
    updates_per_episode   measured over all pieces: updates over steps, times the longest episode;
                          what episodes that end early lack of it, both lack
    threads               of torch: 1 is what the rival's ``main`` sets, the other torch's default
    ratio                 ours over the better one of the rival's, the median over turns

The networks have the same layers. What is not the same: the rival cuts a batch where its
longest episode ends, ours never; it logs means every 10,000 steps, here nothing is written; each is
started as its own command starts it (qtot sets an allocator and lets workers wait their turn).
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from common import Child, Limits, Piece, commit, median, report
from host import LBF, MPE, Run

PARALLEL = 8  # processes of the rival's other runner


class Task(NamedTuple):
    """A task of both houses."""

    ours: str
    rival: str
    limit: int
    """steps of an episode at most"""


EXPECTED = {
    "agent": "rnn",
    "mac": "basic_mac",
    "mixer": "qmix",
    "learner": "q_learner",
    "action_selector": "epsilon_greedy",
    "common_reward": True,
    "obs_individual_obs": False,
    "standardise_returns": False,
}
"""settings of the rival that are not translated; another value would change the work"""


TASKS = {
    "foraging": Task(LBF, "lbforaging:Foraging-8x8-2p-2f-coop-v3", 50),
    "spread": Task(MPE, "pz-mpe-simple-spread-v3", 25),
}


class Side:
    """Whoever runs by the piece, and its pieces."""

    def __init__(self, who: str, duel: str, envs: int):
        self.who, self.duel, self.envs = who, duel, envs
        self.threads: int | None = None
        self.pieces: list[Piece] = []

    def run(self, seconds: float) -> Piece:
        """About so long."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop."""
        raise NotImplementedError

    @property
    def rate(self) -> float:
        """Steps per second."""
        return median(piece.rate for piece in self.pieces)


class Rival(Side):
    """The child process."""

    def __init__(self, args: argparse.Namespace, task: Task, duel: str, threads: int):
        envs = PARALLEL if duel == "parallel" else 1
        super().__init__("rival", duel, envs)
        changes = {
            "seed": args.seed,
            "env_args": {"key": task.rival, "time_limit": task.limit},
            "use_rnn": not args.memoryless,
            "use_cuda": False,
            "runner": duel,
            "batch_size_run": envs,
            "t_max": 2**40,
            "test_nepisode": envs,
            "test_interval": 2**40,
        }
        order = {"alg": "qmix", "env": "gymma", "threads": threads, "changes": changes}
        child = Path(__file__).with_name("epymarl_child.py")
        command = [args.rival_python, str(child), args.epymarl, json.dumps(order)]
        self.child = Child(command, verbose=args.verbose)
        self.facts = self.child.facts
        self.config = self.facts["config"]
        self.threads = self.facts["threads"]

    def run(self, seconds: float) -> Piece:
        answer = self.child.ask(seconds)
        return Piece(answer["seconds"], answer["env_steps"], answer["updates"])

    def close(self) -> None:
        """Stop."""
        self.child.close()


class Ours(Side):
    """Training in this process; its workers are others."""

    def __init__(self, task: Task, duel: str, envs: int, changes: dict[str, Any]):
        super().__init__("ours", duel, envs)
        self.training = Run(task.ours, envs, **changes)
        self.last = self.training.run(2 * envs * task.limit)

    def run(self, seconds: float) -> Piece:
        self.last = self.training.run(round(seconds * self.last.rate))
        return self.last

    def close(self) -> None:
        self.training.close()


def translated(rival: dict[str, Any]) -> dict[str, Any]:
    """The rival's settings in our words, as changes to preset paper."""
    for name, value in EXPECTED.items():
        if rival[name] != value:
            sys.exit(f"the rival's {name} is {rival[name]!r}; this script knows only {value!r}")
    tau = rival["target_update_interval_or_tau"]
    return {
        "agent": {
            "encoder": (rival["hidden_dim"],),
            "hidden": rival["hidden_dim"],
            "memory": "gru" if rival["use_rnn"] else "none",
            "prev_action": rival["obs_last_action"],
            "agent_id": rival["obs_agent_id"],
        },
        "mixer": {
            "embed": rival["mixing_embed_dim"],
            "hypernet_layers": rival["hypernet_layers"],
            "hypernet_embed": rival["hypernet_embed"],
        },
        "target": {
            "gamma": rival["gamma"],
            "double_q": rival["double_q"],
            "time_limit": "end",
            **({"update": "hard", "interval": tau} if tau > 1 else {"update": "soft", "tau": tau}),
        },
        "optimiser": {
            "name": "adam",
            "lr": rival["lr"],
            "eps": 1e-8,
            "clip": float(rival["grad_norm_clip"]),
        },
        "exploration": {
            "start": rival["epsilon_start"],
            "end": rival["epsilon_finish"],
            "steps": rival["epsilon_anneal_time"],
        },
        "replay": {
            "capacity": rival["buffer_size"],
            "batch": rival["batch_size"],
            "warmup": rival["batch_size"],
        },
        "collect": {"update_ratio": 1 / rival["batch_size_run"], "update_unit": "episode"},
        "scaling": {"standardise_rewards": rival["standardise_rewards"]},
        "host": {"team_reward": rival["reward_scalarisation"]},
    }


def turns(args: argparse.Namespace, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One task, all sides in turns; and what the rival says of itself."""
    task = TASKS[name]
    facts: dict[str, Any] = {}
    sides: list[Side] = []
    with ExitStack() as open_sides:

        def add(side: Side) -> None:
            open_sides.callback(side.close)
            sides.append(side)

        for duel, sizes in (("episode", (1, 16)), ("parallel", (PARALLEL,))):
            if duel in args.duels:
                for threads in (1, 0):
                    rival = Rival(args, task, duel, threads)
                    facts = rival.facts
                    add(rival)
                for envs in sizes:
                    add(Ours(task, duel, envs, translated(facts["config"])))
        for _ in range(args.pieces):
            for side in sides:
                side.pieces.append(side.run(args.seconds))
    return [row(name, side, sides) for side in sides], facts


def row(name: str, side: Side, sides: list[Side]) -> dict[str, Any]:
    """As it is printed."""
    rivals = [other for other in sides if other.who == "rival" and other.duel == side.duel]
    best = max(rivals, key=lambda other: other.rate)
    pairs = zip(best.pieces, side.pieces, strict=True)
    episodes = sum(piece.steps for piece in side.pieces) / TASKS[name].limit
    return {
        "task": name,
        "duel": side.duel,
        "who": side.who,
        "envs": side.envs,
        "threads": side.threads,
        "updates_per_episode": sum(piece.updates for piece in side.pieces) / episodes,
        "steps_per_s": side.rate,
        "slowest": min(piece.rate for piece in side.pieces),
        "fastest": max(piece.rate for piece in side.pieces),
        "ratio": median(u.rate / t.rate for t, u in pairs) if side.who == "ours" else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epymarl", required=True, help="a checkout of EPyMARL")
    parser.add_argument("--rival-python", default=sys.executable, help="the rival's interpreter")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    duels = ("episode", "parallel")
    parser.add_argument("--duels", nargs="+", default=duels, choices=duels)
    parser.add_argument("--pieces", type=int, default=4, help="pieces of each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a piece")
    parser.add_argument("--memoryless", action="store_true", help="agents without a GRU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="show what the rival prints")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for name in args.tasks:
        more, facts = turns(args, name)
        rows += more
    rival = {"rival_commit": commit(args.epymarl), "rival_versions": facts["versions"]}
    report("versus_epymarl", rows, Limits.measure(), **rival)


if __name__ == "__main__":
    main()

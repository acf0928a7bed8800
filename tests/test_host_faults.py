"""Whatever environments and their processes do wrong costs an episode, is told, and ends there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faulty_hosts as faults
import qtot
from faulty_hosts import HARMLESS, SPEC, Leaving, Planned, Strict, Unborn, seed_of
from host_oracle import check_streams, gather, gatherer_of, noise_for, played
from qtot.api import train_config
from qtot.envs.host.config import HostConfig
from qtot.envs.host.player import Failure
from qtot.envs.host.pool import make_pool
from qtot.envs.host.strikes import Strikes
from qtot.errors import QtotError
from qtot.training.loop import Training
from small import small_config

LONG = {"length": 8}


def plans(*faulty: dict[str, Any]) -> Any:
    """Environment number i has this plan for its first episode; all others are healthy and long."""
    plan = {seed_of(0, i, 0): {**LONG, **given} for i, given in enumerate(faulty)}
    return partial(Planned, plan, LONG)


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_one_environment_does_wrong_costs_its_episode_alone(kind: str):
    fault = HARMLESS[kind]
    made = played(plans({}, {"at": 3, "fault": fault}), workers=0, envs=3, slots=9, rollouts=1)
    slots = made.rollouts[0].slots
    valid, first = slots.valid[0].T.tolist(), slots.first[0].T.tolist()
    assert valid[0] == valid[2] == [True] * 8 + [False]
    assert valid[1] == [False] * 3 + [True] * 6
    assert first[1] == [True, False, False, True] + [False] * 5
    assert made.rollouts[0].tally.episodes == 2
    assert (slots.reward[0, :3, 1] == 0).all()
    (failure,) = made.failures
    assert failure.envs == (1,)
    assert "in step: " in failure.what and "in _step" in failure.traceback
    failure.what.encode()


def test_in_reset_the_next_episode_is_taken():
    plan = {"at": 0, "fault": HARMLESS["raise"]}
    made = played(plans(plan), workers=0, envs=1, slots=4, rollouts=1)
    assert made.rollouts[0].slots.valid.all()
    assert made.rollouts[0].slots.obs[0, 0, 0, 0, 1] == seed_of(0, 0, 1) % 2**20
    assert made.failures[0].what.startswith("ValueError in reset: [/bold] boo")


ENDS_ITS_PROCESS = {
    "kill": (faults.kill, "died (signal SIGKILL)", ""),
    "leave": (faults.leave, "died (exit code 3)", ""),
    "crash": (faults.crash, "died (signal SIGSEGV)", "in crash"),
    "unnamed": (faults.unnamed, f"died (signal {signal.SIGRTMIN + 3})", ""),
    "fork": (faults.fork, "died (exit code 3)", ""),
    "spin": (faults.spin, "hangs: no answer within 2 s", "in spin"),
    "sleep": (faults.sleep, "hangs: no answer within 2 s", "in sleep"),
    "hold": (faults.hold, "hangs: no answer within 2 s", "in hold"),
}


def test_what_ends_a_process_or_hangs_is_replaced_and_told_of_with_its_stack():
    """Each environment has a process of its own."""
    each = [{"at": 3, "fault": fault} for fault, *_ in ENDS_ITS_PROCESS.values()]
    n = len(each) + 1
    made = played(plans(*each), workers=n, envs=n, slots=9, rollouts=1, timeout_s=2.0)
    slots = made.rollouts[0].slots
    for e in range(n - 1):
        assert slots.valid[0, :, e].tolist() == [False] * 3 + [True] * 6
        assert np.flatnonzero(slots.first[0, :, e]).tolist() == [0, 3]
    assert slots.valid[0, :, n - 1].tolist() == [True] * 8 + [False]
    assert made.rollouts[0].tally.episodes == 1
    failures = {f.envs[1]: f for f in made.failures}
    assert len(made.failures) == len(failures) == n - 1
    for e, (_, said, stack) in enumerate(ENDS_ITS_PROCESS.values()):
        assert said in failures[e].what
        assert stack in failures[e].traceback


def test_an_episode_that_ended_in_the_slot_that_killed_its_worker_shows_its_end():
    ends = {"length": 3, "true_end": False}
    make = plans(ends, {"at": 3, "fault": faults.leave})
    made = played(make, workers=1, envs=2, slots=6, rollouts=1)
    slots, tally = made.rollouts[0].slots, made.rollouts[0].tally
    assert slots.valid[0, :, 0].tolist() == [True, True, True, False, True, True]
    assert slots.first[0, :, 0].tolist() == [True, False, False, False, True, False]
    assert slots.obs[0, 3, 0, 0, faults.OVER] == 1
    assert (tally.episodes, tally.episode_length) == (1, 3)
    assert slots.valid[0, :, 1].tolist() == [False] * 3 + [True] * 3
    assert made.failures[0].envs == (-1, 1)


def test_an_episode_that_ended_before_its_worker_died_counts():
    make = plans({"length": 2}, {"at": 3, "fault": faults.leave})
    made = played(make, workers=1, envs=2, slots=6, rollouts=1)
    slots, tally = made.rollouts[0].slots, made.rollouts[0].tally
    assert slots.valid[0, :, 0].tolist() == [True, True, False, True, True, True]
    assert np.flatnonzero(slots.first[0, :, 0]).tolist() == [0, 3]
    assert (tally.episodes, tally.episode_length) == (1, 2)


@pytest.mark.parametrize("whole", [False, True])
def test_workers_killed_at_random_moments(whole: bool, kills: int = 12):
    """With SIGKILL and, now and then, SIGSTOP, which looks like hanging."""
    gatherer = gatherer_of(
        Strict, envs=6, slots=25, whole=whole, groups=2, workers=3, timeout_s=1.0
    )
    random, stop, sent = np.random.default_rng(whole), threading.Event(), [0]

    def killing() -> None:
        while not stop.wait(random.uniform(0.0, 0.3)) and sent[0] < kills:
            victim: Any = gatherer.pool
            process = victim.workers[random.integers(3)].process
            hang = random.random() < 0.1
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # replaced this very moment
                    os.kill(process.pid, signal.SIGSTOP if hang else signal.SIGKILL)
                    sent[0] += 1

    killer = threading.Thread(target=killing)
    episodes, failures = 0, []
    gather(gatherer, noise_for(gatherer)[0])
    try:
        killer.start()
        while killer.is_alive():
            got = gather(gatherer, noise_for(gatherer)[0])
            episodes += got.tally.episodes.sum()
            check_streams(gatherer, got)
            failures += gatherer.pool.failures
            gatherer.pool.failures.clear()
    finally:
        stop.set()
        killer.join()
        gatherer.pool.close()
    assert sent[0] == kills and episodes > 0
    assert kills / 3 <= len(failures) <= kills
    assert all(f.envs[0] == -1 for f in failures), [f.what for f in failures]


@pytest.mark.long
@pytest.mark.parametrize("whole", [False, True])
def test_workers_killed_many_times(whole: bool):
    test_workers_killed_at_random_moments(whole, kills=300)


def test_a_copy_of_a_dead_worker_does_not_keep_its_parent_waiting():
    make = plans({"at": 1, "fault": faults.fork})
    began = time.monotonic()
    made = played(make, workers=1, envs=1, slots=3, rollouts=1, timeout_s=60.0)
    assert len(made.failures) == 1
    assert time.monotonic() - began < 30


def test_a_loud_environment_is_heard(capfd: pytest.CaptureFixture[str]):
    make = plans({"at": 1, "fault": faults.shout})
    made = played(make, workers=1, envs=1, slots=3, rollouts=1)
    assert made.rollouts[0].slots.valid.all() and not made.failures
    assert capfd.readouterr().out.count("much\n") == 200_000


class Always(Strict):
    """Whatever it is given to do, each time."""

    def __init__(self, fault: Any) -> None:
        super().__init__()
        self.fault = fault

    def step(self, actions: Any) -> Any:
        return self.fault(self, super().step(actions))


@pytest.mark.parametrize(
    ("make", "workers", "said"),
    [
        (partial(Always, HARMLESS["raise"]), 0, r"3 times in a row .*last: ValueError in step: "),
        (partial(Always, HARMLESS["raise"]), 1, r"3 times in a row .*last: ValueError in step: "),
        (partial(Always, faults.leave), 1, r"3 times in a row .*worker 0 died \(exit code 3\)$"),
        (Unborn, 0, r"3 times in a row .*RuntimeError in being made: no display.*faulty_hosts.py"),
        (Unborn, 1, r"3 times in a row .*RuntimeError in being made: no display.*faulty_hosts.py"),
        (Leaving(faults.end_of_file), 1, r"cannot make .*: EOFError: at import\. Traceback: "),
        (Leaving(exit, 7), 1, r"cannot make .*: SystemExit: 7"),
        (Leaving(os._exit, 7), 1, r"3 times in a row .*worker 0 died \(exit code 7\)$"),
        (Leaving(__import__, "no_such_thing"), 1, r"cannot make .*No module named 'no_such_thing'"),
    ],
)
def test_after_failures_in_a_row_it_is_given_up(make: Any, workers: int, said: str):
    made = gatherer_of(make, envs=2, slots=50, workers=workers, failures=3)
    with pytest.raises(QtotError, match=said):
        gather(made, noise_for(made)[0])
    assert 1 <= len(made.pool.failures) <= 5
    made.pool.close()


def test_failures_of_a_worker_are_not_held_against_an_environment():
    strikes = Strikes(4, 3, 2)
    for worker in range(3):
        strikes.count(Failure((-1,), "died", ""), worker)
    assert not strikes.of_env.any()
    with pytest.raises(QtotError):
        strikes.count(Failure((-1,), "died", ""), 1)


def test_a_finished_episode_forgives():
    """Every second episode fails, and that for ever."""

    class Now(Strict):
        count = 0

        def step(self, actions: Any) -> Any:
            got = super().step(actions)
            if self.time == 1:
                Now.count += 1
                assert Now.count % 2
            return got

    made = played(Now, workers=0, envs=1, slots=300, rollouts=1, failures=2)
    assert len(made.failures) > 20


def test_what_cannot_be_copied_is_said():
    lock = threading.Lock()
    config = HostConfig(workers=1)
    with pytest.raises(QtotError, match=r"cannot be sent to worker processes .*--host.workers 0"):
        make_pool(lambda: lock, SPEC, config, slots=1, n=1, groups=1, whole=False)


def test_a_pool_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    from qtot.envs.host import processes

    begun, fds, start = [], len(list(Path("/proc/self/fd").iterdir())), processes.Child

    def third_fails(*args: Any) -> Any:
        if len(begun) == 2:
            raise OSError("too many processes")
        begun.append(start(*args))
        return begun[-1]

    monkeypatch.setattr(processes, "Child", third_fails)
    with pytest.raises(OSError, match="too many"):
        gatherer_of(Strict, envs=3, slots=1, workers=3)
    assert [worker.process.poll() is None for worker in begun] == [False, False]
    assert len(list(Path("/proc/self/fd").iterdir())) <= fds + 1  # the board goes with its arrays


def test_a_run_that_gives_up_keeps_what_it_learned(
    tmp_path: Path, quick_compile: None, monkeypatch: pytest.MonkeyPatch
):
    """In the middle of a chunk."""

    class Tiring(Strict):
        begun = 0

        def reset(self, seed: int) -> Any:
            Tiring.begun += 1
            assert Tiring.begun < 150, "tired"
            return super().reset(seed)

    saved, save = [], Training._save

    def saving(self: Any, train: Any, which: Any, seeds: Any) -> None:
        saved.append((which, int(train.env_steps[0])))
        save(self, train, which, seeds)

    monkeypatch.setattr(Training, "_save", saving)
    own = {"host": {"workers": 0}, "log_every": 200, "steps": 100_000}
    config = small_config("own:Tiring", **own, evaluation={"episodes": 8})
    with pytest.raises(QtotError, match=r"failed 5 times in a row .*tired"):
        train_config(config, tmp_path / "run", env=Tiring, quiet=True)
    rows = qtot.load(tmp_path / "run").metrics()
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(set(steps)) and 200 < steps[-1] < 1000
    assert rows[-1]["updates"] > 0 and rows[-1]["env_failures"] == 5
    assert saved[-1] == ("last", steps[-1])


def test_a_run_whose_evaluation_gives_up_keeps_what_it_logged(
    tmp_path: Path, quick_compile: None, monkeypatch: pytest.MonkeyPatch
):
    evaluate = Training._evaluate

    class Tiring(Strict):
        tired = False

        def reset(self, seed: int) -> Any:
            assert not Tiring.tired, "tired"
            return super().reset(seed)

    def tiring(self: Any, state: Any, steps: int, episodes: int) -> Any:
        Tiring.tired = steps > 0
        return evaluate(self, state, steps, episodes)

    monkeypatch.setattr(Training, "_evaluate", tiring)
    own = {"host": {"workers": 0}, "log_every": 200, "steps": 400}
    config = small_config("own:Tiring", **own, evaluation={"episodes": 8})
    with pytest.raises(QtotError, match=r"failed 5 times in a row .*tired"):
        train_config(config, tmp_path / "run", env=Tiring, quiet=True)
    rows = qtot.load(tmp_path / "run").metrics()
    assert "eval/return" in rows[0] and "eval/return" not in rows[-1]
    assert rows[-1]["env_steps"] >= 400 and rows[-1]["env_failures"] == 5
    assert qtot.load(tmp_path / "run").params()  # and they were saved


def test_failures_alike_are_told_in_one_line(
    tmp_path: Path, quick_compile: None, capsys: pytest.CaptureFixture[str]
):
    class Moody(Strict):
        steps = 0

        def step(self, actions: Any) -> Any:
            Moody.steps += 1
            assert Moody.steps % 40, "moody"
            return super().step(actions)

    own = {"host": {"workers": 0}, "log_every": 500, "steps": 1000}
    config = small_config("own:Moody", **own, evaluation={"episodes": 8})
    rows = train_config(config, tmp_path / "run", env=Moody).metrics()
    out = capsys.readouterr().out
    told = re.findall(r"AssertionError in step: moody(?: \((\d+) times\))?; (\d+) episodes?", out)
    assert [int(lost) for _, lost in told] == [int(times or 1) for times, _ in told]
    assert sum(int(lost) for _, lost in told) == rows[-1]["env_failures"] > 10
    assert 1 < len(told) <= 2 * len(rows)  # those with the traceback, and the others
    assert 1 <= out.count("Traceback") <= 3

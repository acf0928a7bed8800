"""Rollouts of environments in Python are those of plain loops, however many processes play them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from faulty_hosts import HARMLESS, LIMIT, SPEC, Chaotic, Planned, Strict, seed_of
from host_oracle import Played, check, gather, gatherer_of, noise_for, played
from qtot.envs.host import board as boards
from qtot.envs.host import processes
from qtot.envs.host.board import OVER
from qtot.envs.host.config import HostConfig
from qtot.envs.host.pool import make_pool, worker_count
from qtot.envs.host.processes import Processes
from qtot.envs.host.worker import Job
from qtot.evaluation.onhost import play_on_host
from qtot.evaluation.teams import Choice, Seen

ALONE: dict[str, Any] = {"envs": 5, "slots": 7, "rollouts": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "segments": ALONE,
    "episodes": {**ALONE, "whole": True},
    "two groups": {**ALONE, "envs": 6, "groups": 2, "slots": 12},
    "seeds": {"envs": 4, "groups": 2, "seeds": 3, "slots": 5, "rollouts": 5},
    "episodes of two groups": {**ALONE, "envs": 6, "groups": 2, "whole": True},
    "episodes of seeds": {"envs": 2, "groups": 2, "seeds": 2, "slots": 0, "whole": True},
    "one": {"envs": 1, "slots": 1, "rollouts": 30},
}


@pytest.mark.parametrize("make", [Strict, Chaotic])
@pytest.mark.parametrize("name", SHAPES)
def test_rollouts_are_those_of_plain_loops(name: str, make: Any):
    failures = 0
    for seed in range(4):
        shape = {"rollouts": 3, **SHAPES[name], "seed": 10 * seed}
        made = played(make, workers=0, **shape)
        counted = check(made, make, seed=10 * seed, whole=shape.get("whole", False))
        assert counted["episodes"] > 0
        failures += len(made.failures)
    assert (make is Chaotic) == (failures > 0)
    assert Strict.misused == 0


@pytest.mark.parametrize(
    ("name", "workers", "make"),
    [
        ("segments", 3, Chaotic),
        ("seeds", 2, Chaotic),
        ("episodes of two groups", 2, Chaotic),
        ("episodes of seeds", 2, Chaotic),
    ],
)
def test_they_do_not_depend_on_the_workers(name: str, workers: int, make: Any):
    shape = {"rollouts": 3, **SHAPES[name]}
    made = played(make, workers=workers, **shape)
    check(made, make, seed=0, whole=shape.get("whole", False))
    assert made.failures
    assert not any("Misused" in failure.what for failure in made.failures)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("name", SHAPES)
def test_they_do_not_depend_on_the_workers_in_any_shape(name: str, workers: int):
    for make in (Strict, Chaotic):
        shape = {**SHAPES[name], "rollouts": 40}
        made = played(make, workers=workers, **shape)
        check(made, make, seed=0, whole=shape.get("whole", False))
        assert not any("Misused" in failure.what for failure in made.failures)


def test_whole_episodes_of_one_group_are_stepped_while_the_other_acts():
    """The first group's are over after two transitions, the second's after four."""
    plan = {seed_of(0, number, 0): {"length": 2 + 2 * number} for number in (0, 1)}
    make = partial(Planned, plan)
    gatherer = gatherer_of(make, envs=2, slots=0, whole=True, groups=2, workers=2)
    pool, noise = gatherer.pool, noise_for(gatherer)
    send, wait, at_work, waited = pool.send, pool.wait, set[int](), list[int]()

    def sending(group: int, t: int | None) -> None:
        at_work.add(group)
        send(group, t)

    def waiting(group: int) -> None:
        waited.append(len(at_work))
        wait(group)
        at_work.discard(group)

    pool.send, pool.wait = sending, waiting
    check(Played([gather(gatherer, noise[0])], noise, []), make, seed=0, whole=True)
    pool.close()
    assert waited == [2, 1, *[2, 2], *[2, 1], 1, 1]  # to open, then slot by slot


def test_who_has_fewer_environments_of_one_group_has_more_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
):
    class Idle:
        """A worker that is given nothing to do."""

        pipe = SimpleNamespace(send_bytes=len)

        def __init__(self, board: int, job: Job):
            self.job = job

        def close(self, deadline: float) -> None: ...

    monkeypatch.setattr(processes, "Child", Idle)
    for each in range(1, 9):
        for workers in range(1, 2 * each + 1):
            config = HostConfig(workers=workers)
            pool = make_pool(Strict, SPEC, config, slots=1, n=2 * each, groups=2, whole=False)
            assert isinstance(pool, Processes)
            groups = [worker.job.groups for worker in pool.workers]
            pool.close()
            loads = [len(one) + len(other) for one, other in groups]
            assert (len(loads), sum(loads), max(loads) - min(loads) <= 1) == (
                workers,
                2 * each,
                True,
            )
            for i, first in enumerate((0, each)):
                played = sorted(e for both in groups for e in both[i])
                assert played == list(range(first, first + each))


@pytest.mark.parametrize("whole", [False, True])
def test_thousands_of_perturbations_never_reset_or_step_out_of_turn(whole: bool):
    kinds, failures = set(), 0
    gatherer = gatherer_of(Chaotic, envs=16, slots=40, whole=whole, groups=2, workers=0)
    for noise in noise_for(gatherer, 200 if whole else 20):
        gather(gatherer, noise)
        kinds |= {f.what.splitlines()[0][:30] for f in gatherer.pool.failures}
        failures += len(gatherer.pool.failures)
        assert all(len(f.what) < 600 for f in gatherer.pool.failures)
        gatherer.pool.failures.clear()
    gatherer.pool.close()
    assert Strict.misused == 0
    assert failures > 1000
    assert len(kinds) >= len(HARMLESS)


def test_memories_start_where_they_ended():
    for whole in (False, True):
        made = played(Strict, workers=0, rollouts=3, envs=4, slots=6, groups=2, whole=whole)
        for i, got in enumerate(made.rollouts):
            before = 0 if whole else 6 * i
            np.testing.assert_array_equal(got.start.memory, np.full((1, 4, 3, 2), before))
            if not whole:
                np.testing.assert_array_equal(got.after.memory, got.start.memory + 6)
            if i and not whole:
                before = made.rollouts[i - 1].slots.action[:, -1]
                np.testing.assert_array_equal(got.start.prev_action, before)
        np.testing.assert_array_equal(made.rollouts[0].start.prev_action, -1)


def test_what_was_gathered_is_not_written_over():
    gatherer = gatherer_of(Strict, envs=4, slots=6, workers=0)
    noise = noise_for(gatherer, 2)
    one = gather(gatherer, noise[0])
    before = [np.array(x) for x in one.slots]
    gather(gatherer, noise[1])
    for was, now in zip(before, one.slots, strict=True):
        np.testing.assert_array_equal(was, now)


class First:
    """Takes the first legal action."""

    def __init__(self, episodes: int):
        self.episodes = episodes

    def act(self, seen: Seen) -> Choice:
        assert len(seen.obs) == self.episodes
        return Choice(seen.avail_actions.argmax(-1).astype(np.int32), None)


def episodes(make: Any, opened: Any, count: int) -> list[tuple[float, int]]:
    """Return and length of the first greedy ones that do not fail."""
    env, number, found = make(), 0, []
    while len(found) < count:
        try:
            seen, total, length, ended = env.reset(opened(number)), 0.0, 0, False
            while not ended:
                assert not getattr(env, "broken", False)
                got = env.step(seen.avail_actions.argmax(-1).tolist())
                seen, total, length = got.seen, total + got.reward, length + 1
                ended = got.terminated or got.truncated
            assert not getattr(env, "broken", False)
            found.append((float(np.float32(total)), length))
        except BaseException:
            env = make()
        number += 1
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [Strict, Chaotic])
def test_an_evaluation_plays_every_environments_share(make: Any, workers: int):
    config = HostConfig(workers=workers, failures=10**6)
    pool = make_pool(make, SPEC, config, slots=1, n=3, groups=1, whole=False)
    for part in (0, 1, 0):
        done = play_on_host(pool, First, episodes=7, salt=(5, 100, part))
        want = []
        for e in range(3):
            opened = partial(seed_of, 5, e, salt=(1, 100, part))
            want += episodes(make, opened, 3 if e == 0 else 2)
        found = zip(done.episode_return.tolist(), done.length.tolist(), strict=True)
        assert sorted(found) == sorted(want)
    assert (pool.board.phase == OVER).all()
    assert not any("Misused" in failure.what for failure in pool.failures)
    pool.close()


def test_an_environment_that_exceeds_its_limit_fails():
    """It would never end an evaluation."""

    class Endless(Strict):
        def reset(self, seed: int) -> Any:
            seen = super().reset(seed)
            self.length = 10**6
            return seen

    made = played(Endless, workers=0, envs=1, slots=4 * LIMIT, rollouts=1)
    assert not made.rollouts[0].slots.valid.any()
    assert "goes on" in made.failures[0].what


def test_an_environment_of_other_facts_is_closed_and_none():
    open_ones: list[Any] = []

    class Other(Strict):
        def __init__(self) -> None:
            super().__init__()
            open_ones.append(self)
            self.spec = SPEC if len(open_ones) > 2 else 3  # pyright: ignore

    made = played(Other, workers=0, envs=1, slots=4, rollouts=1)
    assert [f.what for f in made.failures] == [
        "GarbageError in being made: the environment: expected the same facts each time it is made"
    ] * 2
    assert [env.state for env in open_ones] == ["closed"] * 3


def test_boards_need_nothing_of_linux(monkeypatch: pytest.MonkeyPatch):
    for name in ("memfd_create", "sched_getaffinity"):
        monkeypatch.delattr(boards.os, name)
    assert worker_count(HostConfig(), 1) == 1
    made = played(Strict, workers=2, rollouts=2, envs=3, slots=5)
    check(made, Strict, seed=0)


def test_plans_are_kept():
    """Of the environments of these tests."""
    plan = {seed_of(0, 0, 0): {"length": 3, "true_end": False}}
    made = played(partial(Planned, plan), workers=0, envs=1, slots=5, rollouts=1)
    slots = made.rollouts[0].slots
    assert slots.valid[0, :, 0].tolist() == [True, True, True, False, True]
    assert slots.first[0, :, 0].tolist() == [True, False, False, False, True]
    assert not slots.terminated[0, :4].any()

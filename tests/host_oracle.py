"""What a collector must gather from environments in Python, played one by one in a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from faulty_hosts import EPISODE, OVER, SPEC, TIME, seed_of
from qtot.envs.host.board import FINAL
from qtot.envs.host.config import HostConfig
from qtot.envs.host.pool import make_pool
from qtot.training.gather import Gatherer
from qtot.training.gathered import Gathered

MEMORY = 2


def actions_of(legal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Of legal actions ``[..., A]``, the one that a number in [0, 1) points to."""
    order = np.argsort(~legal, axis=-1, kind="stable")
    which = (noise * np.maximum(legal.sum(-1), 1)).astype(int)
    return np.take_along_axis(order, which[..., None], -1)[..., 0].astype(np.int8)


def act(policies: Any, env_steps: Any, shown: Any, previous: Any, memory: Any) -> Any:
    """A policy whose memory counts slots."""
    return actions_of(shown.seen.avail_actions, shown.noise[:, 0]), memory + 1


class Played(NamedTuple):
    """Rollouts, and who made them."""

    rollouts: list[Gathered]
    noise: np.ndarray
    """``[rollouts, seeds, T, 2, E, N]``"""
    failures: list[Any]


def gatherer_of(
    make: Any,
    *,
    envs: int,
    slots: int,
    whole: bool = False,
    groups: int = 1,
    seeds: int = 1,
    seed: int = 0,
    spec: Any = SPEC,
    **host: Any,
) -> Gatherer:
    """On a pool of its own."""
    slots = spec.episode_limit + 1 if whole else slots
    learner = SimpleNamespace(n_agents=spec.n_agents, n_actions=spec.max_actions)
    collector: Any = SimpleNamespace(envs=envs, slots=slots, whole_episodes=whole, learner=learner)
    config = HostConfig(**{"failures": 10**6, "timeout_s": 60.0, **host})
    sizes = {"slots": slots, "n": envs * seeds, "groups": groups, "whole": whole}
    pool = make_pool(make, spec, config, **sizes)
    return Gatherer(pool, collector, seeds=seeds, seed=seed, groups=groups, memory_size=MEMORY)


def gather(gatherer: Gatherer, noise: np.ndarray) -> Gathered:
    """One rollout."""
    return gatherer.gather(act, [], np.zeros(gatherer.seeds), noise)


def noise_for(gatherer: Gatherer, rollouts: int = 1) -> np.ndarray:
    c = gatherer.collector
    shape = (rollouts, gatherer.seeds, c.slots, 2, c.envs, c.learner.n_agents)
    return np.random.default_rng(3).random(shape)


def played(make: Any, *, rollouts: int, **options: Any) -> Played:
    """Rollouts of a pool that is closed again."""
    gatherer = gatherer_of(make, **options)
    noise = noise_for(gatherer, rollouts)
    try:
        gathered = [gather(gatherer, given) for given in noise]
        return Played(gathered, noise, list(gatherer.pool.failures))
    finally:
        gatherer.pool.close()


class Loop:
    """One environment, played as simply as can be."""

    def __init__(self, make: Callable[[], Any], seed: int, number: int, slots: int, whole: bool):
        self.make, self.seed, self.number = make, seed, number
        self.slots, self.whole = slots, whole
        self.env, self.episode = make(), 0
        self.phase = ""

    def failed(self, result: Any) -> bool:
        return isinstance(result, BaseException) or getattr(self.env, "broken", False)

    def tried(self, f: Callable[[Any], Any], given: Any) -> Any:
        try:
            return f(given)
        except BaseException as error:
            return error

    def open(self) -> None:
        while True:
            result = self.tried(self.env.reset, seed_of(self.seed, self.number, self.episode))
            self.episode += 1
            if not self.failed(result):
                break
            self.env = self.make()
        self.seen, self.first, self.phase = result, True, "running"
        self.rewards, self.length, self.since = 0.0, 0, self.t_next

    def rollout(self, noise: np.ndarray) -> dict[str, np.ndarray]:
        """Slots ``[T + 1, ...]``; ``noise`` is ``[T, N]``."""
        rows, valid, ends = [], np.zeros(self.slots + 1, bool), {}
        self.since = self.t_next = 0
        if self.whole or not self.phase:
            self.open()
        for t in range(self.slots + 1):
            shows = self.phase != "over"
            row = {"shows": shows, "first": shows and self.first, "final": self.phase == "final"}
            row |= {"reward": 0.0, "terminated": False, "action": np.zeros(3)}
            if shows:
                row |= self.seen._asdict()
            rows.append(row)
            if t == self.slots:
                break
            self.t_next = t + 1
            if self.phase == "final":
                if self.whole:
                    self.phase = "over"
                else:
                    self.open()
            elif self.phase == "running":
                action = actions_of(self.seen.avail_actions, noise[t])
                row["action"] = action
                result = self.tried(self.env.step, action.tolist())
                if self.failed(result):
                    valid[self.since : t + 1] = False
                    self.env = self.make()
                    if self.whole:
                        self.phase = "over"
                    else:
                        self.open()
                    continue
                valid[t] = True
                row |= {"reward": result.reward, "terminated": result.terminated}
                self.rewards, self.length = self.rewards + result.reward, self.length + 1
                self.seen, self.first = result.seen, False
                if result.terminated or result.truncated:
                    self.phase = "final"
                    ends[t] = (self.rewards, self.length, *result.info.values())
        for row, fine in zip(rows, valid, strict=True):
            if not fine:
                row |= {"reward": 0.0, "terminated": False}
        found: dict[str, Any] = {k: np.array([r.get(k, np.nan) for r in rows], object) for k in row}
        return {**found, "valid": valid, "rows": rows, "ends": ends}


SLOTS = ("obs", "state", "avail_actions", "alive", "first")


def check(made: Played, make: Any, *, seed: int, whole: bool = False) -> dict[str, float]:
    """Rollouts are those of plain loops, slot by slot; what was counted."""
    seeds, slots, _, envs, _ = made.noise.shape[1:]
    total = {"episodes": 0, "transitions": 0}
    loops = [[Loop(make, seed + s, k, slots, whole) for k in range(envs)] for s in range(seeds)]
    for got, noise in zip(made.rollouts, made.noise, strict=True):
        for s in range(seeds):
            ends: list[Any] = []
            for k in range(envs):
                want = loops[s][k].rollout(noise[s, :, 0, k])
                _same(got, want, s, k, whole)
                ends += want["ends"].values()
                total["transitions"] += int(want["valid"].sum())
            sums = np.sum(ends, axis=0) if ends else np.zeros(4)
            tally = got.tally
            told = [tally.episode_return, tally.episode_length, *tally.info.values()]
            np.testing.assert_allclose([x[s] for x in told], sums, rtol=1e-5)
            assert tally.episodes[s] == len(ends)
            assert tally.transitions[s] == got.slots.valid[s].sum()
            total["episodes"] += len(ends)
    return total


def _same(got: Gathered, want: dict[str, Any], s: int, k: int, whole: bool) -> None:
    slots = got.slots.valid.shape[1]
    np.testing.assert_array_equal(got.slots.valid[s, :, k], want["valid"][:-1])
    for t, row in enumerate(want["rows"][:-1]):
        if not row["shows"]:
            assert not got.slots.first[s, t, k]
            continue
        for name in SLOTS:
            np.testing.assert_array_equal(getattr(got.slots, name)[s, t, k], row[name], str(t))
        assert got.slots.reward[s, t, k] == np.float32(row["reward"])
        assert got.slots.terminated[s, t, k] == row["terminated"]
        if want["valid"][t]:
            np.testing.assert_array_equal(got.slots.action[s, t, k], row["action"])
    if not whole:
        stream, row = got.after.stream, want["rows"][slots]
        for name in SLOTS[:4]:
            np.testing.assert_array_equal(getattr(stream.env, name)[s, k], row[name])
        assert (stream.first[s, k], stream.final[s, k]) == (row["first"], row["final"])


def check_streams(gatherer: Gatherer, got: Gathered) -> None:
    """What holds of every rollout, whatever failed in it: slots follow each other, episodes are
    there whole or not at all, and what ended shows its end and counts.
    """
    slots = got.slots
    time, episode, over = (slots.obs[:, :, :, 0, i].swapaxes(1, 2) for i in (TIME, EPISODE, OVER))
    first, valid = slots.first.swapaxes(1, 2), slots.valid.swapaxes(1, 2)
    ends = 0
    for s, e in np.ndindex(valid.shape[:2]):
        for t in range(valid.shape[2]):
            here = (s, e, t)
            if gatherer.collector.whole_episodes and t and not valid[s, e, t - 1]:
                assert not (valid[s, e, t:].any() or first[s, e, t:].any()), here
                break
            assert not (over[here] and (first[here] or valid[here])), here
            assert first[here] == (time[here] == 0), here
            if t == 0:
                continue
            last = (s, e, t - 1)
            if first[here]:
                assert over[last] or not valid[last], here
            else:
                assert episode[here] == episode[last], here
                assert time[here] == time[last] + 1, here
                assert not over[last], here
                if over[here]:
                    assert valid[last], here
                    ends += 1
                elif valid[here]:
                    assert valid[last], here
        if gatherer.collector.whole_episodes:
            continue
        last = gatherer.pool.board.phase.reshape(gatherer.groups, gatherer.seeds, -1)
        final = last[e // gatherer.each, s, e % gatherer.each] == FINAL
        assert got.after.stream.final[s, e] == final
        assert (got.after.stream.env.obs[s, e, 0, OVER] == 1) == final
        ends += int(final and valid[s, e, -1])
    assert got.tally.episodes.sum() == ends

"""Playing an environment in Python with random legal actions; a part of ``check``.

Whatever the environment does, playing goes on or ends, and what was wrong is told: nothing that
it raises or returns gets through.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qtot.envs.check_record import Record, real_entries
from qtot.envs.host.base import ERRORS, HostEnv, Seen
from qtot.envs.host.check_found import Found
from qtot.envs.host.check_read import Reader
from qtot.envs.spec import EnvSpec

FAILURES = 5
"""episodes that may come to grief before playing ends"""
RECORDED_BYTES = 2**30
"""observations kept; playing ends when there are more"""


class Result(NamedTuple):
    """What followed the joint actions, ``[T, 1]``."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Played(Record):
    """A record of one copy: slots are told as steps of episodes."""

    __slots__ = ()

    def place(self, slot: int, copy: int) -> str:
        """Where that is, for a reader."""
        episode = int((self.time[: slot + 1, copy] == 0).sum()) - 1
        return f"step {self.time[slot, copy]} of episode {episode}"


@dataclass
class Episode:
    """What repeats an episode."""

    seed: int
    first_slot: int
    actions: list[list[int]] = field(default_factory=list)


class Stumble(NamedTuple):
    """A step that raised although every action was legal."""

    episode: Episode
    """up to that step"""
    actions: list[int]
    legal: np.ndarray


class Player:
    """Plays, and writes down what it sees.

    ``steps`` and ``wall_s`` bound the play; either may end it within an episode.
    """

    def __init__(self, env: HostEnv, spec: EnvSpec, *, steps: int, seed: int, wall_s: float):
        self.env, self.spec, self.steps, self.seed = env, spec, steps, seed
        self.found = Found()
        self.episodes: list[Episode] = []
        self.agent_rewards: list[np.ndarray] = []
        self.stumble: Stumble | None = None
        self.seconds = 0.0
        """spent in the environment"""
        self.cut = ""
        """what ended the play before its last step"""
        self._reader = Reader(spec, self.found)
        self._luck = np.random.default_rng(seed)
        self._real = real_entries(spec.n_actions)
        self._until, self._wall_s = time.perf_counter() + wall_s, wall_s
        self._failures = self._taken = self._bytes = 0
        self._slots: list[Seen] = []
        self._rows: list[list[Any]] = []  # time, valid, reward, terminated, truncated

    def play(self) -> Played | None:
        """The record; None where no episode began."""
        attempts = 0
        while self._room() and self._failures < FAILURES:
            if not self._episode(self.seed + attempts):
                self._failures += 1
            attempts += 1
        if self._failures >= FAILURES:
            self.cut = self.cut or f"{FAILURES} failures"
        if not self._slots:
            return None
        seen = Seen(*(np.stack(arrays)[:, None] for arrays in zip(*self._slots, strict=True)))
        when, valid, *result = (np.array(row)[:, None] for row in zip(*self._rows, strict=True))
        return Played(seen, Result(*result), when, valid)

    def _room(self) -> bool:
        if time.perf_counter() > self._until:
            self.cut = f"{self._wall_s:g} s"
        elif self._bytes > RECORDED_BYTES:
            self.cut = f"{RECORDED_BYTES / 2**30:g} GiB of observations"
        return not self.cut and self._taken < self.steps

    def _episode(self, seed: int) -> bool:
        """Whether it went well, as far as there was room for it."""
        place = f"step 0 of episode {len(self.episodes)}"
        try:
            seen = self._timed(self.env.reset, seed)
        except ERRORS as error:
            self.found.raised("reset_raised", f"reset({seed})", error, "an episode to begin")
            return False
        kept = self._reader.seen(seen, place)
        if kept is None:
            return False
        self._ask(self._reader.outside, place)
        self.episodes.append(Episode(seed, len(self._slots)))
        step, ended = 0, False
        while step < self.spec.episode_limit and not ended:
            self._write(kept, step)
            if not self._room():
                return True
            kept, ended = self._step(kept, step)
            if kept is None:
                return False
            step += 1
        self._write(kept, step)
        return True

    def _write(self, seen: Seen, step: int) -> None:
        self._slots.append(seen)
        self._rows.append([step, False, 0.0, False, False])
        self._bytes += sum(array.nbytes for array in seen)

    def _step(self, seen: Seen, step: int) -> tuple[Seen | None, bool]:
        """What is seen next, None if playing cannot go on, and whether the episode ended."""
        episode, count = self.episodes[-1], len(self.episodes) - 1
        place, next_place = (f"step {n} of episode {count}" for n in (step, step + 1))
        legal: np.ndarray = np.logical_and(seen.avail_actions, self._real)
        some = np.any(legal, -1, keepdims=True)
        luck = self._luck.random(legal.shape)
        # an agent without a legal action is told of later; until then anything may be right
        allowed = np.where(some, legal, self._real)
        actions = [int(a) for a in np.where(allowed, luck, -1).argmax(-1)]
        try:
            stepped = self._timed(self.env.step, list(actions))
        except ERRORS as error:
            if np.all(some | ~seen.alive[:, None]):
                self.found.raised("step_raised", place, error, "an answer to legal actions")
                so_far = Episode(episode.seed, episode.first_slot, list(episode.actions))
                self.stumble = self.stumble or Stumble(so_far, actions, legal)
            return None, False
        self._taken += 1
        kept = self._reader.stepped(stepped, place, next_place)
        if kept is None:
            return None, False
        self._ask(self._reader.outside, next_place)
        own = self._ask(self._reader.agent_rewards, place)
        if own is not None:
            self.agent_rewards.append(own)
        episode.actions.append(actions)
        self._rows[-1][1:] = [True, kept.reward, kept.terminated, kept.truncated]
        return kept.seen, kept.terminated or kept.truncated

    def _ask(self, ask: Callable[[HostEnv, str], Any], place: str) -> Any:
        """For what adapters may offer; None where that raises."""
        try:
            return ask(self.env, place)
        except ERRORS as error:
            self.found.raised(f"{ask.__name__}_raised", place, error, "an answer")
            return None

    def _timed(self, function: Any, argument: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(argument)
        finally:
            self.seconds += time.perf_counter() - began

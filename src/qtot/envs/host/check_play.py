"""Playing an environment written in Python with random legal actions; a part of ``check``.

Whatever the environment does, playing goes on or ends, and what was wrong is told: nothing that
it raises or returns gets through.
"""

from __future__ import annotations

import numbers
import sysconfig
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import qtot
from qtot.envs.check_record import Record, real_entries
from qtot.envs.check_spec import FIELDS
from qtot.envs.host.base import GarbageError, HostEnv, Seen, Stepped
from qtot.envs.report import Problem, Severity, problem
from qtot.envs.spec import EnvSpec

FAILURES = 5
"""episodes that may come to grief before playing ends"""
RECORDED_BYTES = 2**30
"""observations kept; playing ends when there are more"""

QTOT = str(Path(qtot.__file__).parent)
LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<frozen")


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
class Found:
    """Problems, each told where it was first seen, and how often it was."""

    _told: dict[tuple[str, str], tuple[int, str, tuple[str, str, str], Severity]] = field(
        default_factory=dict
    )

    def tell(
        self,
        kind: str,
        what: str,
        place: str,
        *why: str,
        severity: Severity = "error",
    ) -> None:
        """``why``: expected, got, remedy."""
        expected, got, remedy = why
        count, place, first, severity = self._told.get(
            (kind, what), (0, place, (expected, got, remedy), severity)
        )
        self._told[kind, what] = count + 1, place, first, severity

    def raised(self, kind: str, place: str, error: Exception, expected: str) -> None:
        """An exception of the user's code, or an adapter's word for what it was given."""
        at = origin(error)
        if isinstance(error, GarbageError):
            said = str(error).rstrip(".")
            remedy = "mend what the environment returns there"
            self.tell(
                "garbage", said.partition(":")[0], place, "what training can use", said, remedy
            )
            return
        self.tell(kind, at, place, expected, f"{summary(error)} at {at}", "mend it there")

    def __contains__(self, kind: str) -> bool:
        return any(kind == told for told, _ in self._told)

    def __iter__(self) -> Iterator[Problem]:
        for (kind, what), (count, place, why, severity) in self._told.items():
            often = f" (first of {count})" if count > 1 else ""
            # where code is at fault, its line is a part of what was got
            where = place if kind.endswith("_raised") else f"{what}, {place}"
            yield problem(kind, where + often, *why, severity=severity)


def summary(error: BaseException) -> str:
    """Type and first line of the message."""
    return f"{type(error).__name__} ({str(error).partition(chr(10))[0].rstrip('.')})"


def origin(error: BaseException) -> str:
    """``file:line`` of the user's code: the innermost frame that is no library's, nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(QTOT)]
    users = [
        frame
        for frame in theirs
        if not frame.filename.startswith(LIBRARIES) and "site-packages" not in frame.filename
    ]
    last = (users or theirs or frames)[-1:]
    return f"{last[0].filename}:{last[0].lineno}" if last else "an unknown place"


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
        self._luck = np.random.default_rng(seed)
        self._real = real_entries(spec.n_actions)
        self._until, self._wall_s = time.perf_counter() + wall_s, wall_s
        self._failures = self._taken = self._bytes = 0
        self._slots: list[Seen] = []
        self._rows: list[list[Any]] = []  # time, valid, reward, terminated, truncated
        self._handed: Seen | None = None

    def play(self) -> Played | None:
        """The record; None where no episode began."""
        attempts = 0
        while self._room() and self._failures < FAILURES:
            self._episode(self.seed + attempts)
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

    def _episode(self, seed: int) -> None:
        place = f"step 0 of episode {len(self.episodes)}"
        try:
            seen = self._timed(self.env.reset, seed)
        except Exception as error:
            self.found.raised("reset_raised", f"reset({seed})", error, "an episode to begin")
            self._failures += 1
            return
        kept = self._seen(seen, place)
        if kept is None:
            self._failures += 1
            return
        self.episodes.append(Episode(seed, len(self._slots)))
        step, ended = 0, False
        while step < self.spec.episode_limit and not ended:
            self._write(kept, step)
            if not self._room():
                return
            kept, ended = self._step(kept, step)
            if kept is None:
                self._failures += 1
                return
            step += 1
        self._write(kept, step)

    def _write(self, seen: Seen, step: int) -> None:
        self._slots.append(seen)
        self._rows.append([step, False, 0.0, False, False])
        self._bytes += sum(array.nbytes for array in seen)

    def _step(self, seen: Seen, step: int) -> tuple[Seen | None, bool]:
        """What is seen next, None if playing cannot go on, and whether the episode ended."""
        episode = self.episodes[-1]
        place = f"step {step} of episode {len(self.episodes) - 1}"
        legal: np.ndarray = np.logical_and(seen.avail_actions, self._real)
        some = np.any(legal, -1, keepdims=True)
        luck = self._luck.random(legal.shape)
        # an agent without a legal action is told of later; until then anything may be right
        allowed = np.where(some, legal, self._real)
        actions = [int(a) for a in np.where(allowed, luck, -1).argmax(-1)]
        try:
            stepped = self._timed(self.env.step, actions)
        except Exception as error:
            if np.all(some | ~seen.alive[:, None]):
                self.found.raised("step_raised", place, error, "an answer to legal actions")
                so_far = Episode(episode.seed, episode.first_slot, list(episode.actions))
                self.stumble = self.stumble or Stumble(so_far, actions, legal)
            return None, False
        self._taken += 1
        if not isinstance(stepped, Stepped):
            remedy = "return Stepped(seen, reward, terminated, truncated, info)"
            got = type(stepped).__name__
            self.found.tell("interface", "step", place, "a Stepped", got, remedy)
            return None, False
        told = self._numbers(stepped, place)
        kept = self._seen(stepped.seen, f"step {step + 1} of episode {len(self.episodes) - 1}")
        if told is None or kept is None:
            return None, False
        self._extras(place)
        episode.actions.append(actions)
        self._rows[-1][1:] = [True, *told]
        return kept, told[1] or told[2]

    def _timed(self, function: Any, argument: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(argument)
        finally:
            self.seconds += time.perf_counter() - began

    def _seen(self, seen: Any, place: str) -> Seen | None:
        """A copy in the form that the contract asks for; None if there is none."""
        self._compare_buffers(place)
        if not isinstance(seen, Seen):
            remedy = "return Seen(obs, state, avail_actions, alive)"
            self.found.tell("interface", "seen", place, "a Seen", type(seen).__name__, remedy)
            return None
        arrays = [self._array(name, array, place) for name, array in seen._asdict().items()]
        if any(array is None for array in arrays):
            return None
        kept = Seen(*arrays)  # pyright: ignore[reportArgumentType]
        self._handed, self._as_handed = seen, kept
        return kept

    def _compare_buffers(self, place: str) -> None:
        """Whether the last arrays handed out still hold what they held then."""
        handed, self._handed = self._handed, None
        if handed is None:
            return
        for name, array, kept in zip(Seen._fields, handed, self._as_handed, strict=True):
            now = _cast(array, kept.dtype)
            if now is None or not np.array_equal(now, kept, equal_nan=True):
                expected = "the array of the step before to stay as it was"
                remedy = "return a copy (array.copy()) instead of a buffer that is written again"
                self.found.tell("reused_buffer", name, place, expected, "new values in it", remedy)

    def _array(self, name: str, array: Any, place: str) -> np.ndarray | None:
        spec = self.spec
        sizes = {"N": spec.n_agents, "O": spec.obs_size, "A": spec.max_actions}
        sizes["S"] = spec.state_size
        axes, kind, remedy = FIELDS[name]
        shape = tuple(sizes[axis] for axis in axes)
        dtype = np.dtype({"float": np.float32, "bool": np.bool_}[kind])
        if not isinstance(array, np.ndarray):
            expected, got = f"an array of shape {shape}", type(array).__name__
            self.found.tell("shape", name, place, expected, got, remedy)
            return None
        if array.shape != shape:
            remedy = f"{remedy}, in every step the same"
            self.found.tell("shape", name, place, f"shape {shape}", f"{array.shape}", remedy)
            return None
        cast = _cast(array, dtype)
        if array.dtype == dtype or cast is None:
            if cast is None:
                self.found.tell("dtype", name, place, f"dtype {dtype}", f"{array.dtype}", remedy)
            return cast
        strange = array[(array != 0) & (array != 1)] if kind == "bool" else array[:0]
        if strange.size:
            remedy = "if it is added to values (0 or -inf), return mask == 0; True = legal"
            self.found.tell("mask_values", name, place, "True or False", f"{strange[0]}", remedy)
        else:
            remedy = (
                f"convert it with .astype({kind if kind == 'bool' else 'np.float32'}); {remedy}"
            )
            self.found.tell("dtype", name, place, f"dtype {dtype}", f"{array.dtype}", remedy)
        return cast

    def _numbers(self, stepped: Stepped, place: str) -> list[Any] | None:
        """Reward and ends, as Python has them; None where they are something else."""
        reward = _number(stepped.reward)
        if reward is None:
            remedy = FIELDS["reward"][2]
            got = _described(stepped.reward)
            self.found.tell("reward_no_number", "reward", place, "a number", got, remedy)
        ends = []
        for name in ("terminated", "truncated"):
            end = getattr(stepped, name)
            ends.append(bool(end) if isinstance(end, bool | np.bool_) else None)
            if ends[-1] is None:
                remedy = FIELDS[name][2]
                self.found.tell("end_no_bool", name, place, "a bool", _described(end), remedy)
        info, names = stepped.info, sorted(self.spec.info)
        if not isinstance(info, dict) or {*info} != {*names}:
            got = (
                f"the keys {sorted(map(str, info))}" if isinstance(info, dict) else _described(info)
            )
            remedy = "list in spec.info what every step's info holds; {} for nothing"
            self.found.tell("info_keys", "info", place, f"the keys {names}", got, remedy)
        else:
            for name, value in info.items():
                if _number(value) is None:
                    what, got = f"info[{name!r}]", _described(value)
                    self.found.tell("info_no_number", what, place, "a number", got, "report one")
        return None if reward is None or None in ends else [reward, *ends]

    def _extras(self, place: str) -> None:
        """What adapters may offer: the agents' own rewards, and what is outside of its space."""
        try:
            outside = getattr(self.env, "outside", None)
            said = outside() if callable(outside) else None
            rewards = getattr(self.env, "agent_rewards", None)
        except Exception as error:
            self.found.raised("step_raised", place, error, "an answer about the last step")
            return
        if said is not None:
            expected = "observations inside the declared space"
            remedy = "mend the space or the observation; nothing is clipped in training"
            self.found.tell(
                "outside_space",
                "observation",
                place,
                expected,
                str(said),
                remedy,
                severity="notice",
            )
        if rewards is None:
            return
        own = _cast(rewards, np.dtype(np.float64))
        if own is None or own.shape != (self.spec.n_agents,):
            expected, got = (
                f"one number for each of {self.spec.n_agents} agents",
                _described(rewards),
            )
            remedy = "set it after every step, 0 for the dead"
            self.found.tell("agent_rewards", "agent_rewards", place, expected, got, remedy)
        else:
            self.agent_rewards.append(own)


def _cast(array: Any, dtype: np.dtype) -> np.ndarray | None:
    """A copy; None where that is no array of numbers."""
    try:
        with np.errstate(all="ignore"):
            plain = np.asarray(array)
            if dtype == np.bool_ and plain.dtype.kind == "f" and (plain < 0).any():
                return plain == 0  # a mask to be added to values
            return np.array(plain, dtype) if plain.dtype.kind in "biuf" else None
    except (TypeError, ValueError, OverflowError):
        return None


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, numbers.Real | np.bool_) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _described(value: Any) -> str:
    shape = getattr(value, "shape", ())
    return f"{type(value).__name__} of shape {shape}" if shape else f"{type(value).__name__}"


def retrace(
    env: HostEnv, episode: Episode, actions: Sequence[list[int]]
) -> Iterator[tuple[Any, Stepped | None]]:
    """What is seen, and what was answered, from the reset on. Raises what the environment does."""
    yield env.reset(episode.seed), None
    for joint in actions:
        stepped = env.step(joint)
        yield stepped.seen, stepped


def difference(
    seen: Any, stepped: Stepped | None, record: Played, slot: int
) -> tuple[str, str] | None:
    """The first field in which a repeated slot departs from the record, and both its values."""
    pairs: list[tuple[str, Any, Any]] = []
    if stepped is not None:
        pairs += [
            (n, getattr(stepped, n), getattr(record.result, n)[slot - 1, 0])
            for n in ("reward", "terminated", "truncated")
        ]
    pairs += [(n, getattr(seen, n), getattr(record.seen, n)[slot, 0]) for n in Seen._fields]
    for name, got, kept in pairs:
        new = _cast(got, kept.dtype)
        if new is None or new.shape != kept.shape:
            return name, f"{kept.shape} and {_described(got)}"
        differs = np.argwhere((new != kept) & ~(np.isnan(new) & np.isnan(kept)))
        if len(differs):
            place = tuple(differs[0])
            return name, f"{kept[place]} and {new[place]}"
    return None

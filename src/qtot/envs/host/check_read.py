"""Reading what an environment in Python answered; a part of ``check``."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from qtot.envs.check_spec import FIELDS
from qtot.envs.host.base import HostEnv, Seen, Stepped
from qtot.envs.host.check_found import Found
from qtot.envs.host.player import LARGEST
from qtot.envs.spec import EnvSpec

DTYPES = {"float": (np.dtype(np.float32), "np.float32"), "bool": (np.dtype(np.bool_), "bool")}
"""by their names in ``FIELDS``, with what a user writes"""


class Reader:
    """Copies what it is given into the form that the contract asks for; where that cannot be, it
    tells ``found`` and gives None.
    """

    def __init__(self, spec: EnvSpec, found: Found):
        self._spec, self._found = spec, found
        self._sizes = {
            "N": spec.n_agents,
            "O": spec.obs_size,
            "A": spec.max_actions,
            "S": spec.state_size,
        }
        self._handed: tuple[Seen, Seen] | None = None
        """the last one, and what was in it"""

    def seen(self, seen: Any, place: str) -> Seen | None:
        """What a slot shows."""
        self._compare_buffers(place)
        if not isinstance(seen, Seen):
            remedy = "return Seen(obs, state, avail_actions, alive)"
            self._found.tell("interface", "seen", place, "a Seen", type(seen).__name__, remedy)
            return None
        arrays = [self._array(name, array, place) for name, array in seen._asdict().items()]
        if any(array is None for array in arrays):
            return None
        kept = Seen(*arrays)  # pyright: ignore[reportArgumentType]
        self._handed = seen, kept
        return kept

    def stepped(self, stepped: Any, place: str, next_place: str) -> Stepped | None:
        """What followed a joint action, in Python's own numbers."""
        if not isinstance(stepped, Stepped):
            remedy = "return Stepped(seen, reward, terminated, truncated, info)"
            got = type(stepped).__name__
            self._found.tell("interface", "step", place, "a Stepped", got, remedy)
            return None
        reward = _number(stepped.reward)
        if reward is None:
            self._refuse("reward_no_number", "reward", place, "a number", stepped.reward)
        elif LARGEST < abs(reward) < math.inf:
            told = "a float32", f"{reward:g}", "make it smaller; training discards the episode"
            self._found.tell("reward_too_large", "reward", place, *told)
        terminated = self._end("terminated", stepped.terminated, place)
        truncated = self._end("truncated", stepped.truncated, place)
        self._info(stepped.info, place)
        seen = self.seen(stepped.seen, next_place)
        if seen is None or reward is None or terminated is None or truncated is None:
            return None
        return Stepped(seen, reward, terminated, truncated, stepped.info)

    def outside(self, env: HostEnv, place: str) -> None:
        """An adapter's word for what lies outside of the declared space. Raises what it does."""
        outside = getattr(env, "outside", None)
        if callable(outside) and (said := outside()) is not None:
            expected, got = "observations inside the declared space", " ".join(str(said).split())
            remedy = "mend the space or the observation; nothing is clipped in training"
            told = "outside_space", "observation", place, expected, got, remedy
            self._found.tell(*told, severity="notice")

    def agent_rewards(self, env: HostEnv, place: str) -> np.ndarray | None:
        """The agents' own rewards, float64 ``[N]``, where an adapter offers them. Raises what it
        does.
        """
        given = getattr(env, "agent_rewards", None)
        if given is None:
            return None
        own, n = cast(given, np.dtype(np.float64)), self._spec.n_agents
        if own is not None and own.shape == (n,):
            return own
        what, expected = "agent_rewards", f"one number for each of {n} agents"
        remedy = "set it after every step, 0 for the dead"
        self._found.tell(what, what, place, expected, described(given), remedy)
        return None

    def _compare_buffers(self, place: str) -> None:
        """Whether the last arrays handed out still hold what they held then."""
        handed, self._handed = self._handed, None
        if handed is None:
            return
        for name, array, kept in zip(Seen._fields, *handed, strict=True):
            now = cast(array, kept.dtype)
            if now is None or not np.array_equal(now, kept, equal_nan=True):
                expected = "the array of the step before to stay as it was"
                remedy = "return a copy (array.copy()) instead of a buffer that is written again"
                self._found.tell("reused_buffer", name, place, expected, "new values in it", remedy)

    def _array(self, name: str, array: Any, place: str) -> np.ndarray | None:
        axes, kind, remedy = FIELDS[name]
        shape = tuple(self._sizes[axis] for axis in axes)
        if not isinstance(array, np.ndarray):
            expected, got = f"an array of shape {shape}", type(array).__name__
            self._found.tell("shape", name, place, expected, got, remedy)
            return None
        if array.shape != shape:
            remedy = f"{remedy}, in every step the same"
            self._found.tell("shape", name, place, f"shape {shape}", f"{array.shape}", remedy)
            return None
        dtype, written = DTYPES[kind]
        copy = cast(array, dtype)
        masks = kind == "bool" and copy is not None
        strange = array[(array != 0) & (array != 1)] if masks else array[:0]
        if strange.size:
            remedy = "if it is added to values (0 or -inf), return mask == 0; True = legal"
            self._found.tell("mask_values", name, place, "True or False", f"{strange[0]}", remedy)
        elif array.dtype != dtype:
            remedy = remedy if copy is None else f"convert it with .astype({written}); {remedy}"
            self._found.tell("dtype", name, place, f"dtype {dtype}", f"{array.dtype}", remedy)
        return copy

    def _end(self, name: str, value: Any, place: str) -> bool | None:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        self._refuse("end_no_bool", name, place, "a bool", value)
        return None

    def _refuse(self, kind: str, name: str, place: str, expected: str, value: Any) -> None:
        self._found.tell(kind, name, place, expected, described(value), FIELDS[name][2])

    def _info(self, info: Any, place: str) -> None:
        names = sorted(self._spec.info)
        if not isinstance(info, dict) or {*info} != {*names}:
            keys = isinstance(info, dict)
            got = f"the keys {sorted(map(str, info))}" if keys else described(info)
            remedy = "list in spec.info what every step's info holds; {} for nothing"
            self._found.tell("info_keys", "info", place, f"the keys {names}", got, remedy)
            return
        for name, value in info.items():
            what, number = f"info[{name!r}]", _number(value)
            if number is None:
                got = described(value)
                self._found.tell("info_no_number", what, place, "a number", got, "report one")
            elif not abs(number) <= LARGEST:
                remedy = "report one that is; training discards the episode"
                got = f"{number:g}"
                self._found.tell("info_not_finite", what, place, "a finite float32", got, remedy)


def cast(array: Any, dtype: np.dtype) -> np.ndarray | None:
    """A copy; None where that is no array of numbers."""
    try:
        with np.errstate(all="ignore"):
            plain = np.asarray(array)
            if dtype == np.bool_ and plain.dtype.kind == "f" and (plain < 0).any():
                return plain == 0  # a mask to be added to values
            return np.array(plain, dtype) if plain.dtype.kind in "biuf" else None
    except (TypeError, ValueError, OverflowError):
        return None


def described(value: Any) -> str:
    """Its type, and its shape if it has one."""
    shape = getattr(value, "shape", ())
    return f"{type(value).__name__} of shape {shape}" if shape else f"{type(value).__name__}"


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, numbers.Real | np.bool_) else None
    except (TypeError, ValueError, OverflowError):
        return None

"""One agent that acts alone: what it is asked and what it answers, whatever computes its values.

In the lab that is JAX (``Run.agent``), on a robot ONNX Runtime (``qtot.deploy``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qtot.errors import QtotError
from qtot.shapes import ObsShape, array_shape, flatten, is_named

PIXEL = np.float32(1.0 / 255.0)
"""what training multiplies pixels of uint8 by"""
UNTOLD = "*"
"""in place of a part's name: pixels are scaled where no part of its own says so"""


@dataclass(frozen=True)
class Place:
    """An agent's place in its team."""

    name: str
    index: int
    """counted from 0, in the order of the environment's agents"""
    n_actions: int
    obs_size: int
    """features of its own observation, before zero-padding"""
    obs_shape: ObsShape = ()
    """of an image, or of the parts of a dict; empty where observations are vectors"""
    pixels: tuple[str, ...] = ()
    """parts of a dict that are images of uint8 in the environment; ``("",)`` for an image"""
    action_meanings: tuple[str, ...] = ()
    """a word for each action, where the environment has them"""


class Memory(NamedTuple):
    """What an agent carries from step to step."""

    hidden: Any
    """recurrent state, float32 ``[K]``"""
    prev_action: int
    """the action before, or -1 at an episode's start"""


class Alone(ABC):
    """``memory = reset()``, then ``action, memory = act(obs, avail_actions, memory)``."""

    def __init__(self, place: Place, memory_size: int):
        self.place, self.memory_size = place, memory_size
        self.name, self.index = place.name, place.index
        self.obs_size, self.obs_shape = place.obs_size, place.obs_shape
        self.n_actions = place.n_actions

    @abstractmethod
    def _values(self, obs: np.ndarray, memory: Memory) -> tuple[np.ndarray, Any]:
        """Of the flat observation: values ``[n_actions]``, and the recurrent state after it."""

    def reset(self) -> Memory:
        """The memory with which an episode begins."""
        return Memory(np.zeros(self.memory_size, np.float32), -1)

    def q_values(self, obs: Any, memory: Memory) -> tuple[np.ndarray, Any]:
        """Q_a of every action, ``[n_actions]``, and the recurrent state after seeing ``obs``. For
        COMA, logits of the policy in place of Q-values.

        Raises:
            QtotError: ``obs`` has another shape than in training or is not finite; ``memory`` is
                none of this agent's.
        """
        return self._values(self.flat(obs), self._remembered(memory))

    def act(
        self,
        obs: Any,
        avail_actions: Sequence[bool] | np.ndarray | None,
        memory: Memory,
        *,
        epsilon: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> tuple[int, Memory]:
        """The greedy legal action, or with probability ``epsilon`` a random legal one.

        Args:
            obs: this agent's own observation, ``[obs_size]``, not padded; an image, or a dict of
                arrays, in its own shape. Values as in training: pixels within [0, 1], or as uint8
                where the environment's are.
            avail_actions: True where legal, ``[n_actions]``; None when all are.
            memory: from ``reset`` or the last ``act``.
            epsilon: share of random actions.
            rng: where they come from; needed when ``epsilon`` is above 0.

        Raises:
            QtotError: a wrong shape, a number that is not finite, or no legal action.
        """
        legal = self._legal(avail_actions)
        q, hidden = self.q_values(obs, memory)
        if not (np.isfinite(q).all() and np.isfinite(np.asarray(hidden)).all()):
            raise QtotError(
                f"the values of {self.name} are not finite: is the observation far outside of what "
                "was seen in training?"
            )
        action = int(np.argmax(np.where(legal, q, -np.inf)))
        if epsilon > 0.0:
            if rng is None:
                raise QtotError("epsilon above 0 needs rng=numpy.random.default_rng(seed)")
            if rng.random() < epsilon:
                action = int(rng.choice(np.flatnonzero(legal)))
        return action, Memory(hidden, action)

    def flat(self, obs: Any) -> np.ndarray:
        """The observation as in training: float32 ``[obs_size]``.

        Raises:
            QtotError: it has another shape, or is not finite.
        """
        try:
            got, flat = self._flat(obs)
        except (TypeError, ValueError, OverflowError) as error:
            raise QtotError(f"{self.name} expects an observation of numbers ({error})") from None
        if flat is None:
            shape = dict(self.obs_shape) if is_named(self.obs_shape) else self.obs_shape
            other = f" or {shape}" if shape else ""
            raise QtotError(
                f"{self.name} expects an observation of shape ({self.obs_size},){other}, got {got}"
            )
        if not np.isfinite(flat).all():
            at = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise QtotError(
                f"{self.name} expects an observation of finite numbers, got {flat[at]} at {at}"
            )
        return flat

    def _flat(self, obs: Any) -> tuple[Any, np.ndarray | None]:
        """Its shape, and the same in a row, unless the shape is another than in training."""
        if isinstance(obs, Mapping):
            got = {name: np.shape(part) for name, part in obs.items()}
            if not is_named(self.obs_shape):
                return got, None
            parts = {name: self._scaled(name, part) for name, part in obs.items()}
            return got, flatten(parts, self.obs_shape)
        array = np.asarray(obs)
        shapes: list[tuple[int, ...]] = [(self.obs_size,)]
        if self.obs_shape and not is_named(self.obs_shape):
            shapes.append(image := array_shape(self.obs_shape))
            shapes += [image[:2]] * (image[2:] == (1,))
        return array.shape, self._scaled("", array).reshape(-1) if array.shape in shapes else None

    def _scaled(self, part: str, obs: Any) -> np.ndarray:
        array = np.asarray(obs)
        raw = array.dtype == np.uint8
        if raw and UNTOLD in self.place.pixels:
            raise QtotError(
                f"{self.name} was trained on pixels within [0, 1], some of them from uint8, and "
                "cannot tell which of these are: give them as floats"
            )
        array = array.astype(np.float32)
        return array * PIXEL if raw and part in self.place.pixels else array

    def _legal(self, avail_actions: Any) -> np.ndarray:
        if avail_actions is None:
            return np.ones(self.n_actions, bool)
        try:
            mask = np.asarray(avail_actions)
            legal = mask != 0 if mask.dtype.kind in "biuf" else np.zeros(0, bool)
            if not (mask[legal] == 1).all():  # a mask to be added to values, or NaN
                legal = np.zeros(0, bool)
        except (TypeError, ValueError, IndexError):
            legal = np.zeros(0, bool)
        if legal.shape != (self.n_actions,) or not legal.any():
            raise QtotError(
                f"{self.name} expects avail_actions of 0 and 1 of shape ({self.n_actions},) with "
                f"at least one legal action, got {str(avail_actions)[:200]}"
            )
        return legal

    def _remembered(self, memory: Any) -> Memory:
        if isinstance(memory, Memory) and self._is_hidden(memory.hidden):
            action = memory.prev_action
            if isinstance(action, int | np.integer) and -1 <= action < self.n_actions:
                return memory
        raise QtotError(
            f"{self.name} expects its memory as reset() or the last act() gave it: "
            f"Memory(hidden [{self.memory_size}], prev_action), got {str(memory)[:200]}"
        )

    def _is_hidden(self, hidden: Any) -> bool:
        try:
            array = np.asarray(hidden)
        except (TypeError, ValueError):
            return False
        numbers = array.shape == (self.memory_size,) and array.dtype.kind in "fiu"
        return numbers and bool(np.isfinite(array).all())

"""One agent's place in the team: its spaces, and how what it is sent fills its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qtot.envs.host.base import GarbageError
from qtot.envs.host.spaces import (
    MASK,
    actions_of,
    legal_actions,
    obs_reader,
    violation,
    without_mask,
)


class Place:
    """An agent of a world that declares Gymnasium's spaces."""

    def __init__(self, name: str, observed: Any, acts: Any):
        self.name, self._declared = name, observed
        self.space, self.masked, self._bare = without_mask(observed)
        """what it observes, without a mask; whether its observations hold one"""
        reader = obs_reader(self.space, f"agent {name!r}")
        self.size, self._write = reader.size, reader.write
        actions = actions_of(acts, f"agent {name!r}")
        self.n_actions, self.decode = actions.n, actions.decode

    def read(self, raw: Any, mask: Any, row: np.ndarray, legal: np.ndarray, *, ended: bool) -> None:
        """Fills its row of the observations, and its row of legal actions, in which all are legal
        so far. Once the episode has ended, a mask without any legal action is none.
        """
        try:
            if isinstance(raw, Mapping) and MASK in raw:
                mask, raw = raw[MASK], self._without(raw)
            self._write(raw, row[: self.size])
            if mask is not None:
                self._mask(mask, legal, ended=ended)
        except GarbageError as error:
            raise GarbageError(f"agent {self.name!r}: {error}") from None

    def violation(self, raw: Any) -> str | None:
        """How its observation lies outside its declared space; None if it does not."""
        found = violation(self._declared, raw)
        return found and f"observation of agent {self.name!r}: {found}"

    def _without(self, raw: Mapping[Any, Any]) -> Any:
        rest = {name: part for name, part in raw.items() if name != MASK}
        return rest["observation"] if self._bare or set(rest) == {"observation"} else rest

    def _mask(self, mask: Any, legal: np.ndarray, *, ended: bool) -> None:
        array = np.asarray(mask)
        if array.shape != (self.n_actions,):
            raise GarbageError(
                f"expected an action mask of shape ({self.n_actions},), got {array.shape}"
            )
        allowed = legal_actions(array)
        if allowed.any():
            legal[: self.n_actions] = allowed
        elif not ended:
            raise GarbageError(
                "expected a legal action in its mask, got none; give an agent who must wait a "
                "no-op, or if 1 says that an action is forbidden here, the opposite"
            )

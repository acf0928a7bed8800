"""One small game with everything that an environment may have, registered as ``everything/game``.

Two agents with observations and actions of their own sizes, masks, four ways to begin which only
the first observations tell apart (so memory matters), three steps, true ends and time limits, and
two scalars to report, one of them ``won``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from qtot.envs import FAMILIES, Family
from qtot.envs.matrix import MarkovGame, Place

NAME = "everything/game"
STARTS, LIMIT = 4, 3
OBS_SIZES, N_ACTIONS = (2, 4), (2, 3)


class Game(MarkovGame):
    """A Markov game that says who won, and what the last action paid."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        k = STARTS * LIMIT
        kind, time = np.tile(np.arange(STARTS), LIMIT), np.repeat(np.arange(LIMIT), STARTS)
        obs = rng.normal(size=(k, 2, 4)).astype(np.float32)
        obs[time > 0] = obs[time > 0][::STARTS].repeat(STARTS, axis=0)  # later, nothing tells
        obs *= np.arange(4) < np.array(OBS_SIZES)[:, None]
        mask = rng.random((k, 2, 3)) < 0.7
        mask[..., 0] |= ~mask[..., :2].any(-1)
        mask &= np.arange(3) < np.array(N_ACTIONS)[:, None]
        super().__init__(
            NAME,
            rng.normal(size=(k, 3, 3)),
            ends=(time == LIMIT - 1) & (kind < 2),
            successor=np.where(time < LIMIT - 1, np.arange(k) + STARTS, np.arange(k)),
            limit=LIMIT,
            starts=STARTS,
            obs=obs,
            obs_sizes=OBS_SIZES,
            n_actions=N_ACTIONS,
            avail_actions=mask,
        )
        self.spec = replace(self.spec, info=("won", "paid"))

    def step(self, key, state: Place, actions):
        after, result = super().step(key, state, actions)
        info = {"won": (result.reward > 0).astype(jnp.float32), "paid": result.reward}
        return after, result._replace(info=info)


def tasks() -> tuple[str, ...]:
    return ("game",)


def make(task: str) -> Game:
    return {"game": Game}[task]()


@contextlib.contextmanager
def registered() -> Iterator[str]:
    """The game's name, which ``qtot.make_env`` knows meanwhile."""
    FAMILIES["everything"] = Family(__name__, "game", "a game with everything, for tests")
    try:
        yield NAME
    finally:
        del FAMILIES["everything"]

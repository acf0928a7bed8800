"""Greedy episodes in environments that Python steps: every environment plays its share, however
long its episodes are, so short ones are not favoured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qtot.config import TrainConfig
from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import OVER, RUNNING
from qtot.envs.host.pool import Pool, make_pool
from qtot.envs.spec import EnvSpec
from qtot.evaluation.episodes import Episodes
from qtot.evaluation.teams import Seen, Team


def greedy_pool(
    make: Callable[[], HostEnv], spec: EnvSpec, config: TrainConfig, episodes: int
) -> Pool:
    """Environments of their own for so many episodes: as many as are collected from at most."""
    return make_pool(
        make,
        spec,
        config.host_here,
        slots=1,
        n=min(episodes, config.collect.envs),
        groups=1,
        whole=False,
    )


def play_on_host(
    pool: Pool, team: Callable[[int], Team], *, episodes: int, salt: Sequence[int]
) -> Episodes:
    """``episodes`` of them; ``salt`` (a seed and two numbers) decides what chance brings, and
    ``team`` makes, for as many environments side by side, who plays.

    Raises:
        QtotError: the environments fail again and again.
    """
    board = pool.board
    n = board.action.shape[1]
    each = np.arange(n)
    seed, *index = salt
    board.salt[:, :4], board.salt[:, 4] = (seed, 1, *index), each
    board.episode[:] = 0
    board.left[:] = episodes // n + (each < episodes % n)
    pool.send(0, None)
    pool.wait(0)
    players = team(n)
    returns, lengths, infos = [], [], []
    while (board.phase != OVER).any():
        shown = (x[0].copy() for x in (board.obs, board.avail_actions, board.first))
        seen = Seen(*shown, running=board.phase == RUNNING)
        board.action[0] = np.asarray(players.act(seen).action)
        board.ended[0] = False
        pool.send(0, 0)
        pool.wait(0)
        board.turn()
        over = board.ended[0]
        returns.append(board.episode_return[0, over])
        lengths.append(board.episode_length[0, over])
        infos.append(board.info[0, over])
    values: Any = np.concatenate(infos)
    total: Any = np.concatenate(returns)
    length: Any = np.concatenate(lengths)
    ended: Any = np.ones(len(values), bool)
    return Episodes(
        total,
        length,
        {name: values[:, i] for i, name in enumerate(pool.spec.info)},
        ended,
    )

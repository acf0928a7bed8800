"""Greedy episodes in environments that Python steps: every environment plays its share, however
long its episodes are, so short ones are not favoured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from qtot.config import TrainConfig
from qtot.core.learner import Learner, PolicyParams
from qtot.core.masks import masked_argmax
from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import OVER
from qtot.envs.host.pool import Pool, make_pool
from qtot.envs.spec import EnvSpec
from qtot.evaluation.episodes import Episodes

Greedy = Callable[[PolicyParams, tuple[Any, Any, Any], Any, Any], tuple[Any, Any]]


def greedy_program(learner: Learner, precision: str) -> Greedy:
    """``(policy, (obs, avail_actions, first), prev_action, memory) -> (action, memory)``."""

    def act(
        policy: PolicyParams, shown: tuple[Any, Any, Any], previous: Any, memory: Any
    ) -> tuple[Any, Any]:
        obs, avail_actions, first = shown
        agent, seen = policy.online.agent, learner.see(policy.stats, obs)
        q, _, memory = agent.unroll(seen[None], previous[None], first[None], memory)
        return masked_argmax(q[0], avail_actions).astype("int32"), memory

    return jax.jit(jax.default_matmul_precision(precision)(act))


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
    pool: Pool,
    act: Greedy,
    policy: PolicyParams,
    *,
    episodes: int,
    salt: Sequence[int],
) -> Episodes:
    """``episodes`` of them; ``salt`` (a seed and two numbers) decides what chance brings.

    Raises:
        QtotError: the environments fail again and again.
    """
    board = pool.board
    n, agents = board.action.shape[1:]
    each = np.arange(n)
    seed, *index = salt
    board.salt[:, :4], board.salt[:, 4] = (seed, 1, *index), each
    board.episode[:] = 0
    board.left[:] = episodes // n + (each < episodes % n)
    pool.send(0, None)
    pool.wait(0)
    memory = np.zeros((n, agents, policy.online.agent.memory_size), np.float32)
    previous = np.full((n, agents), -1, np.int32)
    returns, lengths, infos = [], [], []
    while (board.phase != OVER).any():
        seen = (board.obs[0].copy(), board.avail_actions[0].copy(), board.first[0].copy())
        action, memory = act(policy, seen, previous, memory)
        board.action[0] = previous = np.asarray(action)
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

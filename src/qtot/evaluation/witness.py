"""Greedy episodes with all that there is to see of them, wherever the environment is stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from qtot.config import TrainConfig, products
from qtot.core.learner import Learner, PolicyParams
from qtot.envs.base import JaxEnv
from qtot.envs.host.base import HostEnv
from qtot.envs.host.board import RUNNING
from qtot.envs.host.config import HostConfig
from qtot.envs.host.frames import frame
from qtot.envs.host.in_process import InProcess
from qtot.envs.scenes import Scene, scene_of
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.evaluation.episodes import evaluation_key, witness
from qtot.evaluation.teams import Seen, Together, greedy_program
from qtot.types import Slots

MOST_FRAMES = 500
"""pictures of an episode"""


class Asked(NamedTuple):
    """Which episodes, of whose policy."""

    learner: Learner
    config: TrainConfig
    params: PolicyParams
    start: tuple[int, int]
    """seed and number of the evaluation: its first episodes are played"""
    episodes: int


class Witnessed(NamedTuple):
    """E episodes side by side, cut after the longest one's final observation; NumPy."""

    slots: Slots
    """``[T+1, E, ...]``"""
    looks: dict[str, np.ndarray]
    """``[T+1, E, ...]``: what ``scene`` sees; empty where there is none"""
    returns: np.ndarray
    lengths: np.ndarray
    info: dict[str, np.ndarray]
    scene: Scene | None = None
    frames: np.ndarray | None = None
    """uint8 ``[T+1, H, W, 3]`` of the first episode, where the environment draws itself"""


def witness_in_graph(env: JaxEnv, asked: Asked) -> Witnessed:
    """In copies of an environment written in JAX."""
    scene = scene_of(env)
    look = scene.look if scene else lambda state: {}

    @jax.jit
    @jax.default_matmul_precision(products(asked.config))
    def play(params: PolicyParams, keys: Any) -> Any:
        return witness(env, asked.learner, params, keys=keys, look=look)

    keys = jax.random.split(evaluation_key(*asked.start), asked.episodes)
    results, slots, looks = jax.tree.map(np.asarray, play(asked.params, keys))
    last = int(results.length.max()) + 1
    slots, looks = jax.tree.map(lambda x: x[:last], (slots, looks))
    return Witnessed(
        slots, looks, results.episode_return, results.length, results.info, scene=scene
    )


def witness_on_host(
    make: Callable[[], HostEnv], spec: EnvSpec, host: HostConfig, asked: Asked
) -> Witnessed:
    """In environments of this process, each of which plays one; those that fail are left out.

    Raises:
        QtotError: all fail.
    """
    places = tuple(range(asked.episodes))
    pool = InProcess(make, spec, host, slots=1, groups=[places], whole=True)
    try:
        return _watched(pool, asked)
    finally:
        pool.close()


def _watched(pool: InProcess, asked: Asked) -> Witnessed:
    board, n = pool.board, asked.episodes
    seed, number = asked.start
    board.salt[:, :4], board.salt[:, 4] = (seed, 1, number, 0), np.arange(n)
    board.episode[:], board.left[:] = 0, 1
    pool.send(0, None)
    program = greedy_program([asked.learner], products(asked.config))
    team = Together(program, (asked.params,), n)
    told, frames, failed = [], [], np.zeros(n, bool)
    ended = {name: np.zeros(n) for name in ("episode_return", "episode_length")}
    info = {name: np.zeros(n) for name in pool.spec.info}
    while True:
        running = board.phase == RUNNING
        seen = [x[0].copy() for x in board[:5]]  # obs, state, avail_actions, alive, first
        if len(frames) < MOST_FRAMES and (running[0] or not frames):
            frames.append(frame(pool.player.envs[0]))
        choice = team.act(Seen(seen[0], seen[2], seen[4], running))
        board.action[0] = np.asarray(choice.action)
        board.ended[0] = board.valid[0] = board.failed[0] = False
        if running.any():
            pool.send(0, 0)
        reward: Any = np.where(board.valid[0], board.reward[0], 0.0).astype(np.float32)
        told.append(
            Slots(
                *seen[:4],
                action=board.action[0].copy(),
                reward=reward,
                terminated=board.valid[0] & board.terminated[0],
                first=seen[4] & running,
                valid=board.valid[0].copy(),
            )
        )
        if not running.any():
            break
        failed |= board.failed[0]
        if running[0] and board.ended[0, 0]:
            frames.append(frame(pool.player.envs[0]))
        for name, values in ended.items():
            values[board.ended[0]] = getattr(board, name)[0, board.ended[0]]
        for i, values in enumerate(info.values()):
            values[board.ended[0]] = board.info[0, board.ended[0], i]
        board.turn()
    if failed.all():
        raise QtotError(f"the environment failed in every episode: {pool.failures[-1].what}")
    slots = jax.tree.map(lambda *x: np.stack(x)[:, ~failed], *told)
    drawn = [x for x in frames if x is not None]
    whole = drawn if len({x.shape for x in drawn}) == 1 else []
    return Witnessed(
        slots,
        {},
        ended["episode_return"][~failed],
        ended["episode_length"][~failed].astype(int),
        {name: values[~failed] for name, values in info.items()},
        frames=np.stack(whole) if whole and not failed[0] else None,
    )

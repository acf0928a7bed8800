"""Where environments write what they show and a collector writes what to do: arrays side by side in
one block of memory, which processes can share.

The block has no name: it is gone when the last process that maps it is, however that ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qtot.envs.spec import EnvSpec

ALIGN = 64
OVER, RUNNING, FINAL = range(3)
"""phases of an environment: it is not to be played on, or not yet; an episode runs; it shows its
final observation, and the next slot opens an episode"""


class Board(NamedTuple):
    """T slots of n environments, and the slot after them."""

    obs: np.ndarray
    """float32 ``[T+1, n, N, O]``"""
    state: np.ndarray
    """float32 ``[T+1, n, S]``"""
    avail_actions: np.ndarray
    """bool ``[T+1, n, N, A]``"""
    alive: np.ndarray
    """bool ``[T+1, n, N]``"""
    first: np.ndarray
    """bool ``[T+1, n]``: the slot opens an episode"""
    action: np.ndarray
    """int32 ``[T, n, N]``, written by the collector"""
    reward: np.ndarray
    """float32 ``[T, n]``, the team reward that followed"""
    valid: np.ndarray
    """bool ``[T, n]``: a transition happened"""
    terminated: np.ndarray
    """bool ``[T, n]``"""
    ended: np.ndarray
    """bool ``[T, n]``: it was an episode's last; the three below are read there"""
    failed: np.ndarray
    """bool ``[T, n]``: the environment failed here, and its episode does not count"""
    episode_return: np.ndarray
    """float32 ``[T, n]``"""
    episode_length: np.ndarray
    """int32 ``[T, n]``"""
    info: np.ndarray
    """float32 ``[T, n, I]``"""
    phase: np.ndarray
    """uint8 ``[n]``"""
    episode: np.ndarray
    """int64 ``[n]``: episodes opened so far, from which the next one's seed is made"""
    left: np.ndarray
    """int64 ``[n]``: episodes still to play, the one that runs included"""
    salt: np.ndarray
    """int64 ``[n, 5]``: what else decides an environment's seeds: that of the run, whether it
    trains (0) or is evaluated (1), two numbers of the evaluation (in training: actors that had
    the place before, and the step from which a run goes on), the environment's own"""

    def turn(self) -> None:
        """What the last slot shows becomes what the first one shows."""
        for shown in self[:5]:
            shown[0] = shown[-1]


def layout(spec: EnvSpec, slots: int, n: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each array."""
    agents = spec.n_agents
    return {
        "obs": ((slots + 1, n, agents, spec.obs_size), "float32"),
        "state": ((slots + 1, n, spec.state_size), "float32"),
        "avail_actions": ((slots + 1, n, agents, spec.max_actions), "bool"),
        "alive": ((slots + 1, n, agents), "bool"),
        "first": ((slots + 1, n), "bool"),
        "action": ((slots, n, agents), "int32"),
        "reward": ((slots, n), "float32"),
        "valid": ((slots, n), "bool"),
        "terminated": ((slots, n), "bool"),
        "ended": ((slots, n), "bool"),
        "failed": ((slots, n), "bool"),
        "episode_return": ((slots, n), "float32"),
        "episode_length": ((slots, n), "int32"),
        "info": ((slots, n, len(spec.info)), "float32"),
        "phase": ((n,), "uint8"),
        "episode": ((n,), "int64"),
        "left": ((n,), "int64"),
        "salt": ((n, 5), "int64"),
    }


def size_of(arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> int:
    """Bytes of the whole block."""
    return sum(_padded(shape, dtype) for shape, dtype in arrays.values()) or ALIGN


def _padded(shape: tuple[int, ...], dtype: str) -> int:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return -(-size // ALIGN) * ALIGN


def board_in(buffer: Any, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> Board:
    """The arrays in a block of ``size_of`` bytes."""
    made, at = {}, 0
    for name, (shape, dtype) in arrays.items():
        count = int(np.prod(shape, dtype=np.int64))
        made[name] = np.frombuffer(buffer, dtype, count, at).reshape(shape)
        at += _padded(shape, dtype)
    return Board(**made)


def private(spec: EnvSpec, slots: int, n: int) -> Board:
    """One of this process's own."""
    arrays = layout(spec, slots, n)
    return board_in(bytearray(size_of(arrays)), arrays)


def shared(spec: EnvSpec, slots: int, n: int) -> tuple[Board, int]:
    """One that other processes may map, and the open file to hand them."""
    arrays = layout(spec, slots, n)
    size = size_of(arrays)
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("qtot")
    else:
        with tempfile.TemporaryFile() as file:  # has no name any more
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return board_in(mmap.mmap(fd, size), arrays), fd


def mapped(fd: int, spec: EnvSpec, slots: int, n: int) -> Board:
    """The board behind an open file, in another process."""
    arrays = layout(spec, slots, n)
    return board_in(mmap.mmap(fd, size_of(arrays)), arrays)

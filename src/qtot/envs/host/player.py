"""Plays some of a board's environments: resets, steps, and what goes wrong in them."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from qtot.envs.host.base import ERRORS, GarbageError, HostEnv, Seen
from qtot.envs.host.board import FINAL, OVER, RUNNING, Board
from qtot.envs.spec import EnvSpec

LARGEST = float(np.finfo(np.float32).max)


class Failure(NamedTuple):
    """Something that an environment, or the process that steps it, did wrong."""

    envs: tuple[int, ...]
    """those whose episodes are lost"""
    what: str
    """in one line"""
    traceback: str
    """of the process in which it happened"""
    lost: int = 0
    """episodes that ran"""

    @staticmethod
    def of(
        error: BaseException, envs: tuple[int, ...], where: str = "", *, lost: int = 0
    ) -> Failure:
        """That ``error``, which is being handled, arose there; in words that can be printed."""
        try:
            said = str(error)
        except Exception:
            said = "it cannot say what"
        what = f"{type(error).__name__}{where}: {next(iter(said.splitlines()), '')}"
        return Failure(envs, _printable(what), _printable(traceback.format_exc()), lost)


LONGEST, LAST = 500, 100
"""characters of a line that is shown, and lines"""


def _printable(text: str) -> str:
    lines = [line[:LONGEST] for line in text.splitlines()[-LAST:]]
    return "\n".join(lines).encode(errors="replace").decode()


class GaveUpError(Exception):
    """An environment cannot even be made and reset any more."""


class Player:
    """``begin`` opens episodes, ``slot`` plays one; what they find goes to the board."""

    def __init__(
        self,
        make: Callable[[], HostEnv],
        spec: EnvSpec,
        board: Board,
        envs: Sequence[int],
        *,
        whole: bool,
        patience: int,
        again: bool,
        told: Callable[[Failure], None],
    ):
        """Make the environments.

        Args:
            make: one environment.
            spec: what it must be.
            board: shared by all players.
            envs: the places on it that are this player's.
            whole: an episode that fails is not begun again before ``begin``.
            patience: failures in a row, of one environment, that are put up with.
            again: another process played these before, and is no more.
            told: is told of each.
        """
        self.make, self.spec, self.board, self.told = make, spec, board, told
        self.whole, self.patience = whole, patience
        self.envs: dict[int, HostEnv | None] = dict.fromkeys(envs)
        self.returns = dict.fromkeys(envs, 0.0)
        self.lengths = dict.fromkeys(envs, 0)
        self.lost = set(envs) if again else set[int]()
        """what was played by that process, and not yet by this one"""
        self.real = np.arange(spec.max_actions) < np.array(spec.n_actions)[:, None]

    def begin(self, envs: Sequence[int], at: int = 0) -> None:
        """Open an episode in each that has any to play, shown at slot ``at``."""
        for e in envs:
            self.lost.discard(e)
            if self.board.left[e] > 0:
                self._open(e, at)
            else:
                self.board.phase[e] = OVER

    def slot(self, envs: Sequence[int], t: int) -> None:
        """Play slot ``t``: the joint action where an episode runs, a reset after a final one."""
        board, after = self.board, t + 1
        for e in envs:
            phase, lost = board.phase[e], e in self.lost
            self.lost.discard(e)
            if phase == RUNNING and lost:
                self._fail(e, t, after)
            elif phase == RUNNING:
                self._step(e, t, after)
            elif phase == FINAL and not (lost and board.ended[t, e]):
                self._open(e, after)  # what ended in this slot shows its end in the next

    def close(self) -> None:
        """Close all that were made."""
        for e in self.envs:
            self._close(e)

    def _step(self, e: int, t: int, after: int) -> None:
        board, env = self.board, self.envs[e]
        assert env is not None
        try:
            result = env.step(board.action[t, e].tolist())
            self._show(e, after, result.seen, final=result.terminated)
            reward = float(result.reward)
            if not abs(reward) <= LARGEST:
                raise GarbageError(f"reward: expected a finite float32, got {reward}")
            info = [float(result.info[name]) for name in self.spec.info]
            if not all(abs(value) <= LARGEST for value in info):
                raise GarbageError(f"info: expected finite numbers, got {info}")
            terminated, ended = bool(result.terminated), bool(result.terminated or result.truncated)
            if not ended and self.lengths[e] + 1 >= self.spec.episode_limit:
                raise GarbageError(
                    f"an episode: expected its end after {self.spec.episode_limit} transitions at "
                    "most (spec.episode_limit), but it goes on"
                )
        except ERRORS as error:
            self._tell(e, "step", error)
            self._close(e)
            self._fail(e, t, after)
            return
        self.returns[e] += reward
        self.lengths[e] += 1
        board.first[after, e] = False
        board.reward[t, e], board.valid[t, e] = reward, True
        board.terminated[t, e], board.ended[t, e] = terminated, ended
        board.failed[t, e] = False
        if ended:
            board.episode_return[t, e] = self.returns[e]
            board.episode_length[t, e] = self.lengths[e]
            board.info[t, e] = info
            board.left[e] -= 1
            board.phase[e] = FINAL if board.left[e] > 0 else OVER

    def _fail(self, e: int, t: int, after: int) -> None:
        """The episode that ran does not count; another one opens, unless only whole ones do."""
        board = self.board
        board.failed[t, e], board.valid[t, e] = True, False
        board.terminated[t, e] = board.ended[t, e] = False
        if self.whole:
            board.phase[e] = OVER
        else:
            self._open(e, after)

    def _open(self, e: int, at: int) -> None:
        """Reset, if need be in an environment made anew; seeds follow from the episode's number."""
        board, strikes = self.board, 0
        while True:
            seed = self._seed(e)
            board.episode[e] += 1
            try:
                env = self.envs[e]
                if env is None:
                    env = self.envs[e] = self._made()
                self._show(e, at, env.reset(seed))
                break
            except ERRORS as error:
                strikes += 1
                self._tell(e, "reset" if self.envs[e] is not None else "being made", error)
                self._close(e)
                if strikes >= self.patience:
                    raise GaveUpError(
                        f"an environment failed {strikes} times in a row before an episode began"
                    ) from error
        self.returns[e], self.lengths[e] = 0.0, 0
        board.first[at, e], board.phase[e] = True, RUNNING

    def _made(self) -> HostEnv:
        env = self.make()
        if env.spec != self.spec:
            with contextlib.suppress(*ERRORS):
                env.close()
            raise GarbageError("the environment: expected the same facts each time it is made")
        return env

    def _seed(self, e: int) -> int:
        entropy = (*self.board.salt[e].tolist(), int(self.board.episode[e]))
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

    def _show(self, e: int, at: int, seen: Seen, *, final: bool = False) -> None:
        """To the board, if it is what it must be; nobody acts on what follows a true end."""
        spec, board = self.spec, self.board
        for field, shape, dtype in (
            ("obs", (spec.n_agents, spec.obs_size), np.float32),
            ("state", (spec.state_size,), np.float32),
            ("avail_actions", (spec.n_agents, spec.max_actions), np.bool_),
            ("alive", (spec.n_agents,), np.bool_),
        ):
            value = getattr(seen, field)
            if getattr(value, "shape", None) != shape:
                got = f"shape {value.shape}" if hasattr(value, "shape") else type(value).__name__
                raise GarbageError(f"{field}: expected shape {shape}, got {got}")
            if value.dtype != dtype:
                raise GarbageError(f"{field}: expected {np.dtype(dtype)}, got {value.dtype}")
        if not np.isfinite(seen.obs.sum()) and not np.isfinite(seen.obs).all():
            raise GarbageError("obs: expected finite numbers, got NaN or infinity")
        if not np.isfinite(seen.state.sum()) and not np.isfinite(seen.state).all():
            raise GarbageError("state: expected finite numbers, got NaN or infinity")
        if (seen.avail_actions & ~self.real).any():
            raise GarbageError("avail_actions: expected no legal action beyond an agent's own")
        if not final and (seen.alive & ~seen.avail_actions.any(axis=-1)).any():
            raise GarbageError("avail_actions: expected a legal action for every agent alive")
        board.obs[at, e], board.state[at, e] = seen.obs, seen.state
        board.avail_actions[at, e], board.alive[at, e] = seen.avail_actions, seen.alive

    def _tell(self, e: int, where: str, error: BaseException) -> None:
        self.told(Failure.of(error, (e,), f" in {where}", lost=int(where == "step")))

    def _close(self, e: int) -> None:
        env, self.envs[e] = self.envs[e], None
        if env is not None:
            with contextlib.suppress(*ERRORS):
                env.close()

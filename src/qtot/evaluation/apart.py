"""Agents apart: each in an operating-system process of its own, which is sent nothing but what that
agent sees. They run what ``qtot export`` wrote, without JAX (``qtot.deploy.alone``).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qtot.deploy.alone import frame
from qtot.errors import QtotError
from qtot.evaluation.teams import Choice, Seen

STARTING = 120.0
"""seconds for a process to begin"""
PATIENCE = 10.0
"""seconds for a process to leave when its pipe is closed"""


class Apart:
    """N processes, for any number of episodes side by side."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], said: Sequence[Any]):
        self._processes, self._said = processes, said

    @property
    def pids(self) -> list[int]:
        """Of the agents' processes."""
        return [process.pid for process in self._processes]

    def act(self, seen: Seen) -> Choice:
        """Everyone is sent its own part, then everyone is asked.

        Raises:
            QtotError: a process is gone.
        """
        obs, legal, first = (np.asarray(x) for x in seen[:3])
        actions = np.zeros(obs.shape[:2], np.int32)
        for i, process in enumerate(self._processes):
            assert process.stdin is not None
            with self._minded(i):
                process.stdin.write(frame(first, obs[:, i], legal[:, i]))
                process.stdin.flush()
        for i, process in enumerate(self._processes):
            assert process.stdout is not None
            with self._minded(i):
                data = process.stdout.read(4 * len(first))
                if len(data) < 4 * len(first):
                    raise BrokenPipeError
                actions[:, i] = np.frombuffer(data, "<i4")
        return Choice(actions, np.full(actions.shape, np.nan, np.float32))

    @contextlib.contextmanager
    def _minded(self, i: int) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._said[i].seek(0)
            words = self._said[i].read().decode(errors="replace").strip()[-500:]
            raise QtotError(f"the process of agent {i} is gone; it said: {words!r}") from None

    def close(self) -> None:
        """Close the pipes; who does not leave is ended."""
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
        for process in self._processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def apart(members: Sequence[tuple[Path, str]]) -> Iterator[Apart]:
    """A process for each agent, given by the folder of its team and its name.

    Raises:
        QtotError: one of them does not begin.
    """
    with contextlib.ExitStack() as open_files:
        processes, said = [], []
        team = Apart(processes, said)
        try:
            for folder, name in members:
                words = open_files.enter_context(tempfile.TemporaryFile())
                said.append(words)
                processes.append(
                    subprocess.Popen(
                        # -P: what lies in the working directory is not imported
                        [sys.executable, "-P", "-m", "qtot.deploy.alone", str(folder), name],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=words,
                        start_new_session=True,  # Ctrl-C is the command's to hear
                    )
                )
            for i, process in enumerate(processes):
                assert process.stdout is not None
                slow = threading.Timer(STARTING, process.kill)
                slow.daemon = True
                slow.start()
                with team._minded(i):
                    hello = process.stdout.readline()
                    slow.cancel()
                    if not hello:
                        raise BrokenPipeError
                want = {"agent": members[i][1], "jax": False}
                if hello != (json.dumps(want) + "\n").encode():
                    raise QtotError(f"the process of agent {i} begins with {hello[:200]!r}")
            yield team
        finally:
            team.close()

"""One agent in a process of its own: observations come in over a pipe, actions go out.

    python -m qtot.deploy.alone FOLDER AGENT

First it writes one line of JSON, ``{"agent": ..., "jax": false}``. Then it reads frames and answers
each, little-endian, until its input ends:

    in    uint32 B · uint8 first [B] · float32 obs [B, O] · uint8 avail_actions [B, A]
    out   int32 action [B]

B is how many episodes are played side by side; ``first`` says in which of them one begins, where it
forgets what it remembers. It keeps its memory and its previous actions to itself.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qtot.deploy.folder import Facts
from qtot.deploy.team import Agent, load
from qtot.errors import QtotError

MOST = 2**20
"""episodes side by side"""


def frame(first: np.ndarray, obs: np.ndarray, avail_actions: np.ndarray) -> bytes:
    """What is sent to an agent."""
    parts = (first.astype("u1"), obs.astype("<f4"), avail_actions.astype("u1"))
    return struct.pack("<I", len(first)) + b"".join(part.tobytes() for part in parts)


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _frame(stream: BinaryIO, facts: Facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    (many,) = struct.unpack("<I", _read(stream, 4))
    if many > MOST:
        raise QtotError(f"expected at most {MOST} observations at once, got {many}")
    obs, actions = facts.obs_size, facts.max_actions
    first = np.frombuffer(_read(stream, many), "u1") != 0
    seen = np.frombuffer(_read(stream, 4 * many * obs), "<f4").reshape(many, obs)
    legal = np.frombuffer(_read(stream, many * actions), "u1").reshape(many, actions) != 0
    return first, seen.astype(np.float32), legal


def serve(agent: Agent, facts: Facts, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer frames until there are no more."""
    previous = np.zeros(0, np.int64)
    memory = np.zeros((0, facts.memory_size), np.float32)
    while True:
        try:
            first, obs, legal = _frame(source, facts)
        except EOFError:
            return
        if len(first) != len(previous):
            previous = np.full(len(first), -1, np.int64)
            memory = np.zeros((len(first), facts.memory_size), np.float32)
        previous, memory = np.where(first, -1, previous), np.where(first[:, None], 0.0, memory)
        step = agent.step(obs, previous, legal, memory.astype(np.float32))
        previous, memory = step.action, step.memory
        sink.write(step.action.astype("<i4").tobytes())
        sink.flush()


def main(folder: str, name: str) -> int:
    """The process."""
    try:
        team = load(Path(folder))
        agent = team.agent(name)
        sink = sys.stdout.buffer
        hello = {"agent": name, "jax": "jax" in sys.modules}
        sink.write((json.dumps(hello) + "\n").encode())
        sink.flush()
        serve(agent, team.facts, sys.stdin.buffer, sink)
    except QtotError as error:
        print(f"qtot: error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m qtot.deploy.alone FOLDER AGENT")
    sys.exit(main(*sys.argv[1:]))

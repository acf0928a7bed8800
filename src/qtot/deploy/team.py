"""The agents of an exported team, run by ONNX Runtime."""

from __future__ import annotations

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qtot.deploy.acting import Alone, Memory
from qtot.deploy.folder import Facts, Member, read_facts, read_file
from qtot.errors import QtotError

INPUTS = {
    "obs": "tensor(float)",
    "prev_action": "tensor(int64)",
    "agent_id": "tensor(int64)",
    "avail_actions": "tensor(bool)",
    "memory": "tensor(float)",
}
OUTPUTS = {"q": "tensor(float)", "action": "tensor(int64)", "memory_out": "tensor(float)"}


class Step(NamedTuple):
    """What a network answers, of B observations."""

    q: np.ndarray
    """float32 ``[B, A]``"""
    action: np.ndarray
    """the greedy legal actions, int64 ``[B]``"""
    memory: np.ndarray
    """float32 ``[B, K]``"""


class Agent(Alone):
    """``memory = reset()``, then ``action, memory = act(obs, avail_actions, memory)``."""

    def __init__(self, member: Member, facts: Facts, session: Any):
        super().__init__(member.place, facts.memory_size)
        self._facts, self._session = facts, session
        self._id = np.array([self.index], np.int64)
        self._legal_all = np.zeros((1, facts.max_actions), bool)
        self._legal_all[:, : self.n_actions] = True

    def step(
        self,
        obs: np.ndarray,
        prev_action: np.ndarray,
        avail_actions: np.ndarray,
        memory: np.ndarray,
    ) -> Step:
        """The network as it is, for B observations at once; nothing is checked but by ONNX Runtime.

        Args:
            obs: float32 ``[B, O]``, padded with zeros.
            prev_action: int64 ``[B]``, -1 for none.
            avail_actions: bool ``[B, A]``, padded with False.
            memory: float32 ``[B, K]``, zeros at an episode's start.

        Raises:
            QtotError: ONNX Runtime refuses them, or the network is none that runs.
        """
        ids = self._id if len(obs) == 1 else np.full(len(obs), self.index, np.int64)
        given = (obs, prev_action, ids, avail_actions, memory)
        try:
            return Step(*self._session.run(None, dict(zip(INPUTS, given, strict=True))))
        except Exception as error:  # of many classes, none of them public
            reason = str(error).partition("\n")[0][:200]
            raise QtotError(f"the network of {self.name} does not answer ({reason})") from None

    def _values(self, obs: np.ndarray, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((1, self._facts.obs_size), np.float32)
        padded[0, : self.obs_size] = obs
        previous = np.array([memory.prev_action], np.int64)
        hidden = np.asarray(memory.hidden, np.float32)[None]
        step = self.step(padded, previous, self._legal_all, hidden)
        return step.q[0, : self.n_actions], step.memory[0]


class Team:
    """An exported folder: who is in it, and each of them."""

    def __init__(self, folder: Path, threads: int):
        self.folder, self._threads = folder, threads
        self.facts = read_facts(folder)
        self._sessions: dict[str, Any] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All agents, in the environment's order."""
        return tuple(member.place.name for member in self.facts.members)

    @property
    def policy(self) -> dict[str, Any]:
        """``policy.json``: names, spaces, provenance."""
        return self.facts.said

    def agent(self, name: str) -> Agent:
        """The agent called ``name``; only its own network is read.

        Raises:
            QtotError: there is no such agent, or its network is missing, changed, or none.
        """
        if name not in self.names:
            raise QtotError(f"no agent {name!r} here; choose one of: {', '.join(self.names)}")
        member = self.facts.members[self.names.index(name)]
        if member.file not in self._sessions:
            data = read_file(self.folder, member.file, self.facts)
            self._sessions[member.file] = _session(self.folder / member.file, data, self._threads)
            self._check(member.file)
        agent = Agent(member, self.facts, self._sessions[member.file])
        q, hidden = agent.q_values(np.zeros(agent.obs_size), agent.reset())
        if len(q) != agent.n_actions or len(hidden) != agent.memory_size:
            raise QtotError(f"the network of {name} answers in another shape than it says")
        return agent

    def _check(self, file: str) -> None:
        """Whether the network is one of an agent of this team."""
        facts, session = self.facts, self._sessions[file]
        sizes = {"obs": [facts.obs_size], "avail_actions": [facts.max_actions]}
        sizes |= {"q": [facts.max_actions]}
        sizes |= {name: [facts.memory_size] for name in ("memory", "memory_out")}
        for kind, wanted, got in (
            ("inputs", INPUTS, session.get_inputs()),
            ("outputs", OUTPUTS, session.get_outputs()),
        ):
            found = [(one.name, one.type, one.shape[1:]) for one in got]
            if found != [(name, type_, sizes.get(name, [])) for name, type_ in wanted.items()]:
                del self._sessions[file]
                raise QtotError(
                    f"{self.folder / file} is no network of this team's: its {kind} are {found}"
                )


EXTERNAL = b"location"
"""by which an ONNX file names another one that holds some of its arrays: ONNX Runtime would read it
from the working directory, and none of ours has any"""


def _session(path: Path, data: bytes, threads: int) -> Any:
    if EXTERNAL in data:
        raise QtotError(f"{path} refers to other files, which no network of ours does")
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise QtotError(
            f"exported policies are run by ONNX Runtime, which does not import ({error}); install "
            "it with: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is raised
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many classes, none of them public
        reason = str(error).partition("\n")[0][:200]
        raise QtotError(f"{path} is no network that ONNX Runtime can run ({reason})") from None


def load(folder: str | Path, *, threads: int = 1) -> Team:
    """The team that ``qtot export`` left in ``folder``.

    Args:
        folder: of ``policy.json``.
        threads: of ONNX Runtime for each network; these are so small that one is fastest.

    Raises:
        QtotError: there is no policy, or one that this version cannot read.
    """
    return Team(Path(folder), threads)

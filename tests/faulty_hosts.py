"""Environments that are random, strict about how they are played, and faulty where a plan says so.

Workers import this module: it must stay free of JAX.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from qtot.envs.host.base import Seen, Stepped
from qtot.envs.spec import EnvSpec

LIMIT = 9
SPEC = EnvSpec(
    name="test/strict",
    agents=("a", "b", "c"),
    n_actions=(2, 3, 4),
    obs_sizes=(4, 3, 1),
    state_size=5,
    episode_limit=LIMIT,
    info=("won", "luck"),
)
TIME, EPISODE, OVER = range(3)
"""the first agent's observation: transitions so far, the episode's own number, whether over"""


class MisusedError(Exception):
    """The environment was not played as it must be."""


def seed_of(seed: int, number: int, episode: int, salt: Sequence[int] = (0, 0, 0)) -> int:
    """With which an environment opens an episode."""
    entropy = (seed, *salt, number, episode)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


class Strict:
    """Episodes of random length and end; everything follows from the seed and the actions."""

    spec = SPEC
    misused = 0

    def __init__(self) -> None:
        self.state = "new"

    def must(self, fine: bool, what: str) -> None:
        if not fine:
            Strict.misused += 1
            raise MisusedError(f"{what}, {self.state}")

    def reset(self, seed: int) -> Any:
        self.must(self.state in ("new", "over"), "reset")
        self.rng, self.seed = np.random.default_rng(seed), seed
        self.time, self.state = 0, "running"
        self.length = int(self.rng.integers(1, LIMIT + 1))
        self.true_end = bool(self.rng.random() < 0.5)
        return self.see()

    def step(self, actions: Sequence[int]) -> Any:
        self.must(self.state == "running", "step")
        for agent, action in enumerate(actions):
            self.must(bool(self.legal[agent, action]), f"action {action} of agent {agent}")
        self.time += 1
        end = self.time == self.length
        self.state = "over" if end else "running"
        reward = float(self.rng.normal() + np.dot(actions, (1.0, 10.0, 100.0)))
        info = {"won": float(end and self.true_end), "luck": float(self.rng.random())}
        return Stepped(self.see(), reward, end and self.true_end, end and not self.true_end, info)

    def see(self) -> Any:
        obs = self.rng.normal(size=(3, 4)).astype(np.float32)
        obs[0, :3] = self.time, self.seed % 2**20, self.state == "over"
        obs[1, 3:] = obs[2, 1:] = 0.0
        real = np.arange(4) < np.array(SPEC.n_actions)[:, None]
        self.legal = real & (self.rng.random((3, 4)) < 0.7)
        self.legal[:, 0] |= ~self.legal.any(axis=1)
        state = self.rng.normal(size=5).astype(np.float32)
        return Seen(obs, state, self.legal.copy(), self.rng.random(3) < 0.8)

    def close(self) -> None:
        self.must(self.state != "closed", "close")
        self.state = "closed"


class Planned(Strict):
    """The episode of a seed in ``plan`` has a length and an end of its own, and a fault in step
    number ``at`` (0: in reset).
    """

    def __init__(self, plan: Mapping[int, Mapping[str, Any]], otherwise: Any = None) -> None:
        super().__init__()
        self.plan, self.now = plan, otherwise or {}
        self.otherwise = self.now

    def reset(self, seed: int) -> Any:
        self.now = self.plan.get(seed, self.otherwise)
        if self.now.get("at") == 0:
            self.now["fault"](self, None)
        super().reset(seed)
        self.length = self.now.get("length", self.length)
        self.true_end = self.now.get("true_end", self.true_end)
        return self.see()

    def step(self, actions: Sequence[int]) -> Any:
        stepped = super().step(actions)
        fault = self.now.get("at") == self.time
        return self.now["fault"](self, stepped) if fault else stepped


class Clinging(Planned):
    """Cannot be closed."""

    def close(self) -> None:
        super().close()
        throw(RuntimeError("still in use"))


class Parent(Strict):
    """Starts a process, and forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.child = subprocess.Popen(["sleep", "1000"])


class Chaotic(Strict):
    """Fails at random moments, decided by the seed, in all ways that leave the process alive."""

    broken = False
    rate = 0.08

    def reset(self, seed: int) -> Any:
        self.luck = np.random.default_rng((seed, 7))
        if self.luck.random() < self.rate:
            return self.failing(None)
        return super().reset(seed)

    def step(self, actions: Sequence[int]) -> Any:
        stepped = super().step(actions)
        return self.failing(stepped) if self.luck.random() < self.rate else stepped

    def failing(self, stepped: Any) -> Any:
        self.broken, names = True, sorted(HARMLESS)
        name = names[int(self.luck.integers(len(names)))]
        return HARMLESS[name](self, stepped)


def throw(error: BaseException) -> NoReturn:
    raise error


def _seen(**fields: Any) -> Callable[[Any, Any], Any]:
    """What is seen, with fields replaced; in reset, None."""
    return lambda _, stepped: stepped and stepped._replace(seen=stepped.seen._replace(**fields))


def _told(**fields: Any) -> Callable[[Any, Any], Any]:
    return lambda _, stepped: stepped and stepped._replace(**fields)


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


NAN = np.full((3, 4), np.nan, np.float32)
HARMLESS: dict[str, Callable[[Any, Any], Any]] = {
    "raise": lambda *_: throw(ValueError("[/bold] boo \udc80\nsecond line")),
    "exit": lambda *_: throw(SystemExit(3)),
    "end of file": lambda *_: throw(EOFError()),
    "speechless": lambda *_: throw(SpeechlessError()),
    "long": lambda *_: throw(ValueError("x" * 10**6)),
    "nan": _seen(obs=NAN),
    "infinite": _seen(state=np.full(5, np.inf, np.float32)),
    "shape": _seen(obs=np.zeros((3, 5), np.float32)),
    "dtype": _seen(obs=np.zeros((3, 4))),
    "objects": _seen(state=np.array([None] * 5)),
    "list": _seen(alive=[True, True, True]),
    "mask of numbers": _seen(avail_actions=np.ones((3, 4), np.int8)),
    "beyond": _seen(avail_actions=np.ones((3, 4), bool)),
    "none legal": lambda _, s: (
        s
        and s._replace(
            terminated=False,
            seen=s.seen._replace(avail_actions=np.zeros((3, 4), bool), alive=np.ones(3, bool)),
        )
    ),
    "none": lambda *_: None,
    "too few": lambda _, s: s and tuple(s)[:3],
    "no number": _told(reward="much"),
    "several rewards": _told(reward=np.ones(3)),
    "not a number": _told(reward=float("nan")),
    "too large": _told(reward=1e39),
    "no info": _told(info={"won": 1.0}),
    "info none": _told(info=None),
    "info nan": _told(info={"won": float("nan"), "luck": 0.0}),
    "ends": _told(terminated=np.array([True, False])),
}
"""faults of an environment that leave the process alive; in reset they may show nothing at all"""


def kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(*_: Any) -> None:
    os._exit(3)


def crash(*_: Any) -> None:
    ctypes.string_at(0)


def unnamed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGRTMIN + 3)


def spin(*_: Any) -> NoReturn:
    while True:
        pass


def sleep(*_: Any) -> None:
    time.sleep(1_000)


def hold(*_: Any) -> None:
    """In C, with Python's lock held."""
    ctypes.PyDLL(None).sleep(1_000)


def child(env: Any, stepped: Any) -> Any:
    """A process of the environment's own, and the worker is gone."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print(f"child {started.pid}", flush=True)  # noqa: T201
    os._exit(3)


def fork(env: Any, stepped: Any) -> Any:
    """A copy of the worker, which has its files open, lives on."""
    if os.fork() == 0:
        time.sleep(1_000)
    os._exit(3)


def shout(env: Any, stepped: Any) -> Any:
    print("much\n" * 200_000, flush=True)  # noqa: T201
    return stepped


class Unborn:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no display")


class Leaving:
    """Its unpickling does what a module's import may do."""

    def __init__(self, how: Callable[..., Any], *args: Any):
        self.how, self.args = how, args

    def __reduce__(self) -> Any:
        return self.how, self.args

    def __call__(self) -> Any:
        return Strict()


def end_of_file() -> None:
    raise EOFError("at import")

"""PettingZoo's Parallel API as it is: agents who die, return or never appear, and their masks.

``possible_agents`` are the fixed places. An agent who is not in ``env.agents`` is not alive: it
sees zeros, has only action 0, and is not passed to ``env.step``. A mask is read from the
observation (``{"observation": ..., "action_mask": ...}``) or from the agent's info, and is no part
of what the agent observes.

The episode is over when no agent remains. If one of those who ended then was truncated, and not
terminated besides, the episode is truncated, and who was truncated is alive in the final
observation. AEC environments go through PettingZoo's own conversion.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qtot.envs.host import facts, team
from qtot.envs.host.base import GarbageError, Seen, Stepped
from qtot.envs.host.config import HostConfig
from qtot.envs.host.making import arguments, make
from qtot.envs.host.packages import host_module
from qtot.envs.host.places import Place
from qtot.envs.host.spaces import MASK
from qtot.errors import QtotError

NEEDS = ("possible_agents", "observation_space", "action_space", "reset", "step")


class PettingZooTeam:
    """A Parallel environment. It is reset once when it is taken, to see whether it has masks and a
    state.
    """

    def __init__(self, env: Any, name: str, config: HostConfig | None = None):
        config = config or HostConfig()
        if lacking := [part for part in NEEDS if not hasattr(env, part)]:
            raise QtotError(
                f"environment {name!r} is no PettingZoo Parallel environment: {type(env).__name__} "
                f"has no {', '.join(lacking)}"
            )
        self._env, self._keys = env, list(env.possible_agents)
        if not self._keys:
            raise QtotError(f"environment {name!r}: possible_agents is empty")
        self._index = {key: i for i, key in enumerate(self._keys)}
        self._places = [
            Place(str(key), env.observation_space(key), env.action_space(key)) for key in self._keys
        ]
        self._seeded = facts.takes(env.reset, "seed")
        self._live: list[Any] = []
        self._rewards: dict[Any, float] | None = None
        self._raw, infos = self._begin(0)
        masks = any(place.masked for place in self._places) or any(
            isinstance(said, Mapping) and MASK in said
            for said in (*self._raw.values(), *infos.values())
        )
        state, self._has_state = self._first_state()
        limit, said = facts.limit_of(env, config)
        self.limit_assumed = bool(said)
        about = facts.about(len(self._places), "PettingZoo", said, seeded=self._seeded)
        self.spec = facts.spec_of(
            env, name, self._places, config, limit=limit, masks=masks, about=about, state=state
        )
        self._team = team.Team(self.spec, self.spec.team_reward, config.info)

    def reset(self, seed: int) -> Seen:
        """``env.reset(seed=seed)``."""
        self._raw, infos = self._begin(seed)
        self._team.steps, self._rewards = 0, None
        if not self._env.agents:
            raise GarbageError("reset: expected agents in env.agents, got none")
        return self._seen(list(self._env.agents), infos, ended=False)

    def step(self, actions: Sequence[int]) -> Stepped:
        """One step of all who are there."""
        env, live = self._env, self._live
        chosen = {}
        for key in env.agents:
            i = self._place(key)
            chosen[key] = self._places[i].decode(int(actions[i]) if key in live else 0)
        got = env.step(chosen)
        if not (isinstance(got, tuple) and len(got) == 5 and isinstance(got[1], Mapping)):
            raise GarbageError(
                "step: expected five dicts (observations, rewards, terminations, truncations, "
                f"infos), got {type(got).__name__}"
            )
        self._raw, given, terminated, truncated, infos = got
        self._rewards = rewards = {
            key: team.number(reward, "reward of an agent") for key, reward in given.items()
        }
        left = [key for key in env.agents if not (terminated.get(key) or truncated.get(key))]
        # An agent may be truncated and terminated in one step: that is a true end.
        limit = [key for key in live if truncated.get(key) and not terminated.get(key)]
        over = not left
        cut = self._team.cut(over)
        return Stepped(
            seen=self._seen(limit if over else left, infos, ended=over),
            reward=self._team.reward(
                rewards.values(), [rewards[key] for key in live if key in rewards]
            ),
            terminated=over and not limit,
            truncated=bool(over and limit) or cut,
            info=self._team.info(infos, infos.values()),
        )

    @property
    def agent_rewards(self) -> np.ndarray | None:
        """The last step's own reward of each agent, ``[N]``, 0 for those who got none; None before
        the first.
        """
        if self._rewards is None:
            return None
        return np.array([self._rewards.get(key, 0.0) for key in self._keys])

    def close(self) -> None:
        """``env.close()``."""
        if hasattr(self._env, "close"):
            self._env.close()

    def outside(self) -> str | None:
        """Which of the last observations lies outside its declared space; None if none does."""
        places = ((self._places[self._place(key)], raw) for key, raw in self._raw.items())
        return next((found for place, raw in places if (found := place.violation(raw))), None)

    def _begin(self, seed: int) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
        got = self._env.reset(seed=seed) if self._seeded else self._env.reset()
        if not (isinstance(got, tuple) and len(got) == 2 and isinstance(got[0], Mapping)):
            raise GarbageError(
                "reset: expected the observations and infos of the agents, two dicts, got "
                f"{type(got).__name__}"
            )
        return got[0], got[1] if isinstance(got[1], Mapping) else {}

    def _first_state(self) -> tuple[np.ndarray | None, bool]:
        """The environment's own state, if it has one."""
        states = (getattr(layer, "state", None) for layer in facts.layers(self._env))
        if not all(state is None or callable(state) for state in states):
            return None, False  # no method, but something of its own
        try:
            return team.flat_state(self._env.state()), True
        except (NotImplementedError, AttributeError):
            return None, False

    def _place(self, key: Any) -> int:
        try:
            return self._index[key]
        except KeyError:
            raise GarbageError(
                f"agent {key!r} is not in possible_agents, {self._keys}; list there every agent "
                "that may ever appear"
            ) from None

    def _seen(self, there: list[Any], infos: Mapping[Any, Any], *, ended: bool) -> Seen:
        """What those see who are there; the others are dead."""
        self._live = there
        everyone = len(there) == len(self._keys)
        obs, avail, alive = self._team.blank(alive=everyone)
        for key in there:
            i = self._place(key)
            if not everyone:
                alive[i], avail[i] = True, self._team.legal(i)
            if key not in self._raw:
                raise GarbageError(f"expected an observation of agent {key!r}, got none")
            info = infos.get(key)
            mask = info.get(MASK) if info else None
            self._places[i].read(self._raw[key], mask, obs[i], avail[i], ended=ended)
        own = None
        if self._has_state:
            # After a true end nobody acts on it, and many a state() needs somebody alive.
            own = self._state(ended=ended) if there else self._team.no_state()
        return Seen(obs, self._team.side_by_side(obs) if own is None else own, avail, alive)

    def _state(self, *, ended: bool) -> np.ndarray:
        try:
            return self._team.state(self._env.state())
        except Exception as error:
            if not ended:
                raise
            raise GarbageError(
                "state: expected one at the time limit, too, by which what follows is valued, got "
                f"{type(error).__name__} ({error}); env.agents is empty by then: form it from "
                "possible_agents"
            ) from error


def parallel(env: Any, name: str) -> Any:
    """An AEC environment as a Parallel one, by PettingZoo's conversion; a Parallel one as it is."""
    if not hasattr(env, "agent_iter"):
        return env
    conversions = host_module("pettingzoo.utils.conversions", "pettingzoo")
    try:
        return conversions.aec_to_parallel(env)
    except AssertionError:
        raise QtotError(
            f"environment {name!r} is an AEC environment in which agents act in turns; qtot's "
            "agents act at once: set metadata['is_parallelizable'] if its world moves at the end "
            "of each round only"
        ) from None


def from_name(task: str, name: str, config: HostConfig) -> PettingZooTeam:
    """``mpe2.simple_spread_v3``: a module with ``parallel_env`` or ``env``.

    Raises:
        QtotError: there is no such module, or it makes no environment; says what to do.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on standard output
    host_module("pettingzoo", "pettingzoo")
    module = host_module(_module(task, name), "pettingzoo")
    factory = getattr(module, "parallel_env", None) or getattr(module, "env", None)
    if factory is None:
        raise QtotError(f"environment {name!r}: module {task!r} has no parallel_env and no env")
    env = make(factory, arguments(config.args), name)
    return PettingZooTeam(parallel(env, name), name, config)


def _module(task: str, name: str) -> str:
    """The module of that name, in PettingZoo itself, too."""
    for module in (task, f"pettingzoo.{task}"):
        try:
            if importlib.util.find_spec(module) is not None:
                return module
        except (ImportError, ValueError):
            continue
    if task.partition(".")[0] == "mpe2":
        host_module("mpe2", "pettingzoo")
    raise QtotError(
        f"environment {name!r}: there is no module {task!r}; expected one with parallel_env or "
        "env, such as 'pettingzoo/mpe2.simple_spread_v3'"
    )


def tasks(family: str = "pettingzoo") -> tuple[str, ...]:
    """The cooperative ones of mpe2; every other module goes by its name."""
    return (
        "mpe2.simple_spread_v3",
        "mpe2.simple_speaker_listener_v4",
        "mpe2.simple_reference_v3",
    )

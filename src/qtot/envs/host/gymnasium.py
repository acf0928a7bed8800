"""Gymnasium's environments of teams: Tuple spaces, an entry for each agent (lbforaging, rware).

They are known by their registered ids, or as ``module:ID``. Rewards are one per agent, in any
sequence; ``team_reward`` given also takes one number for all. A mask of legal actions is read from
the observations, or from ``info["action_mask"]``, an entry for each agent.

lbforaging 2.0 and rware 2.0 report their own time limit as ``terminated``; here it is a truncation.
In lbforaging, eating everything is the true end, also on the last step. Its ``reset`` keeps players
off the cells where they stood before; here they forget them, so that a seed says all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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

# Whether a world whose ``terminated`` says yes has come to a true end, by the package it is from.
TRUE_ENDS: dict[str, Callable[[Any], bool]] = {
    "lbforaging": lambda world: not world.field.any(),
    "rware": lambda world: not world.max_steps or world._cur_steps < world.max_steps,
}


def _forget_places(world: Any) -> None:
    for player in world.players:
        player.position = None


BEFORE_RESET: dict[str, Callable[[Any], None]] = {"lbforaging": _forget_places}
PACKAGES = {"Foraging": "lbforaging", "rware": "rware"}  # by how their ids begin


class GymnasiumTeam:
    """An environment whose observation and action spaces are Tuples of N."""

    def __init__(self, env: Any, name: str, config: HostConfig | None = None):
        config = config or HostConfig()
        spaces = host_module("gymnasium.spaces", "gym")
        observed, acts = env.observation_space, env.action_space
        for kind, space in (("observation", observed), ("action", acts)):
            if not isinstance(space, spaces.Tuple) or not len(space.spaces):
                raise QtotError(
                    f"environment {name!r}: its {kind} space is {space}, but a team needs a Tuple "
                    "with an entry for each agent; an environment of one agent is none of qtot's"
                )
        if len(observed.spaces) != len(acts.spaces):
            raise QtotError(
                f"environment {name!r}: {len(observed.spaces)} observation spaces, but "
                f"{len(acts.spaces)} action spaces; give every agent one of each"
            )
        self._env = env
        self._places = [
            Place(f"agent_{i}", o, a)
            for i, (o, a) in enumerate(zip(observed.spaces, acts.spaces, strict=True))
        ]
        self._seeded = facts.takes(env.reset, "seed")
        world = getattr(env, "unwrapped", env)
        package = type(world).__module__.partition(".")[0]
        forget, true_end = BEFORE_RESET.get(package), TRUE_ENDS.get(package)
        self._forget = forget and (lambda: forget(world))
        self._true_end = true_end and (lambda: true_end(world))
        self._rewards: list[float] | None = None
        self._raw, info = self._begin(0)
        masks = any(place.masked for place in self._places) or MASK in info
        registered = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        limit, said = facts.limit_of(env, config, registered)
        self.limit_assumed = bool(said)
        about = facts.about(len(self._places), "Gymnasium", said, seeded=self._seeded)
        self.spec = facts.spec_of(
            env, name, self._places, config, limit=limit, masks=masks, about=about
        )
        self._team = team.Team(self.spec, self.spec.team_reward, config.info)

    def reset(self, seed: int) -> Seen:
        """``env.reset(seed=seed)``."""
        self._raw, info = self._begin(seed)
        self._team.steps, self._rewards = 0, None
        return self._seen(info, ended=False)

    def step(self, actions: Sequence[int]) -> Stepped:
        """One step of all."""
        chosen = tuple(place.decode(int(a)) for place, a in zip(self._places, actions, strict=True))
        got = self._env.step(chosen)
        if not (isinstance(got, tuple) and len(got) == 5):
            raise GarbageError(
                "step: expected observations, rewards, terminated, truncated and info, got "
                f"{len(got) if isinstance(got, tuple) else type(got).__name__}"
            )
        self._raw, rewards, ended, cut, info = got
        terminated, truncated = _team_end(ended, cut, len(self._places))
        if terminated and self._true_end and not self._true_end():
            terminated, truncated = False, True
        own = self._own(rewards)
        over = terminated or truncated
        cut = self._team.cut(over)
        return Stepped(
            seen=self._seen(info, ended=over),
            reward=self._team.reward(own, own),
            terminated=terminated,
            truncated=(truncated and not terminated) or cut,
            info=self._team.info(info),
        )

    @property
    def agent_rewards(self) -> np.ndarray | None:
        """The last step's own reward of each agent, ``[N]``; None where the team's is given."""
        return None if self._rewards is None else np.array(self._rewards)

    def close(self) -> None:
        """``env.close()``."""
        if hasattr(self._env, "close"):
            self._env.close()

    def outside(self) -> str | None:
        """Which of the last observations lies outside its declared space; None if none does."""
        found = (p.violation(raw) for p, raw in zip(self._places, self._raw, strict=True))
        return next((said for said in found if said), None)

    def _begin(self, seed: int) -> tuple[Sequence[Any], Mapping[str, Any]]:
        if self._forget:
            self._forget()
        got = self._env.reset(seed=seed) if self._seeded else self._env.reset()
        if not (isinstance(got, tuple) and len(got) == 2 and isinstance(got[1], Mapping)):
            raise GarbageError("reset: expected the observations and an info dict, a tuple of two")
        return got

    def _own(self, rewards: Any) -> list[float]:
        """One reward per agent; or one in all, where the environment gives the team's."""
        if isinstance(rewards, np.ndarray):
            rewards = rewards.tolist()  # Python's numbers are quicker
        if not isinstance(rewards, list | tuple) and self.spec.team_reward == "given":
            self._rewards = None
            return [team.number(rewards, "reward")]
        if not isinstance(rewards, list | tuple) or len(rewards) != len(self._places):
            raise GarbageError(
                f"reward: expected one per agent, {len(self._places)}, got {rewards!r}; choose "
                "team_reward given if the environment gives the team's"
            )
        self._rewards = own = [team.number(reward, "reward") for reward in rewards]
        return own

    def _seen(self, info: Mapping[str, Any], *, ended: bool) -> Seen:
        obs, avail, alive = self._team.blank(alive=True)
        masks = info.get(MASK) if info else None
        for what, given in (("observations", self._raw), ("action masks", masks)):
            if given is not None and len(given) != len(self._places):
                raise GarbageError(f"expected {len(self._places)} {what}, got {len(given)}")
        for i, place in enumerate(self._places):
            mask = None if masks is None else masks[i]
            place.read(self._raw[i], mask, obs[i], avail[i], ended=ended)
        return Seen(obs, self._team.side_by_side(obs), avail, alive)


def _team_end(terminated: Any, truncated: Any, n: int) -> tuple[bool, bool]:
    """One flag each, from the team's or from one per agent: the episode is over when all agents
    have ended, and truncated if some of them only by a limit.
    """
    if isinstance(terminated, bool) and isinstance(truncated, bool):
        return terminated, truncated
    try:
        ended = np.broadcast_to(np.asarray(terminated, bool), n)
        over = bool((ended | np.broadcast_to(np.asarray(truncated, bool), n)).all())
    except ValueError:
        raise GarbageError(
            f"step: expected terminated and truncated for the team, or for each of {n} agents, got "
            f"{terminated!r} and {truncated!r}"
        ) from None
    return over and bool(ended.all()), over and not ended.all()


def from_name(task: str, name: str, config: HostConfig) -> GymnasiumTeam:
    """``Foraging-8x8-2p-2f-coop-v3``, or any other registered id, or ``module:ID``.

    Raises:
        QtotError: there is no such id, a package is missing, or it is no team's; says what to do.
    """
    gymnasium = host_module("gymnasium", "gym")
    for start, package in PACKAGES.items():
        if task.startswith(start):
            host_module(package, "gym")
    args = arguments(config.args)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a package's remarks on itself
            env = make(gymnasium.make, {"id": task, "disable_env_checker": True, **args}, name)
    except QtotError as error:
        cause = error.__cause__
        if isinstance(cause, gymnasium.error.UnregisteredEnv | ModuleNotFoundError):
            said = " ".join(str(cause).split()).rstrip(".")
            hint = (
                "" if ":" in task else "; what a package registers is there once it is imported: "
            )
            hint += f"gym/package.module:{task}" if hint else ""
            raise QtotError(f"environment {name!r}: {said}{hint}") from cause
        raise
    return GymnasiumTeam(env, name, config)


def tasks(family: str = "gym") -> tuple[str, ...]:
    """Those that papers report; every other registered id goes, too."""
    return (
        "Foraging-8x8-2p-2f-coop-v3",
        "Foraging-2s-8x8-2p-2f-coop-v3",
        "Foraging-10x10-3p-3f-v3",
        "rware-tiny-2ag-v2",
        "rware-tiny-4ag-v2",
        "rware-small-4ag-v2",
    )

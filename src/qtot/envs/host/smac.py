"""The API of SMAC and PyMARL: SMAC, SMACv2, SMAClite, and one's own with these methods.

A unit whose only legal action is the no-op, number 0, is dead. ``info["episode_limit"]`` marks the
end that the time limit made, which is a truncation; ``info["battle_won"]`` is reported as "won".
SMAC's ``reset`` takes no seed: one that does is given it, any other begins as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from qtot.envs.host import facts, smaclite, team
from qtot.envs.host.base import GarbageError, Seen, Stepped
from qtot.envs.host.config import HostConfig
from qtot.envs.host.making import arguments, make
from qtot.envs.host.smac_maps import GENERATED, generated
from qtot.envs.host.spaces import legal_actions
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.extras import missing

NEEDS = ("reset", "step", "get_obs", "get_state", "get_avail_actions", "get_env_info")
INSTALL = {
    "smac": "install StarCraft II and 'pip install git+https://github.com/oxwhirl/smac.git'",
    "smacv2": "install StarCraft II and 'pip install git+https://github.com/oxwhirl/smacv2.git'",
    "smaclite": "'pip install git+https://github.com/uoe-agents/smaclite.git'; no StarCraft II",
}
WON = "won"


class SmacTeam:
    """A team of units. It is not reset when it is taken: SMAC starts StarCraft II then."""

    agent_rewards: np.ndarray | None = None
    """the API knows the team's reward only"""

    def __init__(self, env: Any, name: str, config: HostConfig | None = None):
        config = config or HostConfig()
        if lacking := [part for part in NEEDS if not hasattr(env, part)]:
            raise QtotError(
                f"environment {name!r} has not SMAC's API: {type(env).__name__} has no "
                f"{', '.join(lacking)}"
            )
        if config.team_reward not in ("auto", "given"):
            raise QtotError(
                f"environment {name!r} gives the team's reward, so that team_reward "
                f"{config.team_reward!r} has nothing to add up; choose given"
            )
        told = env.get_env_info()
        if lacking := {"n_agents", "n_actions", "obs_shape", "state_shape"} - set(told):
            raise QtotError(
                f"environment {name!r}: get_env_info has no {', '.join(sorted(lacking))}"
            )
        n, size = int(told["n_agents"]), _size(told["obs_shape"])
        self._env, self._obs = env, None
        self._seeded = facts.takes(env.reset, "seed")
        limit, said = facts.limit_of(env, config, told.get("episode_limit"))
        self.limit_assumed = bool(said)
        self.spec = EnvSpec(
            name=name,
            agents=tuple(f"agent_{i}" for i in range(n)),
            n_actions=(int(told["n_actions"]),) * n,
            obs_sizes=(size,) * n,
            state_size=_size(told["state_shape"]),
            episode_limit=limit,
            info=(WON, *(key for key in config.info if key != WON)),
            about=facts.about(n, "SMAC's API", said, seeded=self._seeded),
        )
        self._team = team.Team(self.spec, "given", tuple(k for k in config.info if k != WON))
        self._noop = np.arange(self.spec.max_actions) == 0

    def reset(self, seed: int) -> Seen:
        """A battle begins."""
        if self._seeded:
            self._env.reset(seed=seed)
        else:
            self._env.reset()
        self._team.steps = 0
        return self._seen(ended=False)

    def step(self, actions: Sequence[int]) -> Stepped:
        """One step of all; the dead do nothing, whatever they chose."""
        chosen = [int(a) if up else 0 for a, up in zip(actions, self._alive, strict=True)]
        got = self._env.step(chosen)
        reward, over, cut, info = _unpack(got)
        cut = cut or (over and bool(info.get("episode_limit", False)))
        late = self._team.cut(over or cut)
        scalars = self._team.info(info)
        return Stepped(
            seen=self._seen(ended=over or cut),
            reward=team.number(reward, "reward"),
            terminated=over and not cut,
            truncated=cut or late,
            info={WON: float(bool(info.get("battle_won", False))), **scalars},
        )

    def close(self) -> None:
        """``env.close()``."""
        if hasattr(self._env, "close"):
            self._env.close()

    def outside(self) -> str | None:
        """The API declares no bounds: an observation lies outside if it is not finite."""
        wrong = [] if self._obs is None else np.argwhere(~np.isfinite(self._obs))
        if not len(wrong):
            return None
        i, feature = map(int, wrong[0])
        got = self._obs[i, feature] if self._obs is not None else 0.0
        return f"observation of agent 'agent_{i}': expected feature [{feature}] finite, got {got}"

    def _seen(self, *, ended: bool) -> Seen:
        obs, _, _ = self._team.blank(alive=True)
        obs[:] = _array(self._env.get_obs(), obs.shape, np.float32, "get_obs")
        given = self._env.get_avail_actions()
        mask = _array(given, self._shape, np.float32, "get_avail_actions")
        avail = legal_actions(mask, "masks from get_avail_actions")
        alive = (avail != self._noop).any(axis=1)
        dumb = ~avail.any(axis=1)
        if dumb.any():
            if not ended:
                raise GarbageError(
                    "get_avail_actions: expected a legal action of agent "
                    f"'agent_{int(dumb.argmax())}', got none; a dead unit has the no-op, number 0"
                )
            avail[dumb] = self._noop
            alive = (avail != self._noop).any(axis=1)
        self._obs, self._alive = obs, alive.tolist()
        return Seen(obs.copy(), self._team.state(self._env.get_state()), avail, alive)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.spec.n_agents, self.spec.max_actions


def _size(shape: Any) -> int:
    """Features, from SMAC's number or from a shape."""
    return int(math.prod(shape)) if isinstance(shape, tuple | list) else int(shape)


def _unpack(got: Any) -> tuple[Any, bool, bool, Mapping[str, Any]]:
    """Reward, terminated, truncated and info, from SMAC's three values or Gymnasium's five."""
    if isinstance(got, tuple) and len(got) == 3:
        reward, over, info = got
        return reward, bool(over), False, info
    if isinstance(got, tuple) and len(got) == 5:
        _, reward, over, cut, info = got
        return reward, bool(over), bool(cut) and not over, info
    raise GarbageError(
        "step: expected reward, terminated and info (or observations, reward, terminated, "
        f"truncated and info), got {len(got) if isinstance(got, tuple) else type(got).__name__}"
    )


def _array(given: Any, shape: tuple[int, ...], dtype: type, what: str) -> np.ndarray:
    try:
        array = np.asarray(given, dtype)
    except (TypeError, ValueError):
        raise GarbageError(f"{what}: expected numbers of shape {shape}, got uneven rows") from None
    array = array.reshape(shape[0], -1) if array.ndim > 2 else array
    if array.shape != shape:
        raise GarbageError(f"{what}: expected the shape {shape}, got {array.shape}")
    return array


def from_name(task: str, name: str, config: HostConfig) -> SmacTeam:
    """The map ``task`` of ``smac/``, ``smacv2/`` or ``smaclite/``.

    Raises:
        QtotError: the package is missing, or has no such map; says what to do.
    """
    family, args = name.partition("/")[0], arguments(config.args)
    if family == "smaclite":
        maps = _module("smaclite", "smaclite.env.maps.map")
        env = smaclite.make(task, args, name, maps, _module("smaclite", "smaclite.env"))
    elif family == "smacv2":
        env = _smacv2(task, args, name)
    else:
        factory = _module("smac", "smac.env").StarCraft2Env
        env = make(factory, {"map_name": task, **args}, name)
    return SmacTeam(env, name, config)


def _smacv2(task: str, args: dict[str, Any], name: str) -> Any:
    """Units and places are drawn anew for every battle, as in the paper; or SMAC's own map."""
    world = _module("smacv2", "smacv2.env.starcraft2.wrapper")
    if GENERATED.fullmatch(task) is None:
        plain = _module("smacv2", "smacv2.env.starcraft2.starcraft2").StarCraft2Env
        return make(plain, {"map_name": task, **args}, name)
    return make(world.StarCraftCapabilityEnvWrapper, {**generated(task), **args}, name)


def _module(family: str, module: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(family, error, INSTALL[family]) from error


def tasks(family: str = "smac") -> tuple[str, ...]:
    """Maps that papers report."""
    if family == "smacv2":
        races = ("terran", "protoss", "zerg")
        return tuple(
            f"{race}_{n}_vs_{m}" for race in races for n, m in ((5, 5), (10, 10), (10, 11))
        )
    if family == "smaclite":
        return ("2s3z", "3s5z", "10m_vs_11m", "MMM2")
    return ("3m", "8m", "2s3z", "3s5z", "5m_vs_6m", "MMM2", "corridor", "27m_vs_30m")

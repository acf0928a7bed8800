"""A healthy walk in Python, and ways to break one thing of it, for the tests of its checker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qtot.envs.host.base import Seen, Stepped
from qtot.envs.spec import EnvSpec

SPEC = EnvSpec(
    name="test/walk",
    agents=("small", "large"),
    n_actions=(2, 3),
    obs_sizes=(1, 2),
    state_size=2,
    episode_limit=6,
    team_reward="sum",
    info=("won",),
)


class HostWalk:
    """A healthy walk: 3 to 5 steps end it truly, and of those that need 9, the limit of 6."""

    spec = SPEC

    def __init__(self) -> None:
        self.agent_rewards: Any = None
        self.left = self.time = 0
        self.luck = 0.0

    def reset(self, seed: int) -> Any:
        luck = np.random.default_rng(seed)
        self.left, self.time, self.luck = int(luck.choice([3, 4, 5, 9])), 0, luck.random()
        return self.see()

    def step(self, actions: Sequence[int]) -> Any:
        self.left, self.time = self.left - 1, self.time + 1
        end = self.left <= 0
        self.agent_rewards = np.array(actions, float) + self.luck
        return Stepped(
            self.see(),
            float(self.agent_rewards.sum()),
            end,
            self.time >= 6 and not end,
            {"won": float(end)},
        )

    def see(self) -> Any:
        return Seen(
            obs=np.array([[self.left, 0], [self.left, self.luck]], np.float32),
            state=np.array([self.left, self.time], np.float32),
            avail_actions=np.array([[True, True, False], [True, True, True]]),
            alive=np.array([True, True]),
        )

    def close(self) -> None:
        """Nothing is held."""


def host_walk(
    *,
    see: Callable[[Any, HostWalk], Any] | None = None,
    tell: Callable[[Any, HostWalk], Any] | None = None,
    before: Callable[[HostWalk, Sequence[int]], None] | None = None,
    parts: dict[str, Any] | None = None,
    **facts: Any,
) -> Callable[[], Any]:
    """Makes the walk, with what it shows or tells changed, or facts of its spec, or its parts."""

    class Changed(HostWalk):
        spec = dataclasses.replace(SPEC, **facts)

        def step(self, actions: Sequence[int]) -> Any:
            if before:
                before(self, actions)
            stepped = super().step(actions)
            return tell(stepped, self) if tell else stepped

        def see(self) -> Any:
            seen = super().see()
            return see(seen, self) if see else seen

    for name, part in (parts or {}).items():
        setattr(Changed, name, part)
    return Changed


def shows(**fields: Any) -> Callable[[], Any]:
    """The walk, with fields of what is seen replaced, or functions of the old ones."""
    return host_walk(see=lambda seen, env: _replaced(seen, fields, env))


def tells(**fields: Any) -> Callable[[], Any]:
    """The walk, with fields of what followed replaced, or functions of the old ones."""
    return host_walk(tell=lambda stepped, env: _replaced(stepped, fields, env))


def _replaced(record: Any, fields: dict[str, Any], env: HostWalk) -> Any:
    new = {k: f(getattr(record, k), env) if callable(f) else f for k, f in fields.items()}
    return record._replace(**new)


def rewarding(share: Callable[[Any], Any]) -> Callable[[], Any]:
    """The walk, whose agents' own rewards are a function of what they were."""

    def tell(stepped: Any, env: HostWalk) -> Any:
        env.agent_rewards = share(env.agent_rewards)
        return stepped

    return host_walk(tell=tell)


# By name, for the command.
NotANumber = tells(reward=float("nan"))
Silent = tells(info={})

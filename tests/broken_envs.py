"""A healthy walk, and ways to break one thing of it, for the tests of the environment checker."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qtot.envs.spec import EnvSpec
from qtot.types import Observation, StepResult

SPEC = EnvSpec(
    name="test/walk",
    agents=("small", "large"),
    n_actions=(2, 3),
    obs_sizes=(1, 2),
    state_size=2,
    episode_limit=5,
    info=("won",),
)


class Walk:
    """A healthy walk: 3 or 4 steps end it truly, and of those that need 6, the limit of 5."""

    spec = SPEC

    def reset(self, key) -> Any:
        luck = jax.random.key_data(key)[-1]  # no generator to compile
        needs = jnp.array([3, 4, 6])[luck % 3]
        return {"left": needs, "time": jnp.int32(0)}

    def step(self, key, state, actions) -> Any:
        state = {"left": state["left"] - 1, "time": state["time"] + 1}
        end = state["left"] <= 0
        return state, StepResult(
            reward=actions.sum().astype(jnp.float32),
            terminated=end,
            truncated=(state["time"] >= 5) & ~end,
            info={"won": end.astype(jnp.float32)},
        )

    def observe(self, state) -> Any:
        left, time = state["left"].astype(jnp.float32), state["time"].astype(jnp.float32)
        return Observation(
            obs=jnp.array([[1.0, 0.0], [1.0, 1.0]]) * (left + 1),
            state=jnp.stack([left, time]),
            avail_actions=jnp.array([[True, True, False], [True, True, True]]),
            alive=jnp.array([True, True]),
        )


def walk(
    *,
    see: Callable[[Observation, Any], Any] | None = None,
    tell: Callable[[StepResult], Any] | None = None,
    move: Callable[[Any], Any] | None = None,
    **facts: Any,
) -> Walk:
    """The walk, with what it shows, tells or becomes changed, or facts of its spec."""

    class Changed(Walk):
        spec = dataclasses.replace(SPEC, **facts)

        def step(self, key, state, actions):
            after, result = super().step(key, state, actions)
            return move(after) if move else after, tell(result) if tell else result

        def observe(self, state):
            seen = super().observe(state)
            return see(seen, state) if see else seen

    return Changed()


def replaced(record: Any, fields: dict[str, Any]) -> Any:
    """The record with new values, or functions of the old ones."""
    new = {k: f(getattr(record, k)) if callable(f) else f for k, f in fields.items()}
    return record._replace(**new)


def shows(**fields: Any) -> Walk:
    """The walk, with fields of its observation replaced."""
    return walk(see=lambda seen, _: replaced(seen, fields))


def tells(**fields: Any) -> Walk:
    """The walk, with fields of its step result replaced."""
    return walk(tell=lambda result: replaced(result, fields))


def drawing() -> Walk:
    """Draws its reward in Python, while it is traced."""
    count = itertools.count()
    return tells(reward=lambda _: jnp.float32(next(count)))


def calling(**options: Any) -> Walk:
    """Asks Python for its reward at every step, and never hears the same twice."""
    count, shape = itertools.count(), jax.ShapeDtypeStruct((), np.float32)

    def reward(old: Array) -> Array:
        return jax.pure_callback(lambda _: np.float32(next(count)), shape, old, **options)

    return tells(reward=reward)


def hoarding() -> Walk:
    """Adds its rewards up in Python."""
    kept = [jnp.float32(0)]

    def reward(new: Array) -> Array:
        kept[0] = kept[0] + new
        return kept[0]

    return tells(reward=reward)


def branching() -> Walk:
    """Uses ``if`` on what is traced."""
    return tells(reward=lambda old: old if old > 0 else -old)


def dying(*agents: int, choices: bool = False) -> Walk:
    """The agents are dead from the second step on, with or without a choice left."""

    def see(seen: Observation, state: Any) -> Observation:
        dead = (state["time"] > 0) & jnp.isin(jnp.arange(2), jnp.array(agents))
        idle = dead[:, None] & (jnp.arange(3) > 0) & (not choices)
        return seen._replace(alive=~dead, avail_actions=seen.avail_actions & ~idle)

    return walk(see=see)


def locked(*, always: bool) -> Walk:
    """Nothing is legal in a final observation: of any episode, or of those that end truly."""

    def see(seen: Observation, state: Any) -> Observation:
        final = (state["left"] <= 0) | (always & (state["time"] >= 5))
        return seen._replace(avail_actions=seen.avail_actions & ~final)

    return walk(see=see)

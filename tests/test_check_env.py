"""Healthy environments pass; every kind of breakage is found, and its message says all."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from qtot.envs import make_env, tasks
from qtot.envs.base import JaxEnv
from qtot.envs.check import Report, check_env
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.types import Observation, StepResult

NOTICES = {"single_agent", "reset_ignores_key", "constant_state"}
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
    """A healthy walk of three to five steps. Subclasses break one thing each."""

    spec = SPEC

    def reset(self, key) -> Any:
        return {"left": jax.random.randint(key, (), 3, 6), "time": jnp.int32(0)}

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


def check(env: Any, **options: Any) -> Report:
    return check_env(env, **({"steps": 16, "envs": 2} | options))


def seeing(change) -> Walk:
    """The walk, with its observation changed by ``change(seen, state)``."""

    class Seeing(Walk):
        def observe(self, state):
            return change(super().observe(state), state)

    return Seeing()


def telling(change) -> Walk:
    """The walk, with its step result changed by ``change(result)``."""

    class Telling(Walk):
        def step(self, key, state, actions):
            state, result = super().step(key, state, actions)
            return state, change(result)

    return Telling()


def moving(change) -> Walk:
    """The walk, with the state after a step changed by ``change(state)``."""

    class Moving(Walk):
        def step(self, key, state, actions):
            state, result = super().step(key, state, actions)
            return change(state), result

    return Moving()


def declaring(**facts: Any) -> Walk:
    """The walk, with another spec."""
    env = Walk()
    env.spec = dataclasses.replace(SPEC, **facts)
    return env


def counting() -> Walk:
    """Keeps count in Python: each trace freezes another reward."""
    count = itertools.count()
    return telling(lambda result: result._replace(reward=jnp.float32(next(count))))


def calling(**vmap_method: str) -> Walk:
    """Asks Python for the reward, which never says the same twice."""
    count = itertools.count()

    def reward(_: Array):
        return np.float32(next(count))

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return telling(
        lambda result: result._replace(
            reward=jax.pure_callback(reward, shape, result.reward, **vmap_method)
        )
    )


def hoarding() -> Walk:
    """Adds up rewards in an attribute."""
    kept = [jnp.float32(0)]

    def change(result: StepResult) -> StepResult:
        kept[0] = kept[0] + result.reward
        return result._replace(reward=kept[0])

    return telling(change)


class Forgetful(NamedTuple):
    """An observation of another type."""

    obs: Array


def nan_at(index: tuple[int, ...]):
    return lambda x: x.at[index].set(jnp.nan)


def masked(*rows: tuple[bool, bool, bool]):
    return lambda seen, _: seen._replace(avail_actions=jnp.array(rows))


T, F = True, False
LATE = {"time": jnp.int32(2)}
BROKEN: dict[str, tuple[str, Any, str]] = {
    # name: (kind, environment, the whole message)
    "no observe": (
        "interface",
        type("Half", (), {"spec": SPEC, "reset": Walk.reset, "step": Walk.step})(),
        "Half: expected a JaxEnv, got no observe; add what is missing; the contract is "
        "qtot.envs.base.JaxEnv",
    ),
    "agents twice": (
        "spec",
        declaring(agents=("a", "a")),
        "spec.agents: expected one name for each agent, got a more than once; name every agent, "
        "once",
    ),
    "no agents": (
        "spec",
        declaring(agents=(), n_actions=(), obs_sizes=()),
        "spec.agents: expected one name for each agent, got no agents; name every agent, once",
    ),
    "lengths": (
        "spec",
        declaring(n_actions=(2, 3, 3)),
        "spec.n_actions: expected 2 entries, one per agent, got 3; give every agent its own",
    ),
    "size of an agent": (
        "spec",
        declaring(obs_sizes=(0, 2)),
        "spec.obs_sizes, agent 'small': expected 1 or more, got 0; give an idle agent one no-op "
        "and one feature, always 0",
    ),
    "limit": (
        "spec",
        declaring(episode_limit=0),
        "spec.episode_limit: expected 1 or more, got 0; say how large it is",
    ),
    "enum": (
        "spec",
        declaring(team_reward="total"),
        "spec.team_reward: expected 'sum' or 'mean' or 'given', got 'total'; choose one of these",
    ),
    "observation type": (
        "interface",
        seeing(lambda seen, _: Forgetful(seen.obs)),
        "observe: expected a qtot.types.Observation, got Forgetful; return Observation(obs, "
        "state, avail_actions, alive)",
    ),
    "obs shape": (
        "shape",
        seeing(lambda seen, _: seen._replace(obs=seen.obs[:, :1])),
        "obs: expected shape (2, 2), got (2, 1); zero-pad every agent's observation to O = "
        "max(spec.obs_sizes)",
    ),
    "state shape": (
        "shape",
        seeing(lambda seen, _: seen._replace(state=seen.state[None])),
        "state: expected shape (2,), got (1, 2); return spec.state_size features",
    ),
    "mask shape": (
        "shape",
        seeing(lambda seen, _: seen._replace(avail_actions=None)),
        "avail_actions: expected an array of shape (2, 3), got NoneType; True = legal, False for "
        "padding up to max(spec.n_actions)",
    ),
    "mask dtype": (
        "dtype",
        seeing(lambda seen, _: seen._replace(avail_actions=seen.avail_actions.astype(jnp.uint8))),
        "avail_actions: expected dtype bool, got uint8; convert it with .astype(bool); True = "
        "legal, False for padding up to max(spec.n_actions)",
    ),
    "alive shape": (
        "shape",
        seeing(lambda seen, _: seen._replace(alive=jnp.array(True))),
        "alive: expected shape (2,), got (); one bool per agent; True for all where nobody dies",
    ),
    "reward shape": (
        "shape",
        telling(lambda result: result._replace(reward=jnp.ones(2))),
        "reward: expected shape (), got (2,); return one reward for the team: the sum or mean of "
        "the agents' own",
    ),
    "reward dtype": (
        "dtype",
        telling(lambda result: result._replace(reward=jnp.int32(1))),
        "reward: expected dtype float, got int32; convert it with .astype(float); return one "
        "reward for the team: the sum or mean of the agents' own",
    ),
    "terminated per agent": (
        "shape",
        telling(lambda result: result._replace(terminated=jnp.zeros(2, bool))),
        "terminated: expected shape (), got (2,); return one flag for the team, not one per agent",
    ),
    "truncated dtype": (
        "dtype",
        telling(lambda result: result._replace(truncated=jnp.float32(0))),
        "truncated: expected dtype bool, got float32; convert it with .astype(bool); return one "
        "flag for the team, not one per agent",
    ),
    "info keys": (
        "info_keys",
        telling(lambda result: result._replace(info={"score": result.reward})),
        "info: expected the keys ['won'], got ['score']; list in spec.info what every step's info "
        "holds; {} for nothing",
    ),
    "info shape": (
        "shape",
        telling(lambda result: result._replace(info={"won": jnp.ones(2)})),
        "info['won']: expected shape (), got (2,); report one number",
    ),
    "state dtype": (
        "state_form",
        moving(lambda state: state | {"time": state["time"].astype(jnp.float32)}),
        "the state after step, ['time']: expected int32[] as from reset, got float32[]; return "
        "from step the same fields, shapes and dtypes as from reset (.astype, jnp.where)",
    ),
    "state structure": (
        "state_form",
        moving(lambda state: state | {"extra": jnp.int32(0)}),
        "the state after step: expected the structure PyTreeDef({'left': *, 'time': *}) of reset, "
        "got PyTreeDef({'extra': *, 'left': *, 'time': *}); return from step the same fields, "
        "shapes and dtypes as from reset (.astype, jnp.where)",
    ),
    "obs NaN": (
        "obs_not_finite",
        seeing(lambda seen, _: seen._replace(obs=nan_at((1, 1))(seen.obs))),
        "agent 'large', feature 1, slot 0 of copy 0 (first of 32): expected a finite number, got "
        "nan; look for a division by zero, an overflow or an entry never set",
    ),
    "state inf": (
        "state_not_finite",
        seeing(lambda seen, _: seen._replace(state=seen.state.at[1].set(jnp.inf))),
        "state feature 1, slot 0 of copy 0 (first of 32): expected a finite number, got inf; look "
        "for a division by zero, an overflow or an entry never set",
    ),
    "reward NaN": (
        "reward_not_finite",
        telling(lambda result: result._replace(reward=jnp.float32(jnp.nan))),
        "slot 0 of copy 0 (first of 26): expected a finite number, got nan; look for a division "
        "by zero, an overflow or an entry never set",
    ),
    "obs padding": (
        "obs_padding",
        seeing(lambda seen, _: seen._replace(obs=seen.obs.at[0, 1].set(7))),
        "agent 'small', feature 1, slot 0 of copy 0 (first of 32): expected 0 above the agent's "
        "entry in spec.obs_sizes, got 7.0; zero-pad the observation, or count the feature in "
        "spec.obs_sizes",
    ),
    "mask inverted": (
        "mask_inverted",
        masked((F, F, T), (F, F, F)),
        "agent 'small', slot 0 of copy 0 (first of 32): expected True = legal, got every action "
        "of the agent illegal and its padding legal; the mask looks inverted: return ~mask, with "
        "False for padding",
    ),
}

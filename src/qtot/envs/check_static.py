"""What shows before an environment is played: its spec, shapes and types; a part of ``check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from qtot.envs.base import JaxEnv
from qtot.envs.spec import EnvSpec, MaskSource, StateSource, TeamReward
from qtot.shapes import features
from qtot.types import Observation, PyTree, StepResult

Severity = Literal["error", "notice"]


@dataclass(frozen=True)
class Problem:
    """One way in which an environment departs from the contract."""

    kind: str
    """which check found it, such as ``mask_inverted``"""
    message: str
    """where, what was expected, what was got, and what to do"""
    severity: Severity = "error"


def problem(
    kind: str, where: str, expected: str, got: str, remedy: str, *, severity: Severity = "error"
) -> Problem:
    """A problem, told in the order of every message of the checker."""
    return Problem(kind, f"{where}: expected {expected}, got {got}; {remedy}", severity)


class BrokenEnvError(Exception):
    """Nothing more can be found out; carries the problem."""


def spec_problems(spec: EnvSpec) -> Iterator[Problem]:
    """Names, sizes and choices."""
    wrong = partial(problem, "spec")
    twice = [name for name, count in Counter(spec.agents).items() if count > 1]
    if twice or not spec.agents:
        got = f"{', '.join(twice)} more than once" if twice else "no agents"
        yield wrong("spec.agents", "one name for each agent", got, "name every agent, once")
    for field in ("n_actions", "obs_sizes"):
        sizes = getattr(spec, field)
        if len(sizes) != len(spec.agents):
            expected = f"{len(spec.agents)} entries, one per agent"
            yield wrong(f"spec.{field}", expected, f"{len(sizes)}", "give every agent its own")
        for agent, size in zip(spec.agents, sizes, strict=False):
            if size < 1:
                remedy = "give an idle agent one no-op and one feature, always 0"
                yield wrong(f"spec.{field}, agent {agent!r}", "1 or more", f"{size}", remedy)
    for field in ("state_size", "episode_limit"):
        if (size := getattr(spec, field)) < 1:
            yield wrong(f"spec.{field}", "1 or more", f"{size}", "say how large it is")
    if not 1 <= spec.shortest_episode <= max(spec.episode_limit, 1):
        expected = f"from 1 to spec.episode_limit = {spec.episode_limit}"
        remedy = "1 is always right"
        yield wrong("spec.shortest_episode", expected, f"{spec.shortest_episode}", remedy)
    side_by_side = sum(spec.obs_sizes)
    if spec.state_source == "concatenated observations" and spec.state_size != side_by_side:
        expected = f"{side_by_side}, since spec.state_source is 'concatenated observations'"
        remedy = "leave padding out, or set state_source to 'environment'"
        yield wrong("spec.state_size", expected, f"{spec.state_size}", remedy)
    pixels = features(spec.obs_shape)
    if spec.obs_shape and any(size != pixels for size in spec.obs_sizes):
        expected = "rows, columns and channels whose product is every agent's entry in obs_sizes"
        got = f"{spec.obs_shape}, {pixels} in all, beside {spec.obs_sizes}"
        remedy = "flatten the whole image into the observation; () where it is no image"
        yield wrong("spec.obs_shape", expected, got, remedy)
    choices = {"team_reward": TeamReward, "state_source": StateSource, "masks": MaskSource}
    for field, literal in choices.items():
        if (value := getattr(spec, field)) not in get_args(literal):
            expected = " or ".join(map(repr, get_args(literal)))
            yield wrong(f"spec.{field}", expected, repr(value), "choose one of these")


_TRACING = {
    "not_jittable": (
        "a pure function of JAX arrays",
        "use jnp.where or lax.cond in place of if, jax.numpy in place of NumPy and int(), and "
        "keep what changes in the state",
    ),
    "not_vmappable": (
        "a function that jax.vmap accepts",
        "write it for one environment, in jax.numpy; a callback needs vmap_method",
    ),
}


def attempt(kind: str, where: str, function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """The function's result; BrokenEnvError, with the problem ``kind``, if it raises anything."""
    try:
        return function(*args)
    except Exception as error:
        expected, remedy = _TRACING[kind]
        got = f"{type(error).__name__} ({str(error).partition(chr(10))[0].rstrip('.')})"
        raise BrokenEnvError(problem(kind, where, expected, got, remedy)) from error


def traced_problems(env: JaxEnv, envs: int) -> Iterator[Problem]:
    """Wrong types, shapes and dtypes; raises BrokenEnvError where there is nothing to look at."""
    spec = env.spec
    start, seen, after = _trace(env, "not_jittable", lambda function: function, ())
    _trace(env, "not_vmappable", jax.vmap, (envs,))
    if not isinstance(seen, Observation):
        remedy = "return Observation(obs, state, avail_actions, alive)"
        yield problem(
            "interface", "observe", "a qtot.types.Observation", type(seen).__name__, remedy
        )
        return
    if not (isinstance(after, tuple) and len(after) == 2 and isinstance(after[1], StepResult)):
        remedy = "return state, StepResult(reward, terminated, truncated, info)"
        yield problem(
            "interface", "step", "a state and a qtot.types.StepResult", type(after).__name__, remedy
        )
        return
    state, result = after
    yield from _array_problems(spec, seen, result)
    yield from _info_problems(spec, result.info)
    yield from _state_problems(start, state)


def _trace(
    env: JaxEnv, kind: str, wrap: Callable[..., Any], lead: tuple[int, ...]
) -> tuple[PyTree, PyTree, PyTree]:
    """The shapes and dtypes that reset, observe and step return."""
    key = jax.ShapeDtypeStruct(lead, jax.eval_shape(jax.random.key, 0).dtype)
    actions = jax.ShapeDtypeStruct((*lead, env.spec.n_agents), jnp.int32)

    def shapes(name: str, *args: PyTree) -> PyTree:
        return attempt(kind, name, partial(jax.eval_shape, wrap(getattr(env, name))), *args)

    start = shapes("reset", key)
    return start, shapes("observe", start), shapes("step", key, start, actions)


_FIELDS = {  # axes in the letters of qtot.types, dtype, remedy
    "obs": ("NO", "float", "zero-pad every agent's observation to O = max(spec.obs_sizes)"),
    "state": ("S", "float", "return spec.state_size features"),
    "avail_actions": ("NA", "bool", "True = legal, False for padding up to max(spec.n_actions)"),
    "alive": ("N", "bool", "one bool per agent; True for all where nobody dies"),
    "reward": ("", "float", "return one reward for the team: the sum or mean of the agents' own"),
    "terminated": ("", "bool", "return one flag for the team, not one per agent"),
    "truncated": ("", "bool", "return one flag for the team, not one per agent"),
}


def _array_problems(spec: EnvSpec, seen: Observation, result: StepResult) -> Iterator[Problem]:
    sizes = {"N": spec.n_agents, "O": spec.obs_size, "A": spec.max_actions, "S": spec.state_size}
    got = seen._asdict() | result._asdict()
    for field, (axes, dtype, remedy) in _FIELDS.items():
        shape = tuple(sizes[axis] for axis in axes)
        yield from _array_problem(field, got[field], shape, dtype, remedy)


def _array_problem(
    where: str, got: Any, shape: tuple[int, ...], dtype: str, remedy: str
) -> Iterator[Problem]:
    if not hasattr(got, "shape"):
        yield problem("shape", where, f"an array of shape {shape}", type(got).__name__, remedy)
    elif got.shape != shape:
        yield problem("shape", where, f"shape {shape}", f"{got.shape}", remedy)
    elif not jnp.issubdtype(got.dtype, {"float": jnp.floating, "bool": jnp.bool_}[dtype]):
        remedy = f"convert it with .astype({dtype}); {remedy}"
        yield problem("dtype", where, f"dtype {dtype}", f"{got.dtype}", remedy)


def _info_problems(spec: EnvSpec, info: Any) -> Iterator[Problem]:
    if not isinstance(info, dict) or set(info) != set(spec.info):
        got = sorted(info) if isinstance(info, dict) else type(info).__name__
        remedy = "list in spec.info what every step's info holds; {} for nothing"
        yield problem("info_keys", "info", f"the keys {sorted(spec.info)}", f"{got}", remedy)
        return
    for name, value in info.items():
        yield from _array_problem(f"info[{name!r}]", value, (), "float", "report one number")


def _state_problems(start: PyTree, state: PyTree) -> Iterator[Problem]:
    """Between reset and step the state must keep its form, or no loop can be compiled."""
    remedy = (
        "return from step the same fields, shapes and dtypes as from reset (.astype, jnp.where)"
    )
    tell = partial(problem, "state_form")
    before, now = jax.tree.structure(start), jax.tree.structure(state)
    if before != now:
        yield tell("the state after step", f"the structure {before} of reset", f"{now}", remedy)
        return
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(start), jax.tree.leaves(state), strict=True
    ):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            expected, got = (f"{x.dtype}{list(x.shape)}" for x in (old, new))
            where = f"the state after step, {jax.tree_util.keystr(path) or 'its array'}"
            yield tell(where, f"{expected} as from reset", got, remedy)

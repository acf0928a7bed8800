"""What shows before an environment is played: its shapes and types; a part of ``check``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qtot.envs.base import JaxEnv
from qtot.envs.check_spec import FIELDS
from qtot.envs.report import Problem, problem
from qtot.envs.spec import EnvSpec
from qtot.types import Observation, PyTree, StepResult

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


class BrokenEnvError(Exception):
    """Nothing more can be found out; carries the problem."""


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


def _array_problems(spec: EnvSpec, seen: Observation, result: StepResult) -> Iterator[Problem]:
    sizes = {"N": spec.n_agents, "O": spec.obs_size, "A": spec.max_actions, "S": spec.state_size}
    got = seen._asdict() | result._asdict()
    for field, (axes, dtype, remedy) in FIELDS.items():
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

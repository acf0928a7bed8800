"""A traced program, run again operation by operation on arrays ``[..., E]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qtot.envs.lanes.shared import listed, shared

CHAIN = 64
"""longest chain of selections; longer tables are left to ``vmap``"""


class Lanes(NamedTuple):
    """An array that differs between environments: ``[..., E]``. Any other value is shared."""

    x: Array


Value = Any
"""Lanes, or a concrete array that all environments share"""


CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"}

ELEMENTWISE = set(
    re.findall(
        r"\w+",
        """
        abs add add_any and atan2 bitcast_convert_type cbrt ceil clamp convert_element_type copy
        copy_p cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le
        le_to log log1p logistic lt lt_to max min mul ne neg nextafter not or population_count pow
        reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
        shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
        """,
    )
)
"""their operands have one shape, or are scalars"""


class Replay:
    """One run of a traced program over ``size`` lanes."""

    def __init__(self, size: int):
        self.size = size

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """The results of a program, of its constants and arguments."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return atom.val if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(v) for v in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[Value]) -> Sequence[Value]:
        """The results of one operation."""
        name, params = eqn.primitive.name, eqn.params
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if name in CALLS and inner is not None:
            return self.run(inner.jaxpr, inner.consts, args)
        if name == "cond" and not isinstance(args[0], Lanes):
            chosen = params["branches"][int(np.clip(args[0], 0, len(params["branches"]) - 1))]
            return self.run(chosen.jaxpr, chosen.consts, args[1:])
        if not any(isinstance(a, Lanes) for a in args):
            return shared(eqn, args)
        if name in ELEMENTWISE:
            shape = eqn.outvars[0].aval.shape
            return wrapped(eqn, [self.lanes(a, shape) for a in args], params)
        rule = RULES.get(name)
        results = rule(self, eqn, args) if rule else None
        return self.by_vmap(eqn, args) if results is None else results

    def lanes(self, value: Value, shape: Sequence[int] | None = None) -> Array:
        """A value as ``[*shape, E]``, which it may have already, or be a scalar."""
        x = value.x if isinstance(value, Lanes) else jnp.asarray(value)[..., None]
        want = (*(x.shape[:-1] if shape is None else shape), self.size)
        if x.shape == want:
            return x
        dims = (len(want) - 1,) if x.ndim == 1 else tuple(range(x.ndim))
        return lax.broadcast_in_dim(x, want, dims)

    def by_vmap(self, eqn: Any, args: list[Value]) -> Sequence[Value]:
        """The operation as ``vmap`` has it."""
        axes = [-1 if isinstance(a, Lanes) else None for a in args]

        def bind(*xs: Array) -> list[Array]:
            return listed(eqn.primitive.bind(*xs, **eqn.params), eqn)

        xs = [a.x if isinstance(a, Lanes) else a for a in args]
        return [Lanes(x) for x in jax.vmap(bind, axes, -1)(*xs)]


def wrapped(eqn: Any, xs: Sequence[Any], params: dict[str, Any]) -> list[Value]:
    """The operation itself, on arrays that end in E."""
    return [Lanes(x) for x in listed(eqn.primitive.bind(*xs, **params), eqn)]


Rule = Callable[[Replay, Any, list[Value]], Sequence[Value] | None]
RULES: dict[str, Rule] = {}
"""by the operation's name; None = not this case"""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of the operations of those names."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register

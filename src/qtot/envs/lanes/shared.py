"""Operations on what all environments share: computed while the program is traced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def shared(eqn: Any, args: list[Any]) -> list[Any]:
    """The results of an operation that all environments share, computed now: by NumPy where it is
    one of the common ones, which spares a compilation each.
    """
    name = eqn.primitive.name
    plain = NUMPY.get(name)
    whole = name in ("div", "rem") and not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)
    if plain and not whole and not any(isinstance(a, jax.Array) and _is_key(a) for a in args):
        with np.errstate(all="ignore"):  # what comes of dividing by 0 may never be chosen
            out = plain(eqn.params, *(np.asarray(a) for a in args))
        return [np.asarray(out, eqn.outvars[0].aval.dtype)]
    with jax.ensure_compile_time_eval():
        return listed(eqn.primitive.bind(*args, **eqn.params), eqn)


def _is_key(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _spread(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """``broadcast_in_dim``"""
    shape, dims = params["shape"], params["broadcast_dimensions"]
    sizes = dict(zip(dims, x.shape, strict=True))
    return np.broadcast_to(x.reshape([sizes.get(d, 1) for d in range(len(shape))]), shape)


def _count(params: dict[str, Any]) -> np.ndarray:
    """``iota``"""
    shape, axis = params["shape"], params["dimension"]
    numbers = np.arange(shape[axis]).reshape([-1 if d == axis else 1 for d in range(len(shape))])
    return np.broadcast_to(numbers, shape)


PLAIN: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "rem": np.fmod,
    "sqrt": np.sqrt,
    "sign": np.sign,
    "max": np.maximum,
    "min": np.minimum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.bitwise_not,
}
"""NumPy's own, of the operands alone"""

NUMPY: dict[str, Callable[..., Any]] = {
    **{name: lambda _, *xs, f=f: f(*xs) for name, f in PLAIN.items()},
    "select_n": lambda _, which, *cases: functools.reduce(
        lambda out, k: np.where(which == k, cases[k], out), range(1, len(cases)), cases[0]
    ),
    "convert_element_type": lambda _, x: x,
    "stop_gradient": lambda _, x: x,
    "copy": lambda _, x: x,
    "broadcast_in_dim": _spread,
    "iota": _count,
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "squeeze": lambda p, x: x.squeeze(p["dimensions"]),
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "stack": lambda p, *xs: np.stack(xs, p["axis"]),
    "slice": lambda p, x: x[
        tuple(
            slice(*bounds)
            for bounds in zip(
                p["start_indices"], p["limit_indices"], p["strides"] or [1] * x.ndim, strict=True
            )
        )
    ],
}
"""of the operation's parameters and operands"""


def listed(out: Any, eqn: Any) -> list[Any]:
    """An operation's results, also where it has but one."""
    return list(out) if eqn.primitive.multiple_results else [out]

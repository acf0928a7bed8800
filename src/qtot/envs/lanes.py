"""``vmap`` with the batch on the last axis, for programs of many small arrays.

A game's arrays are tiny: three units, two coordinates. With environments on the first axis, as
``vmap`` has them, XLA's CPU backend loops over those tiny axes and can use neither vector
instructions nor contiguous rows. Here each program is traced once for one environment, and its
operations are then replayed on arrays ``[..., E]``, so that every inner loop runs over
environments:

- What depends on no argument (which unit is seen by whom) is computed while tracing.
- Indexing by such constants takes whole rows. Indexing by data is a chain of selections, where
  the CPU backend would loop over single elements.
- Whatever has no rule here is left to ``vmap``, so that every program works.

The mathematics and its order are the program's own: results agree with ``vmap`` bit for bit, up to
how the compiler fuses products and sums.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qtot.types import PyTree

CHAIN = 64
"""longest chain of selections; longer tables are left to ``vmap``"""


class Lanes(NamedTuple):
    """An array that differs between environments: ``[..., E]``. Any other value is shared."""

    x: Array


Value = Any
"""Lanes, or a concrete array that all environments share"""


def vmap_last(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Like ``jax.vmap(f)``, for a pure function of arrays ``[E, ...]``."""

    def batched(*args: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(args)
        size = leaves[0].shape[0]
        one = tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves)
        program, out_tree = _trace(f, tree, one, jax.sharding.get_abstract_mesh())
        inputs = [Lanes(jnp.moveaxis(x, 0, -1)) for x in leaves]
        results = _Replay(size).run(program.jaxpr, program.consts, inputs)
        outs = [
            jnp.moveaxis(v.x, -1, 0)
            if isinstance(v, Lanes)
            else jnp.broadcast_to(v, (size, *jnp.shape(v)))
            for v in results
        ]
        return jax.tree.unflatten(out_tree, outs)

    return batched


@functools.lru_cache(maxsize=64)
def _trace(
    f: Callable[..., PyTree], tree: Any, one: tuple[Any, ...], _mesh: Any
) -> tuple[Any, Any]:
    """The program for one environment and the structure of its results. A program belongs to the
    mesh in which it was traced.
    """
    program, out = jax.make_jaxpr(f, return_shape=True)(*jax.tree.unflatten(tree, one))
    return program, jax.tree.structure(out)


class _Replay:
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
            return _shared(eqn, args)
        if name in ELEMENTWISE:
            shape = eqn.outvars[0].aval.shape
            return _wrapped(eqn, [self.lanes(a, shape) for a in args], params)
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
            return _listed(eqn.primitive.bind(*xs, **eqn.params), eqn)

        xs = [a.x if isinstance(a, Lanes) else a for a in args]
        return [Lanes(x) for x in jax.vmap(bind, axes, -1)(*xs)]


def _shared(eqn: Any, args: list[Any]) -> list[Any]:
    """The results of an operation that all environments share, computed now: by NumPy where it is
    one of the common ones, which spares a compilation each.
    """
    plain = NUMPY.get(eqn.primitive.name)
    if plain and not any(isinstance(a, jax.Array) and _is_key(a) for a in args):
        out = plain(eqn.params, *(np.asarray(a) for a in args))
        return [np.asarray(out, eqn.outvars[0].aval.dtype)]
    with jax.ensure_compile_time_eval():
        return _listed(eqn.primitive.bind(*args, **eqn.params), eqn)


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


NUMPY: dict[str, Callable[..., Any]] = {
    "add": lambda _, x, y: np.add(x, y),
    "sub": lambda _, x, y: np.subtract(x, y),
    "mul": lambda _, x, y: np.multiply(x, y),
    "max": lambda _, x, y: np.maximum(x, y),
    "min": lambda _, x, y: np.minimum(x, y),
    "lt": lambda _, x, y: np.less(x, y),
    "le": lambda _, x, y: np.less_equal(x, y),
    "gt": lambda _, x, y: np.greater(x, y),
    "ge": lambda _, x, y: np.greater_equal(x, y),
    "eq": lambda _, x, y: np.equal(x, y),
    "ne": lambda _, x, y: np.not_equal(x, y),
    "and": lambda _, x, y: np.bitwise_and(x, y),
    "or": lambda _, x, y: np.bitwise_or(x, y),
    "not": lambda _, x: np.bitwise_not(x),
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


def _listed(out: Any, eqn: Any) -> list[Any]:
    return list(out) if eqn.primitive.multiple_results else [out]


def _wrapped(eqn: Any, xs: Sequence[Any], params: dict[str, Any]) -> list[Value]:
    """The operation itself, on arrays that end in E."""
    return [Lanes(x) for x in _listed(eqn.primitive.bind(*xs, **params), eqn)]


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

Rule = Callable[[_Replay, Any, list[Value]], Sequence[Value] | None]
RULES: dict[str, Rule] = {}
"""by the operation's name; None = not this case"""


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


# Shapes: axes are counted from the front, so that a last one more changes nothing ------------


@_rule(
    "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or",
    "argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "squeeze", "rev", "sort", "split",
    "concatenate",
)  # fmt: skip
def _same(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    return _wrapped(eqn, [replay.lanes(a) for a in args], eqn.params)


@_rule("reduce_sum")
def _sum(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    """Over a short axis, plain additions in the same order, which merge with what is around."""
    axes, x = eqn.params["axes"], replay.lanes(args[0])
    if len(axes) != 1 or not 0 < x.shape[axes[0]] <= CHAIN // 4:
        return _same(replay, eqn, args)
    axis = axes[0]
    rows = [lax.index_in_dim(x, k, axis, keepdims=False) for k in range(x.shape[axis])]
    return [Lanes(functools.reduce(jnp.add, rows))]


@_rule("broadcast_in_dim", "reshape", "transpose", "slice", "pad")
def _reshaped(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    old, rank = eqn.params, len(eqn.invars[0].aval.shape)
    new = {
        "broadcast_in_dim": lambda: {
            "shape": (*old["shape"], replay.size),
            "broadcast_dimensions": (*old["broadcast_dimensions"], len(old["shape"])),
        },
        "reshape": lambda: {"new_sizes": (*old["new_sizes"], replay.size)},
        "transpose": lambda: {"permutation": (*old["permutation"], rank)},
        "slice": lambda: {
            "start_indices": (*old["start_indices"], 0),
            "limit_indices": (*old["limit_indices"], replay.size),
            "strides": old["strides"] and (*old["strides"], 1),
        },
        "pad": lambda: {"padding_config": (*old["padding_config"], (0, 0, 0))},
    }[eqn.primitive.name]()
    if not isinstance(args[0], Lanes) or any(isinstance(a, Lanes) for a in args[1:]):
        return None
    return _wrapped(eqn, [args[0].x, *args[1:]], {**old, **new})


@_rule("stack")
def _stack(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    return [Lanes(jnp.stack([replay.lanes(a) for a in args], eqn.params["axis"]))]


@_rule("dot_general")
def _dot(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    """A small product as sums of products: the backend has no fast one that is this small."""
    (contract, batch), (a, b) = eqn.params["dimension_numbers"], args
    if batch != ((), ()) or len(contract[0]) != 1:
        return None
    x = jnp.moveaxis(replay.lanes(a), contract[0][0], 0)
    y = jnp.moveaxis(replay.lanes(b), contract[1][0], 0)
    if len(x) > CHAIN // 4:
        return None
    x = x.reshape(*x.shape[:-1], *(1,) * (y.ndim - 2), replay.size)
    y = y.reshape(len(y), *(1,) * (x.ndim - y.ndim), *y.shape[1:])
    out = functools.reduce(jnp.add, [x[k] * y[k] for k in range(len(x))])
    return [Lanes(out.astype(eqn.outvars[0].aval.dtype))]


# Control ------------------------------------------------------------------------------------


@_rule("cond")
def _cond(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    """Every branch, then a choice: environments differ in which they take."""
    which = args[0].x
    results = [replay.run(b.jaxpr, b.consts, args[1:]) for b in eqn.params["branches"]]

    def choose(variable: Any, *cases: Value) -> Value:
        shape = variable.aval.shape
        index = replay.lanes(Lanes(jnp.clip(which, 0, len(cases) - 1)), shape)
        out = replay.lanes(cases[0], shape)
        for k, case in enumerate(cases[1:], 1):
            out = jnp.where(index == k, replay.lanes(case, shape), out)
        return Lanes(out)

    return [choose(*pair) for pair in zip(eqn.outvars, *results, strict=True)]


@_rule("scan")
def _scan(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    """The same loop over lanes. What it carries unchanged stays as it is, shared or not."""
    params = eqn.params
    body, n, m = params["jaxpr"], params["num_consts"], params["num_carry"]
    consts, init, xs = args[:n], list(args[n : n + m]), args[n + m :]
    fixed = [
        body.jaxpr.outvars[i] is body.jaxpr.invars[n + i] and not isinstance(init[i], Lanes)
        for i in range(m)
    ]
    start = [replay.lanes(v) for v, f in zip(init, fixed, strict=True) if not f]

    def step(carry: list[Array], rows: list[Array]) -> tuple[list[Array], list[Array]]:
        moving = iter(carry)
        now = [v if f else Lanes(next(moving)) for v, f in zip(init, fixed, strict=True)]
        seen = [Lanes(r) for r in rows]
        out = replay.run(body.jaxpr, body.consts, [*consts, *now, *seen])
        kept = [replay.lanes(v) for v, f in zip(out[:m], fixed, strict=True) if not f]
        return kept, [replay.lanes(v) for v in out[m:]]

    end, ys = lax.scan(
        step,
        start,
        [replay.lanes(x) for x in xs],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    moved = iter(end)
    final = [v if f else Lanes(next(moved)) for v, f in zip(init, fixed, strict=True)]
    return [*final, *(Lanes(y) for y in ys)]


@_rule("random_bits", "random_split")
def _random(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    """Keys ``[..., E]``; what is drawn from each comes after E, and E goes last again."""
    keys = replay.lanes(args[0])
    drawn = eqn.primitive.bind(keys, **eqn.params)
    return [Lanes(jnp.moveaxis(drawn, keys.ndim - 1, -1))]


# Indexing -----------------------------------------------------------------------------------


class _Table(NamedTuple):
    """Indexing of one axis by one number each: ``i`` picks from ``x`` along ``axis``."""

    axis: int
    """counted after the axes that index and table share"""
    shared: int
    """number of leading axes that index and table share"""


def _table(numbers: Any, index_shape: tuple[int, ...], *, scatter: bool) -> _Table | None:
    """What one-number indexing does; None if it is something else."""
    along = numbers.scatter_dims_to_operand_dims if scatter else numbers.start_index_map
    dropped = numbers.inserted_window_dims if scatter else numbers.collapsed_slice_dims
    paired = (
        numbers.scatter_indices_batching_dims if scatter else numbers.start_indices_batching_dims
    )
    lead = tuple(range(len(paired)))
    if len(along) != 1 or index_shape[-1:] != (1,) or tuple(dropped) != tuple(along):
        return None
    if tuple(paired) != lead or tuple(numbers.operand_batching_dims) != lead:
        return None
    return _Table(along[0] - len(lead), len(lead)) if along[0] >= len(lead) else None


@_rule("gather")
def _gather(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    (table, index), params = args, eqn.params
    numbers, rank = params["dimension_numbers"], len(eqn.outvars[0].aval.shape)
    if not isinstance(index, Lanes):
        last = numbers._replace(offset_dims=(*numbers.offset_dims, rank))
        sizes = (*params["slice_sizes"], replay.size)
        return _wrapped(
            eqn, [table.x, index], {**params, "dimension_numbers": last, "slice_sizes": sizes}
        )
    shape, at = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    found = _table(numbers, at, scatter=False)
    if found is None:
        return None
    axis, lead = found.axis + found.shared, len(at) - 1
    whole = all(
        size == (1 if d < found.shared or d == axis else shape[d])
        for d, size in enumerate(params["slice_sizes"])
    )
    window = tuple(range(lead, rank))
    if not whole or tuple(numbers.offset_dims) != window or shape[axis] > CHAIN:
        return None
    rows = jnp.moveaxis(replay.lanes(table), axis, 0)  # [K, shared, rest, E]
    extra = lead - found.shared  # axes of the index that the table lacks
    rows = rows.reshape(
        len(rows), *rows.shape[1 : 1 + found.shared], *(1,) * extra, *rows.shape[1 + found.shared :]
    )
    i = index.x[..., 0, :]
    i = i.reshape(*i.shape[:-1], *(1,) * len(window), replay.size)
    out = rows[0]
    for k in range(1, len(rows)):  # an index out of range picks the nearest row
        picked = i >= k if k == len(rows) - 1 else i == k
        out = jnp.where(picked, rows[k], out)
    if params["mode"] == lax.GatherScatterMode.FILL_OR_DROP:
        if params["fill_value"] is not None:
            return None
        out = jnp.where((i >= 0) & (i < len(rows)), out, _filler(out.dtype))
    return [Lanes(jnp.broadcast_to(out, (*eqn.outvars[0].aval.shape, replay.size)))]


def _filler(kind: np.dtype) -> Array:
    """What is read out of range where the program names nothing: as ``lax.gather`` has it."""
    if jnp.issubdtype(kind, jnp.inexact):
        return jnp.asarray(jnp.nan, kind)
    if kind == jnp.bool_:
        return jnp.asarray(True)
    return jnp.asarray(jnp.iinfo(kind).min or jnp.iinfo(kind).max, kind)


@_rule("scatter", "scatter-add")
def _scatter(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    """Each update in its turn, as a selection over the rows it might go to."""
    shape, at, _ = (v.aval.shape for v in eqn.invars)
    numbers, adds = eqn.params["dimension_numbers"], eqn.primitive.name == "scatter-add"
    target, index, update = args
    found = _table(numbers, at, scatter=True)
    if found is None:
        return _window(replay, eqn, args)
    axis, lead = found.axis + found.shared, len(at) - 1
    turns = math.prod(at[found.shared : lead])
    rank = len(eqn.invars[2].aval.shape)
    if tuple(numbers.update_window_dims) != tuple(range(lead, rank)) or turns > CHAIN:
        return _window(replay, eqn, args)
    out = replay.lanes(target)
    i = replay.lanes(index)[..., 0, :]
    i = i.reshape(*i.shape[: found.shared], turns, replay.size)
    u = replay.lanes(update)
    u = u.reshape(*u.shape[: found.shared], turns, *u.shape[lead:])
    rows = lax.broadcasted_iota(i.dtype, (*shape, 1), axis)
    for k in range(turns):
        where = i[(slice(None),) * found.shared + (k,)]
        where = where.reshape(*where.shape[:-1], *(1,) * (len(shape) - found.shared), replay.size)
        new = jnp.expand_dims(u[(slice(None),) * found.shared + (k,)], axis)
        out = jnp.where(rows == where, out + new if adds else new, out)
    return [Lanes(out)]


def _window(replay: _Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    """By an index that all share, whole rows are written."""
    target, index, update = args
    if isinstance(index, Lanes):
        return None
    numbers, rank = eqn.params["dimension_numbers"], len(eqn.invars[2].aval.shape)
    last = numbers._replace(update_window_dims=(*numbers.update_window_dims, rank))
    operands = [replay.lanes(target), index, replay.lanes(update)]
    return _wrapped(eqn, operands, {**eqn.params, "dimension_numbers": last})

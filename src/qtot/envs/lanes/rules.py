"""Rules for shapes, small sums and products, control, and random draws."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qtot.envs.lanes.replay import CHAIN, Lanes, Replay, Value, rule, wrapped

# Shapes: axes are counted from the front, so that a last one more changes nothing ------------


@rule(
    "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or",
    "argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "squeeze", "rev", "sort", "split",
    "concatenate",
)  # fmt: skip
def _same(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    return wrapped(eqn, [replay.lanes(a) for a in args], eqn.params)


@rule("reduce_sum")
def _sum(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    """Over a short axis, plain additions in the same order, which merge with what is around."""
    axes, x = eqn.params["axes"], replay.lanes(args[0])
    if len(axes) != 1 or not 0 < x.shape[axes[0]] <= CHAIN // 4:
        return _same(replay, eqn, args)
    axis = axes[0]
    rows = [lax.index_in_dim(x, k, axis, keepdims=False) for k in range(x.shape[axis])]
    return [Lanes(functools.reduce(jnp.add, rows))]


@rule("broadcast_in_dim", "reshape", "transpose", "slice", "pad")
def _reshaped(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
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
    return wrapped(eqn, [args[0].x, *args[1:]], {**old, **new})


@rule("stack")
def _stack(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    return [Lanes(jnp.stack([replay.lanes(a) for a in args], eqn.params["axis"]))]


@rule("dot_general")
def _dot(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
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


@rule("cond")
def _cond(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
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


@rule("scan")
def _scan(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
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


@rule("random_bits", "random_split")
def _random(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value]:
    """Keys ``[..., E]``; what is drawn from each comes after E, and E goes last again."""
    keys = replay.lanes(args[0])
    drawn = eqn.primitive.bind(keys, **eqn.params)
    return [Lanes(jnp.moveaxis(drawn, keys.ndim - 1, -1))]

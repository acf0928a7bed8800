"""Rules for indexing: by constants whole rows, by data a chain of selections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qtot.envs.lanes.replay import CHAIN, Lanes, Replay, Value, rule, wrapped


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


@rule("gather")
def _gather(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    (table, index), params = args, eqn.params
    numbers, rank = params["dimension_numbers"], len(eqn.outvars[0].aval.shape)
    if not isinstance(index, Lanes):
        last = numbers._replace(offset_dims=(*numbers.offset_dims, rank))
        sizes = (*params["slice_sizes"], replay.size)
        return wrapped(
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


@rule("scatter", "scatter-add")
def _scatter(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
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


def _window(replay: Replay, eqn: Any, args: list[Value]) -> Sequence[Value] | None:
    """By an index that all share, whole rows are written."""
    target, index, update = args
    if isinstance(index, Lanes):
        return None
    numbers, rank = eqn.params["dimension_numbers"], len(eqn.invars[2].aval.shape)
    last = numbers._replace(update_window_dims=(*numbers.update_window_dims, rank))
    operands = [replay.lanes(target), index, replay.lanes(update)]
    return wrapped(eqn, operands, {**eqn.params, "dimension_numbers": last})

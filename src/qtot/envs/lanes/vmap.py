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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qtot.envs.lanes import indexing, rules  # noqa: F401  (they register themselves)
from qtot.envs.lanes.replay import Lanes, Replay
from qtot.types import PyTree


def vmap_last(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Like ``jax.vmap(f)``, for a pure function of arrays ``[E, ...]``."""

    def batched(*args: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(args)
        size = leaves[0].shape[0]
        one = tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves)
        program, out_tree = _trace(f, tree, one, jax.sharding.get_abstract_mesh())
        inputs = [Lanes(jnp.moveaxis(x, 0, -1)) for x in leaves]
        results = Replay(size).run(program.jaxpr, program.consts, inputs)
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

"""Compiling a run's programs side by side: Python lowers one while XLA compiles the others."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from qtot.errors import QtotError
from qtot.training.ingraph import Program
from qtot.training.state import RunState

Compiled = Any
"""a program that is called with arrays of the shapes it was lowered for"""

_POOL = ThreadPoolExecutor(thread_name_prefix="qtot-compile")


def compiling(lowered: Any, *, runs_once: bool = False) -> Future[Compiled]:
    """Compile elsewhere; XLA works outside Python's lock.

    Args:
        lowered: what ``jax.jit(f).lower(...)`` returned.
        runs_once: rather compiled in half the time than run fast.
    """
    quick = runs_once and jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if quick else None
    return _POOL.submit(lowered.compile, options)


def lowering(lower: Callable[[], Any]) -> Future[Compiled]:
    """Lower and compile elsewhere, while this thread waits for a program that runs."""
    return _POOL.submit(lambda: lower().compile())


def traced_init(program: Program) -> Any:
    """The program that makes the state, traced; its ``out_info`` are the shapes.

    Raises:
        QtotError: what the user chose cannot be.
    """
    try:
        return jax.jit(program.init).trace(jax.ShapeDtypeStruct((), np.int32))
    except QtotError:  # of the user's own options
        raise
    except (TypeError, OverflowError, ValueError) as error:  # shapes beyond what an index can say
        raise QtotError(
            f"these sizes are beyond any machine ({error}); use a smaller --replay.capacity, "
            "--collect.envs or --agent.hidden"
        ) from None


def placed(program: Program, shapes: RunState) -> RunState:
    """The shapes of a state, and where on the mesh it will lie. Enough to lower all programs while
    the one that makes the state is compiled.
    """

    def place(spec: PartitionSpec, shapes: Any) -> Any:
        def at(x: Any) -> jax.ShapeDtypeStruct:
            # XLA puts what is empty (the memory of agents without one) everywhere.
            where = NamedSharding(program.mesh, spec if x.size else PartitionSpec())
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where, weak_type=x.weak_type)

        return jax.tree.map(at, shapes)

    return jax.tree.map(
        place, program.layout.specs, shapes, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Tracing makes millions of objects that live on: looking for garbage among them finds none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()

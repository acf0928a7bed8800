"""Compiling a run's programs side by side: Python lowers one while XLA compiles the others."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

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

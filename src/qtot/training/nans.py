"""Which operation made the first number that is none: an iteration once more, operation by
operation.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qtot
from qtot.config import products
from qtot.training.ingraph import Program
from qtot.training.layout import along
from qtot.training.state import RunState

HERE = Path(qtot.__file__).parent
LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "numpy", "contextlib.py")


def explained(program: Program, before: RunState, seed: int, collected: Any = None) -> str:
    """Where a seed's learning goes wrong.

    Args:
        program: on one device.
        before: the state before the iteration that goes wrong.
        seed: which of them, from 0.
        collected: its rollout; None where the program makes it.
    """
    one = along(program.layout.axes, before.seeds, lambda x: x[seed])
    collect_key, learn_key = program.keys(one, before.iteration)
    if collected is None:
        epsilon = program.learner.epsilon(one.train.env_steps)
        collected = jax.jit(program.collect)(collect_key, one.actors, one.train, epsilon)
    slots = collected[1]
    for name in ("reward", "obs", "state"):
        bad = np.argwhere(~np.isfinite(np.asarray(getattr(slots, name))))
        if len(bad):
            return f"the environment's {name} was the first: it is not finite by itself"
    with (
        jax.disable_jit(),
        jax.debug_nans(True),
        jax.default_matmul_precision(products(program.config)),
    ):
        try:
            jax.block_until_ready(
                program.learn(one, learn_key, jax.tree.map(jnp.asarray, collected))
            )
        except FloatingPointError as error:
            return f"{_place(error)} made the first NaN"
    return "no operation made a NaN: the first number that was not finite was an infinite one"


def _place(error: BaseException) -> str:
    """The innermost line of ours, or of the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(part in LIBRARIES for part in Path(f.filename).parts)]
    frame = own[-1]
    path = Path(frame.filename)
    name = path.relative_to(HERE.parent) if path.is_relative_to(HERE) else path
    return f"{name}:{frame.lineno} ({frame.name}: {frame.line})"

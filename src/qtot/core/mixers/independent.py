"""Independent Q-learning (Tan 1993): every agent regresses on the team reward by itself."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from qtot.core.config import MixerConfig
from qtot.core.mixers.base import MixerInputs, Shapes
from qtot.types import Key


class Independent(eqx.Module):
    """No mixing: M = N."""

    monotone: ClassVar[bool] = True

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        del key, shapes, config

    def __call__(self, x: MixerInputs) -> Float[Array, "*b N"]:
        return x.q_taken

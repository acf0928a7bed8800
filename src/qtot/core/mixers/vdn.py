"""Value decomposition networks (Sunehag et al. 2017), and the QMIX paper's VDN-S."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qtot.core.config import MixerConfig
from qtot.core.mixers.base import MixerInputs, Shapes
from qtot.core.nn import Linear
from qtot.types import Key


class VDN(eqx.Module):
    """Q_tot = Σ_a Q_a."""

    monotone: ClassVar[bool] = True

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        del key, shapes, config

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        return jnp.sum(x.q_taken, axis=-1, keepdims=True)


class StateValue(eqx.Module):
    """V(s): one hidden ReLU layer. The last bias of QMIX, and all that VDN-S adds."""

    hidden: Linear
    out: Linear

    def __init__(self, key: Key, state_size: int, embed: int):
        keys = jax.random.split(key)
        self.hidden = Linear(keys[0], state_size, embed, "torch")
        self.out = Linear(keys[1], embed, 1, "torch")

    def __call__(self, state: Float[Array, "*b S"]) -> Float[Array, "*b 1"]:
        return self.out(jax.nn.relu(self.hidden(state)))


class VDNS(eqx.Module):
    """Q_tot = Σ_a Q_a + V(s) (Rashid et al. 2020, section 6.3)."""

    monotone: ClassVar[bool] = True
    value: StateValue

    def __init__(self, key: Key, shapes: Shapes, config: MixerConfig):
        self.value = StateValue(key, shapes.state_size, config.embed)

    def __call__(self, x: MixerInputs) -> Float[Array, "*b 1"]:
        return jnp.sum(x.q_taken, axis=-1, keepdims=True) + self.value(x.state)

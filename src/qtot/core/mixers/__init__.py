"""The methods by name. A new mixer is one file and one line here. Importing this loads no JAX."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtot.errors import unknown

if TYPE_CHECKING:
    from qtot.core.mixers.base import Mixer


@dataclass(frozen=True)
class Method:
    """A way to learn: a mixer (``module:Class`` below this package)."""

    mixer: str
    about: str


METHODS: dict[str, Method] = {
    "iql": Method("independent:Independent", "independent Q-learning, no mixing"),
    "vdn": Method("vdn:VDN", "value decomposition: the sum"),
    "vdn_s": Method("vdn:VDNS", "VDN plus a state-dependent bias"),
    "qmix": Method("qmix:QMIX", "monotone mixing, weights from hypernetworks"),
    "qmix_lin": Method("qmix:QMIXLin", "QMIX without a hidden mixing layer"),
    "qmix_ns": Method("qmix:QMIXNS", "QMIX whose weights do not depend on the state"),
}


def mixer_class(algo: str) -> type[Mixer]:
    """The mixer of a method.

    Raises:
        QtotError: no such method; says the nearest one.
    """
    if algo not in METHODS:
        raise unknown("algorithm", algo, METHODS)
    module, _, name = METHODS[algo].mixer.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)

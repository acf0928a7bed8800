"""The methods by name. A new mixer is one file and one line here. Importing this loads no JAX."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtot.errors import unknown

if TYPE_CHECKING:
    from qtot.core.losses.base import Loss
    from qtot.core.mixers.base import Mixer


@dataclass(frozen=True)
class Method:
    """A way to learn: parts named ``module:object`` below ``core.mixers`` or ``core.losses``."""

    about: str
    mixer: str | None
    loss: str = "td:td_loss"
    critic: str | None = None
    """a central network beside the mixer, which lives with the loss that trains it"""
    on_policy: bool = False
    """acts by a softmax policy and learns from each rollout once; else epsilon-greedy and replay"""


METHODS: dict[str, Method] = {
    "iql": Method("independent Q-learning, no mixing", "independent:Independent"),
    "vdn": Method("value decomposition: the sum", "vdn:VDN"),
    "vdn_s": Method("VDN plus a state-dependent bias", "vdn:VDNS"),
    "qmix": Method("monotone mixing, weights from hypernetworks", "qmix:QMIX"),
    "qmix_lin": Method("QMIX without a hidden mixing layer", "qmix:QMIXLin"),
    "qmix_ns": Method("QMIX whose weights do not depend on the state", "qmix:QMIXNS"),
    "qatten": Method("attention of the state over agents", "qatten:Qatten"),
    "qplex": Method("duplex dueling: all that the agents' argmax allows", "qplex:QPLEX"),
    "cw_qmix": Method(
        "QMIX weighted towards greedy joint actions, after an unrestricted Q*",
        "qmix:QMIX",
        loss="weighted:cw_loss",
        critic="weighted:CentralQ",
    ),
    "ow_qmix": Method(
        "QMIX weighted towards what it underestimates, after an unrestricted Q*",
        "qmix:QMIX",
        loss="weighted:ow_loss",
        critic="weighted:CentralQ",
    ),
    "qtran": Method(
        "a sum that is bound to an unrestricted joint Q by two more losses (QTRAN-base)",
        "vdn:VDN",
        loss="qtran:qtran_loss",
        critic="qtran:JointQ",
    ),
    "coma": Method(
        "on-policy actors and a central critic with counterfactual baselines",
        None,
        loss="coma:coma_loss",
        critic="coma:CounterfactualCritic",
        on_policy=True,
    ),
}


def method(algo: str) -> Method:
    """The method of that name.

    Raises:
        QtotError: no such method; says the nearest one.
    """
    if algo not in METHODS:
        raise unknown("algorithm", algo, METHODS)
    return METHODS[algo]


def mixer_class(algo: str) -> type[Mixer] | None:
    """The mixer of a method, if it has one."""
    return _part("mixers", method(algo).mixer)


def critic_class(algo: str) -> Callable[..., Any] | None:
    """The central network beside the mixer, if the method has one."""
    return _part("losses", method(algo).critic)


def loss_function(algo: str) -> Loss:
    """What the method minimises."""
    return _part("losses", method(algo).loss)


def reports(algo: str) -> tuple[str, ...]:
    """Names of the metrics that the loss of a method returns."""
    return _part("losses", method(algo).loss.partition(":")[0] + ":REPORTS")


def _part(package: str, name: str | None) -> Any:
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"qtot.core.{package}.{module}"), attribute)

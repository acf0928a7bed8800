"""Trained agents away from the lab: ONNX Runtime, NumPy and the standard library, no JAX.

    from qtot import deploy

    agent = deploy.load("policies").agent("ally_0")
    memory = agent.reset()
    action, memory = agent.act(obs, avail_actions, memory)

``qtot export RUN --out policies`` makes the folder. This package is part of qtot, and, for machines
that only act, a distribution of its own: ``qtot-runtime``.
"""

from __future__ import annotations

from qtot.deploy.acting import Memory, Place
from qtot.deploy.team import Agent, Step, Team, load
from qtot.errors import QtotError

__all__ = ["Agent", "Memory", "Place", "QtotError", "Step", "Team", "load"]

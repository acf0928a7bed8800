"""A run's environment, wherever it is stepped: in the graph, or by Python in worker processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from qtot.envs import make_env
from qtot.envs.base import JaxEnv
from qtot.envs.host.base import ERRORS, HostEnv, is_host
from qtot.envs.host.config import HostConfig
from qtot.envs.host.copies import maker
from qtot.envs.scalars import taken_name
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.training.engine import Engine, InGraph
from qtot.training.ingraph import Program
from qtot.training.onhost import OnHost
from qtot.training.shown import Shown


class World(NamedTuple):
    """One of the two."""

    spec: EnvSpec
    in_graph: JaxEnv
    """as the program sees it"""
    make: Callable[[], HostEnv] | None
    """one environment, where Python steps it"""

    @staticmethod
    def open(target: Any, host: HostConfig) -> World:
        """By name, or from the user's own environment or factory.

        Raises:
            QtotError: there is none, or it cannot be made.
        """
        make = partial(make_env, target, host) if isinstance(target, str) else maker(target, host)
        env: Any = make()
        if taken := taken_name(env.spec.info):
            raise QtotError(
                f"environment {env.spec.name!r} reports {taken!r}, which is the name of a metric "
                "already; report the scalar under another name"
            )
        if not is_host(env):
            return World(env.spec, env, None)
        spec = env.spec
        with contextlib.suppress(*ERRORS):  # as where workers close theirs
            env.close()  # workers make their own
        return World(spec, Shown(spec), make)

    def engine(self, program: Program, init: Any, *, nans: bool = False) -> Engine:
        """What will train; with ``nans``, in a way that lets it say which operation made the first.

        Raises:
            QtotError: several hosts are to share environments that are processes of one, or Ray's
                actors those that are no processes; there is no Ray, or it cannot be reached.
        """
        ray = program.config.collectors == "ray"
        if self.make is None and ray:
            raise QtotError(
                f"--collectors ray is for environments that Python steps; {self.spec.name} is "
                "written in JAX, and steps in the learner's program: for several machines take "
                "--hosts"
            )
        if self.make is None:
            return InGraph(program, init, nans=nans)
        if jax.process_count() > 1:
            raise QtotError(
                f"--hosts trains on environments written in JAX; {self.spec.name} is stepped by "
                "Python, for which several machines take --collectors ray"
            )
        if ray:
            from qtot.training.onray import OnRay

            return OnRay(program, init, self.make, self.spec, nans=nans)
        return OnHost(program, init, self.make, self.spec, nans=nans)

"""Training on environments that a Ray cluster steps: rollouts come from actors, which come and go.

What is learned from them is the same whatever the number of actors: every iteration takes E
environments' worth of rollouts, the first that are ready. Segments have their slot T in their own
row of the replay, since the next row of an environment may be another actor's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import jax
import numpy as np

from qtot.config import TrainConfig
from qtot.envs.host.base import HostEnv
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.process import prepare
from qtot.training.cluster import Cluster
from qtot.training.crew import Crew
from qtot.training.gathered import Gathered
from qtot.training.ingraph import Program
from qtot.training.onhost import OnHost
from qtot.training.ray_actor import Job
from qtot.training.state import RunState


class OnRay(OnHost):
    """An ``Engine`` whose environments are Ray actors'; those that are evaluated in, this
    machine's.
    """

    def __init__(
        self,
        program: Program,
        init: Any,
        make: Callable[[], HostEnv],
        spec: EnvSpec,
        *,
        nans: bool = False,
    ):
        super().__init__(program, init, make, spec, nans=nans)
        config = program.config
        self.pickled = _pickled(make)
        self.crew: Crew | None = None
        self.cluster = Cluster(config.ray_address, config.host.workers)
        try:
            self.many = actors(config, self.cluster.cpus())
        except QtotError:
            self.cluster.close()
            raise

    @property
    def workers(self) -> str:
        """Who steps the environments."""
        n, nodes = self.program.config.collect.envs, self.cluster.nodes()
        asked, cpus = self.program.config.host.workers, self.cluster.cpus()
        said = f"{n} environments in {self.many} Ray actor{'s' * (self.many > 1)}"
        if self.many != asked > 0:
            said += f" (of {asked}, the most that divide {n})"
        return (
            f"{said} on {nodes} machine{'s' * (nodes != 1)} with {cpus} CPUs · episodes are cut "
            f"after {self.spec.episode_limit}"
        )

    @property
    def certainty(self) -> str:
        """Actors come and go."""
        return "no two runs are alike: rollouts are learned from in the order in which they arrive"

    def begin(self, begun: int) -> None:
        """Begin the actors, which make their environments meanwhile."""
        program, config = self.program, self.program.config
        job = Job(
            make=self.pickled,
            path=tuple(str(Path.cwd()) if entry == "" else entry for entry in sys.path),
            spec=self.spec,
            config=config,
            slots=program.collector.slots,
            envs=config.collect.envs // self.many,
            place=0,
            life=0,
            begun=begun,
            keep=prepare().cache is not None,
        )
        # What is learned from once should be played by the policy that learns from it.
        self.crew = Crew(self.cluster, job, self.many, ahead=config.data == "replay")

    def warm(self, state: RunState) -> None:
        """Actors compile for themselves."""

    def collected(self, state: RunState) -> Gathered:
        """The next rollouts, side by side."""
        assert self.crew is not None
        self.crew.publish([np.asarray(x) for x in self._leaves(state)], self.steps)
        try:
            return joined(self.crew.take())
        finally:
            self.failures.hear(self.crew.failures)

    @property
    def seconds(self) -> dict[str, float]:
        """Waiting for rollouts, and moving them and the policies."""
        return {} if self.crew is None else self.crew.seconds

    def close(self) -> None:
        """End the actors; Ray, too, where it was started for them."""
        super().close()
        if self.crew is not None:
            self.crew.close()
        self.cluster.close()


def actors(config: TrainConfig, cpus: int) -> int:
    """As many as there are CPUs, or as were asked for, if they divide the environments; else fewer,
    so that all have equally many.

    Raises:
        QtotError: the cluster has no CPUs.
    """
    envs, most = config.collect.envs, config.host.workers
    if most < 0:
        most = cpus
    if most < 1:
        raise QtotError("the Ray cluster has no CPUs to collect with (ray status says what it has)")
    return max(n for n in range(1, min(most, envs) + 1) if envs % n == 0)


def joined(rollouts: Sequence[Gathered]) -> Gathered:
    """One of all environments, from those of some ``[seeds, (T,) e, ...]``."""

    def side_by_side(axis: int, parts: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)

    after, slots, start, tally = zip(*rollouts, strict=True)
    return Gathered(
        side_by_side(1, after),
        side_by_side(2, slots),
        side_by_side(1, start),
        jax.tree.map(lambda *x: np.sum(x, axis=0), *tally),
    )


def _pickled(make: Callable[[], HostEnv]) -> bytes:
    """For other machines.

    Raises:
        QtotError: it cannot be sent.
    """
    try:
        return cloudpickle.dumps(make)
    except Exception as error:
        raise QtotError(
            f"the environment's factory cannot be sent to Ray actors ({error}); keep what cannot "
            "be copied out of it (open files, locks)"
        ) from None

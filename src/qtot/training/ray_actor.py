"""What runs in a Ray actor: some environments, a copy of the policies, and rollouts of both."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qtot.config import TrainConfig
from qtot.envs.host.player import Failure
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError

ALONE = {
    "JAX_PLATFORMS": "cpu",
    "PJRT_NPROC": "1",  # threads of XLA
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "QTOT_TUNE": "0",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
"""an actor's environment: one core, and no GPU"""


class Job(NamedTuple):
    """What an actor is told when it is made."""

    make: bytes
    """pickled by cloudpickle, ``() -> HostEnv``"""
    path: tuple[str, ...]
    """what can be imported where it was sent can be imported here, if this machine has it"""
    spec: EnvSpec
    config: TrainConfig
    """of the whole run"""
    slots: int
    """of a rollout"""
    envs: int
    """e, of each seed"""
    place: int
    """among the actors"""
    life: int
    """actors that had this place before"""
    begun: int
    """the step from which the run goes on"""
    keep: bool
    """compiled programs may be kept on disk"""


class Brought(NamedTuple):
    """What an actor sends."""

    rollout: Any
    """``Gathered`` ``[seeds, T, e, ...]``; None where nothing more can be done"""
    failures: list[Failure]
    broken: str = ""
    """why not"""


class Collecting:
    """The actor. Its environments' seeds and its exploration are decided by the run's seed, its
    place, its life and how many rollouts it has played: no two actors play the same.
    """

    def __init__(self, job: Job):
        sys.path += [entry for entry in job.path if entry not in sys.path]
        import jax

        from qtot.config import products
        from qtot.core.learner import PolicyParams
        from qtot.envs.host.in_process import InProcess
        from qtot.process import prepare
        from qtot.training.acting import act_program
        from qtot.training.collect import Collector
        from qtot.training.gather import Gatherer
        from qtot.training.ingraph import make_learner
        from qtot.training.shown import Shown

        prepare(tune=False, keep=job.keep)
        self.job, config = job, job.config
        learner = make_learner(job.spec, config)
        whole = config.replay.sequences == "episodes"
        collector = Collector(Shown(job.spec), learner, job.envs, job.slots, whole)
        self.pool = InProcess(
            pickle.loads(job.make),
            job.spec,
            config.host,
            slots=job.slots,
            groups=[tuple(range(config.seeds * job.envs))],
            whole=whole,
        )
        networks = jax.eval_shape(lambda: learner.init(jax.random.key(0)))
        remembered = jax.eval_shape(lambda: collector.acting(networks.online).initial_memory(1))
        self.gatherer = Gatherer(
            self.pool,
            collector,
            seeds=config.seeds,
            seed=config.seed,
            groups=1,
            memory_size=remembered.shape[-1],
        )
        salt = self.pool.board.salt
        salt[:, 2] = job.life
        salt[:, 3] = job.begun
        salt[:, 4] += job.place * job.envs
        self.act = act_program(collector, PolicyParams.of(networks), config.seeds, products(config))
        self.played = 0

    def where(self) -> str:
        """The machine and the process, once the environments can be made."""
        return f"{os.uname().nodename}, process {os.getpid()}"

    def gather(self, leaves: Sequence[np.ndarray], env_steps: np.ndarray) -> Brought:
        """One rollout.

        Args:
            leaves: arrays of the policies of all seeds.
            env_steps: of all seeds, which decide epsilon.
        """
        failures = self.pool.failures
        try:
            rollout = self.gatherer.gather(self.act, list(leaves), env_steps, self._noise())
        except QtotError as error:
            return Brought(None, list(failures), str(error))
        self.played += 1
        brought = Brought(rollout, list(failures))
        failures.clear()
        return brought

    def _noise(self) -> np.ndarray:
        """What exploration draws, ``[seeds, T, 2, e, N]``."""
        job = self.job
        shape = (job.slots, 2, job.envs, job.spec.n_agents)
        drawn = [
            np.random.default_rng((seed, job.place, job.life, job.begun, self.played)).random(
                shape, np.float32
            )
            for seed in range(job.config.seed, job.config.seed + job.config.seeds)
        ]
        return np.stack(drawn)

    def close(self) -> None:
        """Close the environments, and whatever they hold."""
        self.pool.close()

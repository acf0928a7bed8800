"""Ray actors that collect, and what to do when one is lost: another takes its place, wherever the
cluster has a CPU, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtot.envs.host.player import Failure
from qtot.envs.host.processes import MAKING
from qtot.errors import QtotError
from qtot.training.cluster import Cluster
from qtot.training.ray_actor import ALONE, Brought, Collecting, Job

LOOK = 1.0
"""seconds between looks at actors that may hang"""
FAREWELL = 5.0
"""seconds in which actors may close their environments"""


@dataclass
class Member:
    """A place among the actors, and who has it."""

    place: int
    life: int = 0
    """actors that had it before"""
    actor: Any = None
    making: Any = None
    """answers once it is there and its environments can be made; then None"""
    playing: Any = None
    """its next rollout; None where it was asked for none"""
    given: Any = None
    """with which policies"""
    where: str = "a machine of the cluster"
    since: float = 0.0
    """when it was there, or was asked last"""
    strikes: int = 0
    """failures since its last rollout"""
    rest: float = 0.0
    """until when the place stays empty: a cluster takes a while to notice that a machine is gone"""


class Crew:
    """``publish → take → publish → take → ...``."""

    def __init__(self, cluster: Cluster, job: Job, many: int, *, ahead: bool):
        """Begin the actors.

        Args:
            cluster: where.
            job: that of place 0; ``job.config.host`` says how patient to be.
            many: actors.
            ahead: they go on while the learner learns, with the policies that were newest when they
                began a rollout; else nothing is played but what is taken next.
        """
        self.ray, self.job, self.ahead = cluster.ray, job, ahead
        self.config = job.config.host
        self.kind = self.ray.remote(
            num_cpus=1,
            num_gpus=0,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": ALONE},
        )(Collecting)
        self.members = [Member(place) for place in range(many)]
        self.ready: deque[Any] = deque()
        """rollouts that were brought and not taken, in order of arrival"""
        self.failures = list[Failure]()
        self.seconds = {"environment": 0.0, "transfer": 0.0}
        """by what was waited for"""
        self.given: tuple[Any, ...] = ()
        """policies, and the steps that go with them"""
        self._hire()

    def publish(self, leaves: Sequence[np.ndarray], env_steps: np.ndarray) -> None:
        """What rollouts are played with that begin from now on."""
        began = time.perf_counter()
        self.given = self.ray.put(list(leaves)), env_steps.copy()
        if not self.ahead:
            self.ready.clear()
        self.seconds["transfer"] += time.perf_counter() - began

    def take(self) -> list[Any]:
        """As many rollouts as there are actors: the first that are ready, whoever played them.
        Those that arrive together are in order of their actors' places.

        Raises:
            QtotError: actors fail again and again, or the cluster has no place for any.
        """
        many, began, patience = len(self.members), time.monotonic(), MAKING * self.config.timeout_s
        while True:
            self._hire()
            self._ask(many)
            if len(self.ready) >= many:
                return [self.ready.popleft() for _ in range(many)]
            if self._hear():
                began = time.monotonic()
            hang = [m for m in self.members if m.playing and not m.making]
            for member in hang:
                if time.monotonic() - member.since > patience:
                    self._lose(member, f"no rollout within {patience:g} s (--host.timeout-s)", "")
                    began = time.monotonic()
            if not hang and time.monotonic() - began > patience:
                raise QtotError(
                    f"none of {many} Ray actors could be begun within {patience:g} s: the cluster "
                    f"has {self._free()} CPUs free, and an actor needs one; add machines, or be "
                    "more patient with --host.timeout-s"
                )

    def _ask(self, many: int) -> None:
        """Give work to those without: all of them, or no more than will be taken."""
        idle = [m for m in self.members if m.actor is not None and m.playing is None]
        if not self.ahead:
            at_work = sum(m.playing is not None and m.making is None for m in self.members)
            idle = idle[: max(many - len(self.ready) - at_work, 0)]
        for member in idle:
            member.playing, member.given = member.actor.gather.remote(*self.given), self.given
            member.since = time.monotonic()

    def _hear(self) -> bool:
        """Wait for news; whether there were any."""
        waited = {m.making or m.playing: m for m in self.members if m.making or m.playing}
        began, done = time.perf_counter(), []
        if waited:
            done, _ = self.ray.wait(list(waited), num_returns=1, timeout=LOOK)
        else:
            time.sleep(LOOK)
        if done:  # and whoever else has come in the meantime
            done, _ = self.ray.wait(list(waited), num_returns=len(waited), timeout=0)
        self.seconds["environment"] += time.perf_counter() - began
        for ref in done:
            member = waited[ref]
            try:
                said = self._got(ref)
            except self.ray.exceptions.RayError as error:
                self._lose(member, _first_line(error), str(error))
                continue
            member.since = time.monotonic()
            if member.making is not None:
                member.making, member.where = None, said
            else:
                member.playing = None
                self._receive(member, said)
        return bool(done)

    def _got(self, ref: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.ray.get(ref)
        finally:
            self.seconds["transfer"] += time.perf_counter() - began

    def _receive(self, member: Member, brought: Brought) -> None:
        self.failures += brought.failures
        if brought.broken:
            raise QtotError(f"Ray actor {member.place} ({member.where}): {brought.broken}")
        member.strikes = 0
        if self.ahead or member.given is self.given:
            self.ready.append(brought.rollout)

    def _lose(self, member: Member, what: str, trace: str) -> None:
        """Its rollout is dropped, and another actor takes the place.

        Raises:
            QtotError: too many were lost there in a row.
        """
        running = range(self.job.envs * self.job.config.seeds if member.making is None else 0)
        told = f"Ray actor {member.place} on {member.where} was lost: {what}"
        self.failures.append(Failure((-1, *running), told, trace, len(running)))
        member.strikes += 1
        if member.strikes >= self.config.failures:
            last = " | ".join(trace.strip().splitlines()[-8:])
            raise QtotError(
                f"Ray actors failed {member.strikes} times in a row without finishing a rollout "
                f"(--host.failures allows fewer than that); the last: {told}. {last}"
            )
        self._end(member)
        member.life += 1
        member.rest = time.monotonic() + min(2.0 ** (member.strikes - 1), 60.0)

    def _hire(self) -> None:
        """Begin an actor in every place that is empty, and has been for long enough."""
        now = time.monotonic()
        for member in self.members:
            if member.actor is None and now >= member.rest:
                job = self.job._replace(place=member.place, life=member.life)
                member.actor, member.where = self.kind.remote(job), "a machine of the cluster"
                member.making = member.actor.where.remote()

    def _end(self, member: Member) -> None:
        actor, member.actor, member.making, member.playing = member.actor, None, None, None
        with contextlib.suppress(Exception):
            self.ray.kill(actor)

    def _free(self) -> int:
        return int(self.ray.available_resources().get("CPU", 0))

    def close(self) -> None:
        """Let all close their environments, then end them."""
        if not self.ray.is_initialized():
            return
        with contextlib.suppress(Exception):
            bye = [m.actor.close.remote() for m in self.members if m.actor and not m.making]
            if bye:
                self.ray.wait(bye, num_returns=len(bye), timeout=FAREWELL)
        for member in self.members:
            self._end(member)
        self.members.clear()
        self.ready.clear()


def _first_line(error: Exception) -> str:
    """What Ray says of an error goes over many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"

"""A run as it lies in its folder: what was trained, how it went, and who came of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from qtot.core.learner import PolicyParams
from qtot.envs import is_in_graph, names_code
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.evaluation.playing import (
    Play,
    Stage,
    by_name,
    in_graph,
    on_host,
    stage_in_graph,
    stage_on_host,
)
from qtot.evaluation.policy import Policy
from qtot.store.run_folder import RunFolder, Which
from qtot.training.ingraph import make_learner
from qtot.training.world import World


class Run:
    """A finished (or stopped) run: its configuration, metrics, results and agents."""

    def __init__(
        self,
        folder: RunFolder,
        which: Which = "last",
        env: Any = None,
        *,
        trust: bool = False,
    ):
        self._folder, self._env, self._trust = folder, env, trust
        self.which: Which = which
        self.path = folder.path
        self.config, self.spec = folder.facts()
        self.learner = make_learner(self.spec, self.config)
        self.seeds = tuple(range(self.config.seed, self.config.seed + self.config.seeds))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``, one dict per seed and log."""
        return self._folder.metrics()

    def recorded(self) -> dict[str, Any]:
        """``config.json`` as it is: configuration, facts, versions, git commit, device."""
        return self._folder.recorded()

    def result(self) -> list[dict[str, Any]]:
        """The closing table, one row per seed; empty when the run was stopped early."""
        return self._folder.result()

    def seed_or_first(self, seed: int | None) -> int:
        """One of its seeds.

        Raises:
            QtotError: it has no such.
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds:
            raise QtotError(f"run {self.path} has no seed {seed}; it has {list(self.seeds)}")
        return seed

    def params(self, seed: int | None = None) -> PolicyParams:
        """Networks (agents and mixer) and statistics of one seed.

        Raises:
            QtotError: no such seed here, or its file is missing or damaged.
        """
        seed = self.seed_or_first(seed)
        self.check_module()
        try:
            template = jax.eval_shape(lambda: PolicyParams.of(self.learner.init(jax.random.key(0))))
        except QtotError:
            raise
        except (TypeError, OverflowError, ValueError) as error:
            raise QtotError(
                f"run {self.path} has sizes beyond any machine ({error}); is it damaged?"
            ) from None
        return jax.device_put(self._folder.load(self.which, seed, template))

    def check_module(self) -> None:
        """Whether its networks may be made.

        Raises:
            QtotError: they are partly code of the user's own, which a run folder may only name.
        """
        if self.config.agent.module and not self._trust:
            raise QtotError(
                f"the agents of run {self.path} have a network of your own, "
                f"{self.config.agent.module!r}, which is imported only if you trust the run folder:"
                " --trust, or load(path, trust=True)"
            )

    def check_cluster(self) -> None:
        """Whether the Ray cluster may be joined on which it was trained.

        Raises:
            QtotError: its address is but a run folder's word, and what it sends is executed.
        """
        if self.config.ray_address and not self._trust:
            raise QtotError(
                f"run {self.path} was trained on the Ray cluster {self.config.ray_address!r}, "
                "which is joined again only if you trust the run folder: --trust, or trust=True"
            )

    def agent(self, name: str, seed: int | None = None) -> Policy:
        """One agent of one seed (the first unless said otherwise), to act alone."""
        params = self.params(seed)
        return Policy(self.spec, self.learner, params.online.agent, params.stats, name)

    def world_of(self, env: Any = None) -> Any:
        """What to open as this run's environment: ``env``, or what was trained on.

        Raises:
            QtotError: that is code of the user's own, which a run folder may only name.
        """
        env = self._env if env is None else env
        if env is None and self.config.env.startswith("own:"):
            raise QtotError(
                f"run {self.path} was trained on an object of your own ({self.config.env[4:]}), "
                "whose code is imported only if you name it: --env MODULE:FACTORY, or env=..."
            )
        if env is None and names_code(self.config.env) and not self._trust:
            raise QtotError(
                f"run {self.path} was trained on {self.config.env!r}, whose code is imported only "
                "if you name it again, with --env or env=..., or trust the run folder: --trust, or "
                "load(path, trust=True)"
            )
        return self.config.env if env is None else env

    def world(self, target: Any) -> World:
        """An environment, opened, that this run's agents can act in.

        Raises:
            QtotError: it has other sizes.
        """
        world = World.open(target, self.config.host)
        self.check_fits(world.spec)
        return world

    def check_fits(self, spec: EnvSpec) -> None:
        """Whether its agents can act in an environment.

        Raises:
            QtotError: it has other sizes.
        """
        for size in ("n_agents", "obs_size", "max_actions", "obs_shape"):
            got, expected = getattr(spec, size), getattr(self.spec, size)
            if got != expected:
                raise QtotError(
                    f"environment {spec.name} has {size} {got}, but run {self.path} was "
                    f"trained with {expected}"
                )

    def playing(self, episodes: int, env: Any = None) -> AbstractContextManager[Play]:
        """Greedy episodes of its agents, in ``env`` or in what was trained on.

        Raises:
            QtotError: as ``world_of`` and ``world``.
        """
        target = self.world_of(env)
        if isinstance(target, str) and is_in_graph(target) and target == self.config.env:
            # Its sizes fit, and its program may be compiled already.
            return nullcontext(by_name(target, self.learner, episodes))
        world = self.world(target)
        if world.make is None:
            return nullcontext(in_graph(world.in_graph, self.learner, episodes))
        return on_host(world.make, world.spec, self.learner, self.config, episodes)

    def stage(self, world: World, episodes: int) -> AbstractContextManager[Stage]:
        """The same episodes for any team, which acts outside of the graph."""
        if world.make is None:
            return nullcontext(stage_in_graph(world.in_graph, episodes))
        return stage_on_host(world.make, world.spec, self.config, episodes)

    def digest(self, seed: int) -> str:
        """Of the file of one seed's parameters."""
        return self._folder.digest(self.which, seed)

    def record(self, seed: int, facts: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Episodes of one seed into the folder, for reports.

        Raises:
            QtotError: they cannot be written.
        """
        self._folder.record(seed, facts, arrays)

    def __repr__(self) -> str:
        c = self.config
        return f"Run({str(self.path)!r}, {c.algo} on {c.env}, seeds {list(self.seeds)})"

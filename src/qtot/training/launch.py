"""From a configuration to a run: what will train, the run folder, the header."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from qtot.config import TrainConfig, scheduled
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.process import prepare
from qtot.store.run_folder import SCHEMA, RunFolder
from qtot.tracking.base import Tracker, asked_for
from qtot.tracking.record import Record, behind
from qtot.tracking.trackers import Trackers, track
from qtot.training.compile import traced_init
from qtot.training.display import Display
from qtot.training.header import header
from qtot.training.heirs import heirs
from qtot.training.hosts import create_folder, leads, reopened_folder, together
from qtot.training.ingraph import Program
from qtot.training.keeping import Resumed, newest
from qtot.training.loop import Training
from qtot.training.resources import check_memory, device_facts, git_commit, versions
from qtot.training.rows import closing
from qtot.training.world import World
from qtot.validation import validate


def run_training(
    config: TrainConfig,
    out: Path,
    *,
    env: Any = None,
    quiet: bool = False,
    nans: bool = False,
    trackers: Sequence[str] = (),
) -> RunFolder:
    """Train and leave a complete run folder at ``out``.

    Args:
        config: everything that decides the run.
        out: the run folder.
        env: the environment, or a factory of it, where that is no name.
        quiet: print nothing.
        nans: look for the operation that makes the first number that is none; slow.
        trackers: by name; the first process tracks.

    Raises:
        QtotError: the configuration is impossible, does not fit, or ``out`` cannot be written;
            environments fail again and again, or learning makes numbers that are none, and what
            was reached before has been saved.
        KeyboardInterrupt: after everything has been saved.
    """
    with together():
        wanted = asked_for(trackers if leads() else ())
    with _Opened(config, env, nans=nans) as opened, contextlib.ExitStack() as held:
        with together():
            if leads():
                held.enter_context(RunFolder(out).held())
            folder = create_folder(out, opened.facts, opened.config, opened.world.spec)
        return opened.train(folder, quiet=quiet, wanted=wanted)


def resume_training(
    folder: RunFolder,
    *,
    steps: int | None = None,
    reschedule: bool = False,
    env: Any = None,
    quiet: bool = False,
    nans: bool = False,
    trackers: Sequence[str] = (),
) -> RunFolder:
    """Go on from the last whole checkpoint of a run; from its beginning, where it was ended before
    the first.

    Args:
        folder: the run's.
        steps: environment steps of each seed at the end; None: as many as were asked for.
        reschedule: stretch schedules that end with the run over the new steps.
        env: as in ``run_training``.
        quiet: print nothing.
        nans: as in ``run_training``.
        trackers: besides those that the run has.

    Raises:
        QtotError: there is nothing to go on from or to do, or the environment is another; and as
            ``run_training``.
    """
    with contextlib.ExitStack() as held:
        with together():
            if leads():
                held.enter_context(folder.held())
                Record.of(folder)  # damaged, it is refused before anything is written
            wanted = asked_for(trackers if leads() else ())
            config, spec = folder.facts()
            recorded, result, asked = folder.recorded(), folder.result(), config.steps
            if reschedule and steps is None:
                raise QtotError("--reschedule goes with --steps, over which it stretches")
            if steps is not None:
                config = replace(config, steps=steps)
            if reschedule:
                config = replace(config, optimiser=replace(config.optimiser, steps=config.steps))
            feeds_only = bool(result) and steps is None and bool(trackers or behind(folder))
            resumed, told = None, []
            if not feeds_only:
                resumed, told = _from_where(folder, config, recorded, bool(result), asked)
        folder = reopened_folder(folder, config, spec)
        if resumed is not None and _evaluated(resumed, config):
            # It was ended between its last checkpoint and its closing table.
            best = {row["seed"]: row for row in resumed.record["best"]}
            try:
                result = closing(resumed.record["rows"], best, {})
                folder.close(result)
            except OSError as error:
                raise QtotError(f"cannot write the run folder {folder.path} ({error})") from None
            feeds_only = True
        if feeds_only:
            _feed(folder, config, wanted, result, quiet=quiet)
            return folder
        with _Opened(config, env, nans=nans, resumes=True) as opened:
            with together():
                _check_same(folder, spec, opened.world.spec)
                told += differences(recorded, opened.facts)
                step, size = (resumed.step, resumed.record["metrics_bytes"]) if resumed else (0, 0)
                folder.reopen(opened.facts, step, size)
            return opened.train(
                folder, quiet=quiet, resumed=resumed, told=told, wanted=wanted, goes_on=True
            )


def _from_where(
    folder: RunFolder, config: TrainConfig, recorded: dict[str, Any], ended: bool, asked: int
) -> tuple[Resumed | None, list[str]]:
    """The checkpoint to go on from, None for the run's beginning; and what to say of it.

    Args:
        folder: the run's.
        config: what it goes on with.
        recorded: its ``config.json``.
        ended: whether it has its closing table.
        asked: the steps that it was to take before.

    Raises:
        QtotError: there is nothing to go on from, or to do.
    """
    resumed, told = newest(folder.checkpoints, config.seeds)
    if resumed is None:
        if ended or recorded["schema"] < SCHEMA:
            raise QtotError(f"{folder.path} has no checkpoints to go on from")
        if "imported" in recorded:
            raise QtotError(
                f"{folder.path} was imported and never trained here; begin from its agents:"
                f" qtot train --init-agents {folder.path}"
            )
        if config.init_agents:
            raise QtotError(
                f"{folder.path} was ended before its first checkpoint; begin it anew, with "
                f"qtot train --init-agents {config.init_agents}"
            )
        told = ["it was ended before its first checkpoint, and begins anew"]
    elif resumed.step >= config.steps and (ended or resumed.step < asked):
        raise QtotError(
            f"{folder.path} has taken {resumed.step:,} steps, and {config.steps:,} were "
            "asked for; --steps says how many there shall be in all"
        )
    elif config.data == "replay" and not resumed.record["replay"]:
        told.append(
            "what the replay held was not saved: it is filled anew before learning goes "
            "on, and the run is not exactly the one that it would have been"
        )
    return resumed, told


def _feed(
    folder: RunFolder,
    config: TrainConfig,
    wanted: dict[str, Tracker],
    result: list[dict[str, Any]],
    *,
    quiet: bool,
) -> None:
    """Give the trackers of a run that has ended what they lack, and its closing table."""
    with contextlib.ExitStack() as stack:
        with together():
            begun = tracked(folder, config, wanted, goes_on=True, over=True)
            trackers = stack.enter_context(begun)
        display = Display(config, quiet=quiet or not leads())
        if trackers.said:
            display.say(f"{folder.path} has ended; its trackers get what they lack")
        for line in trackers.said:
            display.say(line)
        seeds = range(config.seed, config.seed + config.seeds)
        trackers.conclude([row for row in result if row["seed"] in seeds])
        trackers.catch_up()


def tracked(
    folder: RunFolder,
    config: TrainConfig,
    wanted: dict[str, Tracker],
    *,
    goes_on: bool,
    over: bool = False,
) -> Trackers:
    """The run's trackers, which have begun; none but in the first process. As ``track``.

    Raises:
        QtotError: one of those that are wanted cannot begin.
    """
    if not leads():
        return Trackers()
    return track(folder, config, wanted, goes_on=goes_on, over=over)


def _evaluated(resumed: Resumed, config: TrainConfig) -> bool:
    """Whether nothing is left to do."""
    rows = resumed.record["rows"]
    return resumed.step >= config.steps and all("eval/episodes" in row for row in rows)


def _check_same(folder: RunFolder, then: EnvSpec, now: EnvSpec) -> None:
    """What decides the shapes of what was learned must be as it was."""
    for fact in ("agents", "n_actions", "obs_sizes", "obs_shape", "state_size", "episode_limit"):
        was, is_now = getattr(then, fact), getattr(now, fact)
        if was != is_now:
            raise QtotError(
                f"environment {now.name} has {fact} {is_now}, but run {folder.path} was begun with "
                f"{was}"
            )


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a resumed run may not be, bit for bit, what it would have been."""
    found = []
    for part in ("versions", "device", "settings"):
        was = then.get(part)
        was = was if isinstance(was, dict) else {}
        found += [
            f"{part} {name}: {str(was.get(name))[:80]} then, {now[part].get(name)} now"
            for name in sorted((was.keys() | now[part].keys()) - WORDS)
            if was.get(name) != now[part].get(name)
        ]
    if then.get("git_commit") != now.get("git_commit"):
        found.append("another commit of qtot")
    return [f"no longer bit for bit what it would have been ({'; '.join(found)})"] * bool(found)


WORDS = {"cache", "lost", "warning"}
"""facts that decide no number"""


class _Opened:
    """A configuration's world and engine, and what is recorded of them."""

    def __init__(self, config: TrainConfig, env: Any, *, nans: bool, resumes: bool = False):
        with together():
            config = scheduled(validate(config))
            if nans and jax.process_count() > 1:
                raise QtotError("--debug-nans works on one device, and so on one host: no --hosts")
            self.config = config
            self.world = World.open(config.env if env is None else env, config.host)
            self.inherit = None if resumes else heirs(config, self.world.spec)
            # On one device, so that an iteration can be gone through by operations.
            devices = jax.devices()[:1] if nans else None
            program = Program.make(self.world.in_graph, config, devices)
            init = traced_init(program)
            self.memory = check_memory(program, init.out_info)
            self.engine = self.world.engine(program, init, nans=nans)
        self.device: dict[str, Any] = device_facts() | {"mesh": dict(program.mesh.shape)}

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    @property
    def facts(self) -> dict[str, Any]:
        """For ``config.json``."""
        return {
            "config": self.config.to_dict(),
            "env": self.world.spec.to_dict(),
            "versions": versions(),
            "git_commit": git_commit(),
            "device": self.device,
            "settings": prepare().to_dict(),
            "bytes": self.memory,
            "shards": self.engine.program.collector.shards.pieces,
        }

    def train(
        self,
        folder: RunFolder,
        *,
        quiet: bool,
        resumed: Resumed | None = None,
        told: Sequence[str] = (),
        wanted: dict[str, Tracker],
        goes_on: bool = False,
    ) -> RunFolder:
        """The header, and the run."""
        with contextlib.ExitStack() as stack:
            with together():
                begun = tracked(folder, self.config, wanted, goes_on=goes_on)
                trackers = stack.enter_context(begun)
            display = Display(self.config, quiet=quiet or not leads())
            spec, out = self.world.spec, folder.path
            lines = header(self.engine, spec, device=self.device, memory=self.memory, out=out)
            display.header(lines)
            for line in [self.device[k] for k in ("warning",) if k in self.device] + list(told):
                display.warn(line)
            if resumed is not None:
                display.say(f"going on from step {resumed.step:,}")
            for line in trackers.said:
                display.say(line)
            stack.enter_context(display)
            Training(
                self.engine,
                folder,
                display,
                resumed=resumed,
                inherit=self.inherit,
                trackers=trackers,
            ).run()
        return folder

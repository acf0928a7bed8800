"""From a configuration to a run: what will train, the run folder, the header."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from qtot.config import TrainConfig
from qtot.process import prepare
from qtot.store.run_folder import RunFolder
from qtot.training.compile import traced_init
from qtot.training.display import Display
from qtot.training.engine import Engine
from qtot.training.header import header
from qtot.training.hosts import create_folder, leads, together
from qtot.training.ingraph import Program
from qtot.training.loop import Training
from qtot.training.resources import check_memory, device_facts, git_commit, versions
from qtot.training.world import World
from qtot.validation import validate


def run_training(
    config: TrainConfig, out: Path, *, env: Any = None, quiet: bool = False
) -> RunFolder:
    """Train and leave a complete run folder at ``out``.

    Args:
        config: everything that decides the run.
        out: the run folder.
        env: the environment, or a factory of it, where that is no name.
        quiet: print nothing.

    Raises:
        QtotError: the configuration is impossible, does not fit, or ``out`` cannot be written;
            environments fail again and again, and the parameters reached so far have been saved.
        KeyboardInterrupt: after the parameters reached so far have been saved.
    """
    with together():
        config = validate(config)
        world = World.open(config.env if env is None else env, config.host)
        program = Program.make(world.in_graph, config)
        init = traced_init(program)
        memory = check_memory(program, init.out_info)
        engine = world.engine(program, init)
    with contextlib.closing(engine):
        return _trained(engine, config, out, world, memory, quiet=quiet)


def _trained(
    engine: Engine,
    config: TrainConfig,
    out: Path,
    world: World,
    memory: dict[str, int],
    *,
    quiet: bool,
) -> RunFolder:
    """The folder, the header, and the run."""
    program, spec = engine.program, world.spec
    device: dict[str, Any] = device_facts() | {"mesh": dict(program.mesh.shape)}
    facts = {
        "config": config.to_dict(),
        "env": spec.to_dict(),
        "versions": versions(),
        "git_commit": git_commit(),
        "device": device,
        "settings": prepare().to_dict(),
        "bytes": memory,
        "shards": program.collector.shards.pieces,
    }
    with together():
        folder = create_folder(out, facts, config, spec)
    display = Display(config, quiet=quiet or not leads())
    display.header(header(engine, spec, device=device, memory=memory, out=out))
    if "warning" in device:
        display.warn(device["warning"])
    with display:
        Training(engine, folder, display).run()
    return folder

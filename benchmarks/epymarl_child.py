"""EPyMARL's own QMIX, run piece by piece: ``versus_epymarl.py`` starts this file under the rival's
interpreter, which need not know qtot.

``src/run.py`` is imported from the checkout as it is; its training loop runs with the settings of
its own files. Its runner's ``run`` and its learner's ``train`` are wrapped: they count, and where a
piece ends the next episode waits for the parent. Sacred, which only its ``main`` needs, is left
out, and with it what it writes. PettingZoo has moved MPE to ``mpe2``: its old name leads there.

    epymarl_child.py CHECKOUT '{"alg": "qmix", "env": "gymma", "threads": 1,
                                "changes": {"seed": 0, "env_args": {"key": ...}}}'

Lines on stdin: seconds that the next piece takes at least; it ends with an episode. Lines on
stdout, all JSON: ``config``, ``threads`` and ``versions`` once learning has begun, then for every
piece its ``seconds``, ``env_steps`` and ``updates``.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PACKAGES = ("torch", "numpy", "gymnasium", "lbforaging", "pettingzoo", "mpe2")
WARM = 8  # updates before the first piece


class Pieces:
    """Stops the program between two episodes, where a piece ends."""

    def __init__(self, out: Any):
        self.out = out
        self.facts: dict[str, Any] = {}
        self.updates = 0
        self.until = 0.0
        self.before: tuple[float, int, int] | None = None
        """time, steps and updates where the piece began"""

    def say(self, **facts: Any) -> None:
        self.out.write(json.dumps(facts) + "\n")
        self.out.flush()

    def between(self, runner: Any) -> None:
        """Before every episode."""
        now = time.perf_counter()
        if self.before is None:
            if self.updates < WARM:
                return
            self.say(**self.facts)
        elif now < self.until:
            return
        else:
            began, steps, updates = self.before
            done = {"env_steps": runner.t_env - steps, "updates": self.updates - updates}
            self.say(seconds=now - began, **done)
        line = sys.stdin.readline()
        if not line.strip():  # the parent has had enough
            runner.close_env()
            for process in getattr(runner, "ps", ()):
                process.join(10)
            os._exit(0)
        self.before = time.perf_counter(), runner.t_env, self.updates
        self.until = self.before[0] + float(line)

    def watch(self, runner: Any, learner: Any) -> None:
        """Both are classes of the rival."""
        play, train = runner.run, learner.train

        def run(this: Any, test_mode: bool = False) -> Any:
            if not test_mode:
                self.between(this)
            return play(this, test_mode=test_mode)

        def learn(this: Any, *args: Any, **kwargs: Any) -> None:
            train(this, *args, **kwargs)
            self.updates += 1

        runner.run, learner.train = run, learn


def settings(source: Path, order: dict[str, Any]) -> dict[str, Any]:
    """Its three files, the later ones first in rank, with ``changes``."""
    load: Callable[[str], dict[str, Any]] = importlib.import_module("yaml").safe_load
    config: dict[str, Any] = {}
    for name in ("default", f"envs/{order['env']}", f"algs/{order['alg']}"):
        config |= load((source / "config" / f"{name}.yaml").read_text())
    changes = dict(order["changes"])
    task = {**config["env_args"], **changes.pop("env_args"), "seed": changes["seed"]}
    return {**config, **changes, "env_args": task}


def without_smaclite() -> None:
    """The rival imports it whatever the environment, and it is on no package index."""
    if find_spec("smaclite") is None:
        sys.modules["smaclite"] = ModuleType("smaclite")


def mpe_by_its_old_name(module: str = "simple_spread_v3") -> None:
    """The rival's wrapper imports ``pettingzoo.mpe`` and registers what files it finds there."""
    sys.modules["pettingzoo.mpe"] = importlib.import_module("mpe2")
    sys.modules[f"pettingzoo.mpe.{module}"] = importlib.import_module(f"mpe2.{module}")
    importlib.import_module("gymnasium").register(
        f"pz-mpe-{module.replace('_', '-')}",
        entry_point="envs.pz_wrapper:PettingZooWrapper",
        kwargs={"lib_name": "mpe", "env_name": module},
    )


def main() -> None:
    """Train until told to stop."""
    source, order = Path(sys.argv[1]).resolve() / "src", json.loads(sys.argv[2])
    pieces = Pieces(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # whatever the rival and its packages print
    sys.path.insert(0, str(source))
    sys.dont_write_bytecode = True  # the checkout stays as it is
    torch = importlib.import_module("torch")
    if order["threads"]:
        torch.set_num_threads(order["threads"])
    config = settings(source, order)
    importlib.import_module("numpy").random.seed(config["seed"])
    torch.manual_seed(config["seed"])
    without_smaclite()
    mpe_by_its_old_name()
    rival = importlib.import_module("run")
    pieces.watch(rival.r_REGISTRY[config["runner"]], rival.le_REGISTRY[config["learner"]])
    pieces.facts = {
        "config": config,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    stands_in = SimpleNamespace(info={}, log_scalar=lambda *_: None)
    rival.run(stands_in, dict(config), logging.getLogger("rival"))


if __name__ == "__main__":
    main()

"""JaxMARL's own QMIX, run piece by piece: ``versus_jaxmarl.py`` starts this file under the rival's
interpreter, which need not know qtot.

``baselines/QLearning/qmix_rnn.py`` is imported from the checkout as it is, and its ``make_train``
is compiled as its own ``main`` does. It reports every rollout through ``wandb.log``; here ``wandb``
is a stand-in whose ``log`` notes the time and, between pieces, waits: that is how a program which
is one long scan can take turns with ours. ``hydra`` and ``omegaconf``, which only its ``main``
uses, are empty stand-ins.

    jaxmarl_child.py CHECKOUT '{"alg": "ql_rnn_smax", "seed": 0, "changes": {"NUM_ENVS": 8}}'

Lines on stdin: a number of rollouts to run. Lines on stdout, all JSON: ``compiled`` and
``compile_s`` once, then for every piece ``seconds``, ``env_steps``, ``updates`` and its ``rows``.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any


class Pieces:
    """Stands in for ``wandb``: counts rollouts, and stops the program where a piece ends."""

    def __init__(self, out: Any):
        self.out = out
        self.left = 0
        self.began = 0.0
        self.rows: list[dict[str, float]] = []
        self.last_test: dict[str, float] = {}

    def say(self, **facts: Any) -> None:
        self.out.write(json.dumps(facts) + "\n")
        self.out.flush()

    def wait(self) -> None:
        """Until told how many rollouts come next."""
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)  # the parent has had enough
        self.left, self.rows, self.began = int(line), [], time.perf_counter()

    def log(self, metrics: dict[str, Any]) -> None:
        """What the rival calls after every rollout."""
        now = time.perf_counter() - self.began
        values = {k: float(v) for k, v in metrics.items()}
        row = {"seconds": now, "env_steps": values["env_step"], "updates": values["grad_steps"]}
        test = {k: v for k, v in values.items() if k.startswith("test_")}
        if test != self.last_test:  # evaluated since the last rollout
            self.last_test = test
            row |= test
        self.rows.append(row)
        self.left -= 1
        if self.left <= 0:
            self.say(**{**row, "rows": self.rows})
            self.wait()


def stand_in(name: str, **members: Any) -> None:
    """A module of that name with nothing but ``members``."""
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def published(checkout: Path, pieces: Pieces) -> ModuleType:
    """The rival's file as a module."""
    stand_in("wandb", log=pieces.log)
    stand_in("hydra", main=lambda **_: lambda function: function)
    stand_in("omegaconf", OmegaConf=None)
    sys.path.insert(0, str(checkout))  # its environments, too
    path = checkout / "baselines" / "QLearning" / "qmix_rnn.py"
    spec = importlib.util.spec_from_file_location("qmix_rnn", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(checkout: Path, alg: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Its configuration file, with ``changes``; YAML 1.1 reads its 1e7 as a string."""
    import yaml

    path = checkout / "baselines" / "QLearning" / "config" / "alg" / f"{alg}.yaml"
    config = {**yaml.safe_load(path.read_text()), "WANDB_MODE": "online", **changes}
    config["TOTAL_TIMESTEPS"] = int(float(config["TOTAL_TIMESTEPS"]))
    return config


def main() -> None:
    """Compile, then obey."""
    checkout, order = Path(sys.argv[1]), json.loads(sys.argv[2])
    pieces = Pieces(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # whatever the rival and its packages print
    rival = published(checkout, pieces)
    import jax

    config = settings(checkout, order["alg"], order["changes"])
    env, _ = rival.env_from_config(copy.deepcopy(config))
    rngs = jax.random.split(jax.random.PRNGKey(order["seed"]), 1)
    began = time.perf_counter()
    train = jax.jit(jax.vmap(rival.make_train(config, env))).lower(rngs).compile()
    pieces.say(compiled=str(rival.__file__), compile_s=time.perf_counter() - began, config=config)
    pieces.wait()
    jax.block_until_ready(train(rngs))
    pieces.say(done=True)


if __name__ == "__main__":
    main()

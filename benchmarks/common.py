"""What every benchmark needs: the machine's limits, useful work counted by formula, and the one
place that knows how a training program is built and stepped.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtot.config import TrainConfig, nested_replace
from qtot.envs import jax_env
from qtot.envs.spec import EnvSpec
from qtot.presets import preset_config
from qtot.process import prepare
from qtot.training.ingraph import Program
from qtot.training.resources import device_facts, nbytes, versions
from qtot.training.state import RunState, SeedState
from qtot.training.timing import over_seeds, parts

prepare(keep=False)  # as the command does; compilation is measured, too

Row = Mapping[str, Any]
LOOP = 8  # updates of the part ``updates``


def seconds(run: Callable[[], Any], repeats: int = 7, warm: int = 1) -> list[float]:
    """How long each of ``repeats`` runs took, what they returned being ready."""
    for _ in range(warm):
        jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return times


def median(values: Iterable[float]) -> float:
    """Of a few noisy figures."""
    return statistics.median(values)


class Limits(NamedTuple):
    """What this machine can do at best, measured here and now."""

    gflops: float
    """f32 matrix product of 2048³, all cores, GFLOP/s"""
    copy_gb_s: float
    """copy of memory that was touched before, read and written bytes, GB/s"""

    @staticmethod
    def measure() -> Limits:
        """Takes about a second."""
        x = jnp.ones((2048, 2048))
        product = jax.jit(lambda a: jnp.matmul(a, a, precision="float32"))
        gflops = 2 * 2048**3 / min(seconds(lambda: product(x), 10)) / 1e9
        return Limits(gflops, copy_rate())


def copy_rate(size: int = 2**27) -> float:
    """GB/s, all cores: NumPy on a CPU, where JAX would measure page faults; else JAX."""
    if jax.default_backend() != "cpu":
        x = jnp.ones(size // 4)
        bump = jax.jit(lambda a: a + 1)
        return 2 * size / min(seconds(lambda: bump(x))) / 1e9
    workers = jax_threads()
    pairs = [
        (np.ones(size // workers // 8), np.zeros(size // workers // 8)) for _ in range(workers)
    ]
    with ThreadPoolExecutor(workers) as pool:
        copy = lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))  # noqa: E731
        return 2 * size / min(seconds(copy, 10)) / 1e9


def jax_threads() -> int:
    """Cores that this process may use."""

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def update_gflop(spec: EnvSpec, config: TrainConfig) -> float:
    """Useful GFLOP of one QMIX update, matrix products only, counted from the formulas.

    Online networks forward and backward (twice the forward), target networks forward: agents over
    T+1 slots, mixers over T; learning online, the targets' agents once a rollout. Elementwise work,
    optimiser and sampling are not counted.
    """
    agent, mixer = config.agent, config.mixer
    n, inputs = spec.n_agents, spec.obs_size
    inputs += spec.max_actions * agent.prev_action + spec.n_agents * agent.agent_id
    widths = (inputs, *agent.encoder)
    per_agent = sum(i * o for i, o in pairwise(widths))
    recurrent = 3 * (widths[-1] + agent.hidden) if agent.memory == "gru" else widths[-1]
    per_agent += recurrent * agent.hidden + agent.hidden * spec.max_actions
    s, e, h = spec.state_size, mixer.embed, mixer.hypernet_embed
    weights = n * e + e  # what the hypernetworks of W_1 and w_final put out
    hyper = 2 * s * h + h * weights if mixer.hypernet_layers == 2 else s * weights
    per_state = hyper + s * e + s * e + e + n * e + e  # b_1, V(s), the mixing itself
    whole = config.replay.sequences == "episodes"
    time_steps = spec.episode_limit if whole else config.replay.length
    online = config.data == "online"
    agents = 3 + (1 / config.online.epochs if online else 1)  # the targets' agents: once a rollout
    slots = agents * (time_steps + 1) * n * per_agent + 4 * time_steps * per_state
    return 2 * sequences(config) * slots / 1e9


def sequences(config: TrainConfig) -> int:
    """Of an update."""
    online = config.data == "online"
    return config.collect.envs // config.online.minibatches if online else config.replay.batch


class Piece(NamedTuple):
    """What one timed stretch of training did."""

    seconds: float
    steps: float
    """environment steps (valid transitions), all seeds"""
    updates: float
    """of each seed"""

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.seconds


class Training:
    """A training program that runs in pieces. ``compile`` comes before ``run``."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.program = Program.make(jax_env(config.env), config)
        self.state: RunState = jax.block_until_ready(jax.jit(self.program.init)(config.seed))
        self.steps = 0

    @property
    def spec(self) -> EnvSpec:
        """Of its environment."""
        return self.program.collector.env.spec

    def compile(self) -> float:
        """Compile the training program; seconds, tracing included."""
        began = time.perf_counter()
        chunk = jax.jit(self.program.chunk, donate_argnums=0)
        self.chunk = chunk.lower(self.state, jnp.int32(0)).compile()
        return time.perf_counter() - began

    def run(self, steps: int) -> Piece:
        """``steps`` more environment steps of every seed, learning as often as they earn."""
        began = time.perf_counter()
        self.state = self.chunk(self.state, jnp.int32(self.steps + steps))
        progress = self.state.progress
        jax.block_until_ready(progress)
        spent = time.perf_counter() - began
        self.steps = int(jnp.min(self.state.seeds.train.env_steps))
        collected = float(jnp.sum(progress.collected.transitions))
        return Piece(spent, collected, float(jnp.mean(progress.updates)))

    def fill(self) -> None:
        """Until learning starts."""
        while not int(self.state.seeds.train.updates[0]):
            self.run(self.config.collect.envs * self.program.collector.slots)

    def part(self, name: str) -> Callable[[], Any]:
        """A part of the program alone, for all seeds: ``collect``, ``update`` (sampling and one
        optimiser step), ``updates`` (``LOOP`` of these in a loop, as training does) or ``sample``.
        """
        ours = {"updates": self._updates, "sample": self._sample}
        every = parts(self.program)
        run = every[name] if name in every else over_seeds(self.program, ours[name])
        compiled = jax.jit(run)
        return lambda: compiled(self.state)

    def _sample(self, seed: SeedState) -> Any:
        ring, batch = self.program.replay, self.config.replay.batch
        assert ring is not None
        assert seed.replay is not None
        stored: Any = ring.read(seed.replay, *ring.pick(seed.replay, seed.key, batch)).slots
        return self.program.from_replay.codec.decode(stored)

    def _updates(self, seed: SeedState) -> Any:
        assert seed.replay is not None
        replay = seed.replay

        def update(i: Any, train: Any) -> Any:
            key = jax.random.fold_in(seed.key, i)
            return self.program.from_replay.update(train, replay, key)[0]

        return jax.lax.fori_loop(0, LOOP, update, seed.train).online


def replay_bytes(config: TrainConfig) -> float:
    """Bytes that the replay takes per slot it can hold; nothing is allocated."""
    program = Program.make(jax_env(config.env), config)
    ring = program.replay
    assert ring is not None
    replay = jax.eval_shape(program.init, program.config.seed).seeds.replay
    return nbytes(replay) / (config.seeds * ring.rows * ring.stride * ring.envs)


def same_size(env: str, **changes: Any) -> TrainConfig:
    """The sizes at which learners are compared: JaxMARL's small QMIX (GRU 64, mixing network 32,
    hypernetworks 64, 8 environments, 32 sequences of 128 slots), otherwise the default preset.
    """
    sizes = {"encoder": (64,), "hidden": 64, "memory": "gru"}
    agent = {**sizes, "layer_norm": False, "prev_action": False}
    return configure(
        env,
        agent=agent,
        mixer={"embed": 32, "hypernet_layers": 2, "hypernet_embed": 64},
        replay={"sequences": "segments", "length": 128, "batch": 32},
        collect={"envs": 8, "update_ratio": 8 / 1024},
        target={"td_lambda": 0.0},
        data="replay",
        **changes,
    )


def configure(env: str, algo: str = "qmix", **changes: Any) -> TrainConfig:
    """The default preset with changes."""
    return nested_replace(preset_config(env, algo, data=changes.get("data")), changes)


class Child:
    """A rival's process, which answers lines of JSON on stdout to lines on stdin."""

    def __init__(self, command: Sequence[str], *, verbose: bool):
        """Started; its first line is ``facts``."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            text=True,
        )
        self.facts = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the rival stopped; --verbose shows what it says")
        return json.loads(line)

    def ask(self, line: float) -> dict[str, Any]:
        """The answer to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """The end of its input is its cue."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.process.kill()


def commit(checkout: str) -> str:
    """Of the rival; empty where it is no checkout."""
    command = ["git", "-C", checkout, "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Rows of equal keys as aligned Markdown."""
    if not rows:
        return "(nothing measured)"
    columns = list(columns or rows[0])
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(x) for x in column) for column in zip(columns, *cells, strict=True)]
    lines = [columns, ["-" * w for w in widths], *cells]
    return "\n".join(
        "| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)


def _rounded(value: Any) -> Any:
    """Four digits; null where there is nothing to say, which JSON has and infinity is not."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def report(name: str, rows: Sequence[Row], limits: Limits | None = None, **facts: Any) -> None:
    """Print the table, and JSON that says the same and where it was measured."""
    if limits is not None:
        facts["limits"] = {k: round(v, 1) for k, v in limits._asdict().items()}
    rows = [{k: _rounded(v) for k, v in row.items()} for row in rows]
    everything = {
        "benchmark": name,
        "device": device_facts(),
        "versions": versions(),
        **facts,
        "results": rows,
    }
    print(json.dumps(everything, indent=1, default=float))
    print()
    print(table(rows))
    if limits is not None:
        print(
            f"limits: matrix product {limits.gflops:.0f} GFLOP/s, copy {limits.copy_gb_s:.0f} GB/s"
        )

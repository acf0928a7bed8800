"""The training program as a whole: seeds, schedules, ratios, memory, determinism."""

from __future__ import annotations

import json
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
from qtot.api import train_config
from qtot.envs import make_env
from qtot.envs.host.base import HostEnv
from qtot.errors import QtotError
from qtot.training import resources
from qtot.training.compile import traced_init
from qtot.training.gathered import zeros
from qtot.training.ingraph import Program
from qtot.training.onhost import OnHost
from qtot.training.shown import Shown
from small import small_config, trained

COORDINATE = {
    "steps": 4_000,
    "agent": {"memory": "gru", "prev_action": True},
    "exploration": {"start": 1.0, "end": 0.1, "steps": 2_000},
    "replay": {"length": 4},
}

# Episodes of several steps, so that targets matter, and statistics of everything.
EVERYTHING = small_config(
    "probe/memory",
    **COORDINATE,
    scaling={"standardise_rewards": True, "normalise_obs": True, "normalise_state": True},
    optimiser={"name": "radam"},
)


def arrays(tree):
    """Leaves as NumPy, keys too."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def metrics_without_clocks(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("wall_s", "compile_s", "steps_per_s")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def test_the_same_seed_gives_bit_identical_metrics_and_parameters(tmp_path):
    config = small_config("probe/coordination", seeds=2, **COORDINATE)
    for name in ("a", "b"):
        train_config(config, tmp_path / name, quiet=True)
    a, b = (metrics_without_clocks(tmp_path / name) for name in ("a", "b"))
    assert a == b
    assert len(a) == 2 * (1 + 8)  # two seeds: before training, then every 500 steps
    for seed in (0, 1):
        files = [np.load(tmp_path / n / "params" / f"seed-{seed}" / "last.npz") for n in ("a", "b")]
        for name in files[0].files:
            np.testing.assert_array_equal(files[0][name], files[1][name])


@pytest.mark.long
@pytest.mark.usefixtures("quick_compile")
def test_one_seed_of_several_trains_on_the_same_sequences_as_alone():
    several, state = trained(small_config("probe/coordination", seeds=3, **COORDINATE))
    alone, lone = trained(small_config("probe/coordination", seed=1, **COORDINATE))
    assert several.replay == alone.replay
    ours = jax.tree.map(lambda x: x[1], state.seeds.train)
    theirs = jax.tree.map(lambda x: x[0], lone.seeds.train)
    assert int(ours.env_steps) == int(theirs.env_steps) == 4_000 or int(ours.updates) > 0
    assert int(ours.updates) == int(theirs.updates)
    # The rings hold the same slots where both have written: same actions, rewards, everything.
    rows = int(min(state.seeds.replay.written, lone.seeds.replay.written)) * several.replay.stride
    rows = min(rows, several.replay.rows * several.replay.stride)
    assert rows > 100
    for x, y in zip(
        jax.tree.leaves(state.seeds.replay.slots),
        jax.tree.leaves(lone.seeds.replay.slots),
        strict=True,
    ):
        np.testing.assert_array_equal(x[1, :, :rows], y[0, :, :rows])
    for x, y in zip(jax.tree.leaves(ours.online), jax.tree.leaves(theirs.online), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("unit", ["step", "episode"])
def test_schedules_and_update_ratio_do_not_depend_on_the_number_of_environments(unit):
    seen = []
    for envs in (1, 16):
        config = small_config(
            "probe/chain",
            steps=3_000,
            exploration={"start": 1.0, "end": 0.0, "steps": 6_000},
            collect={"envs": envs, "update_ratio": 0.15, "update_unit": unit},
            replay={"length": 4, "warmup": 16},
        )
        program = Program.make(make_env(config.env), config)
        state = jax.jit(program.init)(program.config.seed)
        chunk = jax.jit(program.chunk, donate_argnums=0)
        updates, episodes = [], []
        for until in (1_000, 3_000):
            state = chunk(state, jnp.int32(until))
            progress = state.progress
            updates.append(float(progress.updates[0]))
            episodes.append(float(progress.collected.episodes[0]))
            train = jax.tree.map(lambda x: x[0], state.seeds.train)
            assert until <= int(train.env_steps) < until + 16 * 4
        units = 2_000 if unit == "step" else episodes[1]
        seen.append(updates[1] / units)
        assert seen[-1] == pytest.approx(0.15, rel=0.04)
    assert seen[0] == pytest.approx(seen[1], rel=0.05)


@pytest.mark.parametrize("envs", [1, 16])
def test_what_is_explored_follows_environment_steps(envs, quick_compile):
    """Counted in updates (there are none here) or per environment, everyone would play at random
    to the end.
    """
    config = small_config(
        "matrix/climbing",
        steps=8_000,
        exploration={"start": 1.0, "end": 0.0, "steps": 8_000},
        replay={"length": 5, "capacity": 2_000, "warmup": 2_000},
        collect={"envs": envs},
    )
    program, state = trained(config)
    replay = state.seeds.replay
    rows = int(replay.written) * program.replay.stride
    assert rows <= program.replay.rows * program.replay.stride  # nothing was overwritten
    slots = jax.jit(program.from_replay.codec.decode)(replay.slots)
    action, valid = (
        np.asarray(x[0, :, :rows]).swapaxes(0, 1).reshape(rows * envs, -1)
        for x in (slots.action, slots.valid)
    )
    action = action[valid[:, 0]]
    greedy = action[-1]  # the networks never change, and there is but one observation
    for quarter, played in enumerate(np.split(action[:8_000], 4)):
        epsilon = 1 - (quarter + 0.5) / 4
        share = (played == greedy).mean()
        assert share == pytest.approx(1 - epsilon * 2 / 3, abs=0.04), quarter


@pytest.mark.usefixtures("quick_compile")
def test_epsilon_and_learning_rate_follow_environment_steps(tmp_path):
    """Counted in updates, epsilon would still be near 1: there are 8 steps to an update."""
    config = small_config(
        "probe/chain",
        steps=2_000,
        exploration={"start": 1.0, "end": 0.0, "steps": 2_000},
        optimiser={"lr": 1e-3, "lr_end": 0.0},
    )
    run = train_config(config, tmp_path / "run", quiet=True)
    for row in run.metrics():
        assert row["epsilon"] == pytest.approx(1 - min(row["env_steps"] / 2_000, 1), abs=1e-5)
        if "lr" in row:  # a mean over the last 500 steps
            middle = row["env_steps"] - 250
            assert row["lr"] == pytest.approx(1e-3 * (1 - middle / 2_000), abs=5e-5)


@pytest.mark.usefixtures("quick_compile")
def test_a_state_taken_out_and_put_back_continues_bit_for_bit():
    """Targets, optimiser, RNG, statistics and counters are all in the state."""
    program = Program.make(make_env(EVERYTHING.env), EVERYTHING)
    chunk = jax.jit(program.chunk)
    whole = jax.jit(program.init)(program.config.seed)
    whole = chunk(whole, jnp.int32(2_000))
    leaves, structure = jax.tree.flatten(whole)
    whole = chunk(whole, jnp.int32(4_000))

    def stored(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(np.array(jax.random.key_data(x)))
        return jnp.asarray(np.array(x))

    resumed = jax.tree.unflatten(structure, [stored(x) for x in leaves])
    resumed = chunk(resumed, jnp.int32(4_000))
    for x, y in zip(arrays(whole), arrays(resumed), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.usefixtures("quick_compile")
def test_where_a_chunk_ends_changes_nothing():
    """A chunk begins with what the last one left: targets, moments, random state, and sums."""
    program = Program.make(make_env(EVERYTHING.env), EVERYTHING)
    chunk = jax.jit(program.chunk)
    init = jax.jit(program.init)
    state, cut = init(EVERYTHING.seed), init(EVERYTHING.seed)
    state = chunk(state, jnp.int32(3_000))
    for until in (1, 700, 701, 2_000, 3_000):
        cut = chunk(cut, jnp.int32(until), until == 1)
    for x, y in zip(arrays(state), arrays(cut), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.long
def test_step_time_does_not_grow_with_the_replays_capacity():
    """A replay copied in every iteration would cost 64 times as much here (200 MB)."""
    seconds = []
    for capacity in (1_000, 64_000):
        config = small_config(
            "mpe/simple_spread", steps=10**7, replay={"length": 16, "capacity": capacity}
        )
        program = Program.make(make_env(config.env), config)
        state = jax.jit(program.init)(program.config.seed)
        chunk = jax.jit(program.chunk, donate_argnums=0)
        state = jax.block_until_ready(chunk(state, jnp.int32(2_000)))
        times = []
        for i in range(5):
            began = time.perf_counter()
            state = jax.block_until_ready(chunk(state, jnp.int32(4_000 + 4_000 * i)))
            times.append(time.perf_counter() - began)
        seconds.append(min(times))
    assert seconds[1] < 2 * seconds[0], seconds


def never() -> HostEnv:
    """The environment of a run that does not begin."""
    raise AssertionError


@pytest.mark.parametrize(
    ("seeds", "envs", "sequences", "host"),
    [
        (1, 1, "segments", False),
        pytest.param(2, 8, "segments", False, marks=pytest.mark.long),
        pytest.param(1, 1, "episodes", False, marks=pytest.mark.long),
        pytest.param(1, 1, "episodes", True, marks=pytest.mark.long),
        pytest.param(2, 1, "segments", True, marks=pytest.mark.long),
        (2, 8, "episodes", True),
    ],
)
def test_the_replay_is_updated_in_place(seeds: int, envs: int, sequences: str, *, host: bool):
    """The compiled chunk needs no second copy of the ring: what grows with capacity is donated.
    Nor does the program that learns what Python played, which is called for every rollout.
    """
    temporary = []
    for capacity in (256, 8_192):
        kept = {"capacity": capacity, "sequences": sequences}
        changes: Any = {"collect": {"envs": envs}, "replay": kept}
        config = small_config("probe/coordination", seeds=seeds, **changes)
        env = make_env(config.env)
        program = Program.make(Shown(env.spec) if host else env, config)
        init = traced_init(program)
        state = init.out_info
        if host:
            learn = OnHost(program, init, never, env.spec).learn
            rollout = jax.eval_shape(partial(zeros, program.collector), state.seeds.actors)
            lowered = jax.jit(learn, donate_argnums=0).lower(state, rollout, True)
        else:
            lowered = jax.jit(program.chunk, donate_argnums=0).lower(state, jnp.int32(0))
        analysis = lowered.compile().memory_analysis()
        temporary.append(analysis.temp_size_in_bytes)
        assert analysis.alias_size_in_bytes >= resources.nbytes(state.seeds.replay)
    # 32 times the capacity is 1.5 MB more for each seed; a copy anywhere would show.
    assert temporary[1] < temporary[0] + 200_000, temporary


def needed(program: Program) -> dict[str, int]:
    return resources.check_memory(program, traced_init(program).out_info)


def test_a_replay_that_does_not_fit_is_refused_with_the_capacity_that_does(monkeypatch):
    config = small_config("mpe/simple_spread", replay={"capacity": 100_000, "length": 32})
    program = Program.make(make_env(config.env), config)
    monkeypatch.setattr(resources, "free_memory", lambda: 200 * 2**20)
    with pytest.raises(QtotError, match=r"needs .* GiB.*largest --replay.capacity that fits") as e:
        needed(program)
    fits = int(str(e.value).rsplit(" ", 1)[1])
    config = small_config("mpe/simple_spread", replay={"capacity": fits, "length": 32})
    said = needed(Program.make(make_env(config.env), config))
    assert 0.7 * 160 * 2**20 < said["replay"] <= 160 * 2**20


@pytest.mark.parametrize("capacity", [10**15, 10**20, 10**25])
def test_sizes_beyond_any_machine_are_refused(capacity: int):
    """Beyond any index, too, which JAX says in several ways."""
    config = small_config("probe/chain", replay={"capacity": capacity})
    with pytest.raises(QtotError, match=r"--replay\.capacity"):
        needed(Program.make(make_env(config.env), config))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_what_a_device_must_hold_is_its_part(platform: str):
    """Devices with a memory of their own share the replay; those of a CPU share the memory, and
    each has the networks.
    """

    config = small_config("mpe/simple_spread", seeds=2, replay={"capacity": 4_096})
    program = Program.make(make_env(config.env), config)
    shapes = traced_init(program).out_info
    alone = resources.check_memory(program, shapes)
    devices = np.full((2, 2), SimpleNamespace(platform=platform, process_index=0))
    mesh: Any = SimpleNamespace(devices=devices, shape={"seed": 2, "data": 2})
    said = resources.check_memory(program._replace(mesh=mesh), shapes)
    parts = {"cpu": {"networks": 2.0}, "gpu": dict.fromkeys(alone, 0.25) | {"networks": 0.5}}
    for part, size in alone.items():
        assert said[part] == pytest.approx(size * parts[platform].get(part, 1.0), abs=1), part


def test_the_bytes_said_are_the_bytes_taken():
    config = small_config("mpe/simple_spread", seeds=2, replay={"capacity": 300})
    program = Program.make(make_env(config.env), config)
    said = needed(program)["replay"]
    state = jax.jit(program.init)(program.config.seed)
    assert said == sum(x.nbytes for x in jax.tree.leaves(state.seeds.replay))


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("algo", ["qmix", "vdn"])
def test_a_small_coordination_game_is_learned(algo, tmp_path):
    """27 joint actions, one of which pays, chosen by two bits: 1/27 at random."""
    config = small_config(
        "probe/coordination",
        algo,
        seeds=3,
        steps=12_000,
        exploration={"start": 1.0, "end": 0.2, "steps": 6_000},
    )
    run = train_config(config, tmp_path / "run", quiet=True)
    returns = [row["return"] for row in qtot.evaluate(run, episodes=64)]
    assert sorted(returns)[1] == 1.0, returns  # at least two seeds of three solve it


@pytest.mark.long
@pytest.mark.usefixtures("quick_compile")
def test_a_recurrent_agent_remembers_and_a_memoryless_one_cannot(tmp_path):
    returns = {}
    for memory in ("gru", "none"):
        config = small_config(
            "probe/memory",
            "vdn",  # the mixer of QMIX is told the cue, and can make up for agents that forget it
            steps=12_000,
            seeds=2,
            agent={"memory": memory},
            exploration={"start": 1.0, "end": 0.1, "steps": 6_000},
            replay={"length": 8},
        )
        run = train_config(config, tmp_path / memory, quiet=True)
        returns[memory] = sorted(row["return"] for row in qtot.evaluate(run, episodes=256))
    assert returns["gru"] == [1.0, 1.0]
    assert returns["none"] == pytest.approx([0.5, 0.5], abs=0.12)


@pytest.mark.parametrize(("asked", "marked"), [("float32", "HIGHEST"), ("tf32", "HIGH")])
def test_every_product_has_the_precision_that_was_asked_for(asked: str, marked: str):
    """Left to itself, JAX takes tf32 on a GPU: silently, and for some products only."""
    config = small_config("probe/memory", agent={"memory": "gru"}, matmul_precision=asked)
    program = Program.make(make_env(config.env), config)
    state = jax.eval_shape(program.init, config.seed)
    with jax.default_matmul_precision("bfloat16"):  # whatever JAX is set to
        text = jax.jit(program.chunk).lower(state, jnp.int32(0)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 20
    assert all(f"precision = [{marked}, {marked}]" in line for line in products)

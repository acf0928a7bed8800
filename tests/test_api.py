"""Train, load, act, evaluate: the Python API and the folder it leaves, on a game with everything.

One small run is trained for most of these tests.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import pickle
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import everything
import qtot
from qtot.api import FRESH, Memory, Policy, Run
from qtot.core.learner import PolicyParams
from qtot.core.methods import METHODS
from qtot.core.shards import Shards
from qtot.envs import make_env
from qtot.envs.dice import hashed, plain
from qtot.errors import QtotError
from qtot.evaluation.episodes import evaluation_key, play_greedy, summarise
from qtot.presets import preset_config
from qtot.store.params import load_params, save_params
from qtot.store.run_folder import METRICS, SCHEMA, RunFolder
from qtot.training.display import Display
from qtot.training.ingraph import Program, make_learner

SEEDS = (3, 4)
STEPS, EVERY, LOG, EPISODES = 1_000, 400, 200, 32
SMALL: dict[str, Any] = {
    "seed": SEEDS[0],
    "seeds": len(SEEDS),
    "steps": STEPS,
    "log_every": LOG,
    "agent": {"encoder": (16,), "hidden": 16},
    "mixer": {"embed": 8, "hypernet_embed": 8},
    "exploration": {"steps": 500},
    "replay": {"length": 4, "capacity": 128, "warmup": 8},
    "collect": {"envs": 4, "update_ratio": 0.1},
    "scaling": {"normalise_obs": True, "standardise_rewards": True},
    "evaluation": {"every": EVERY, "episodes": EPISODES, "final_episodes": EPISODES},
}
ALWAYS = {"seed", "env_steps", "episodes", "updates", "epsilon", "wall_s", "compile_s"}
OF_EVALUATION = {k for k in METRICS if k.startswith("eval/")} | {"eval/paid"}
OF_TRAINING = {k for k in METRICS if k.startswith("train/")} | {"train/paid", "steps_per_s"}
OF_LEARNING = {"loss", "grad_norm", "q_tot", "target", "td_error_abs", "lr"}


@pytest.fixture(scope="module", autouse=True)
def _game() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)  # compiles much, runs little
    with everything.registered():
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(_game: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("api") / "run"
    return qtot.train(everything.NAME, "qmix", out=out, quiet=True, **SMALL)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """The run's folder, to be damaged."""
    return Path(shutil.copytree(run.path, tmp_path / "copy"))


def untrained(out: Path, **changes: Any) -> Run:
    """A run of one seed with random networks and statistics, without training them."""
    env = make_env(everything.NAME)
    config = qtot.api.nested_replace(preset_config(env.spec.name), {**SMALL, "seeds": 1})
    config = qtot.api.nested_replace(config, changes)
    facts = {"config": config.to_dict(), "env": env.spec.to_dict()}
    folder = RunFolder.create(out, facts)
    params = PolicyParams.of(jax.jit(make_learner(env.spec, config).init)(jax.random.key(1)))
    rng = np.random.default_rng(1)
    stats = jax.tree.map(lambda x: np.float32(1 + rng.random(x.shape)), params.stats)
    folder.save("last", config.seed, params._replace(stats=stats))
    folder.close([])
    return Run(folder)


# What training leaves -----------------------------------------------------------------------


def rows_of(run: Run, seed: int) -> list[dict[str, Any]]:
    return [row for row in run.metrics() if row["seed"] == seed]


def test_every_row_holds_the_documented_keys_where_they_belong_and_no_others(run: Run):
    for seed in SEEDS:
        rows = rows_of(run, seed)
        assert len(rows) == 1 + STEPS // LOG
        assert set(rows[0]) == ALWAYS | OF_EVALUATION
        for row in rows[1:]:
            evaluated = row["env_steps"] >= STEPS or row["env_steps"] % EVERY < LOG
            expected = ALWAYS | OF_TRAINING | OF_LEARNING | (OF_EVALUATION if evaluated else set())
            assert set(row) == expected, row["env_steps"]
    keys = {key for row in run.metrics() for key in row}
    of_others = {
        k
        for k, about in METRICS.items()
        if about.partition(",")[0].split(":")[0] in (*METHODS, "python")
    }
    assert "entropy" in of_others
    # NAME: a scalar of the task
    assert keys == set(METRICS) - of_others | {"train/paid", "eval/paid"}


def test_every_metric_is_a_finite_number_and_counters_grow(run: Run):
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=refuse)
        assert all(isinstance(v, int | float) and math.isfinite(v) for v in row.values())
    for seed in SEEDS:
        rows = rows_of(run, seed)
        for key in ("env_steps", "episodes", "updates", "wall_s"):
            values = [row[key] for row in rows]
            assert values == sorted(values) and values[-1] > values[0], key
        assert rows[0]["env_steps"] == rows[0]["episodes"] == rows[0]["updates"] == 0
        assert STEPS <= rows[-1]["env_steps"] < STEPS + LOG
        assert rows[-1]["train/length"] == everything.LIMIT
        assert rows[-1]["eval/episodes"] == EPISODES


def test_the_closing_table_has_a_row_per_seed_with_its_last_and_best_evaluation(run: Run):
    result = run.result()
    assert [row["seed"] for row in result] == list(SEEDS)
    for row in result:
        rows = [r for r in rows_of(run, row["seed"]) if "eval/return" in r]
        assert len(rows) == 1 + STEPS // EVERY + 1
        best = max(rows, key=lambda r: (r["eval/win_rate"], r["eval/return"], r["env_steps"]))
        assert {k: row[k] for k in rows[-1]} == rows[-1]
        for key in OF_EVALUATION:
            assert row[key.replace("eval/", "best/")] == best[key]
        assert row["best/env_steps"] == best["env_steps"]


@pytest.mark.parametrize("which", ["last", "best"])
def test_saved_parameters_are_those_whose_evaluation_was_logged(run: Run, which: str):
    saved = qtot.load(run.path, which=which)
    env, prefix = make_env(everything.NAME), {"last": "eval", "best": "best"}[which]
    pieces = Program.make(env, run.config).collector.shards.pieces
    shards = Shards(math.gcd(EPISODES, pieces))

    @jax.jit
    def play(params: Any, key: Any) -> Any:
        keys = shards.draw(hashed(key), lambda k: jax.random.split(k, EPISODES // shards.pieces))
        return summarise(play_greedy(env, run.learner, params, keys=keys))

    for row in run.result():
        steps = row["env_steps" if which == "last" else "best/env_steps"]
        steps = STEPS if steps >= STEPS else steps // EVERY * EVERY  # names the episodes
        key = jax.random.fold_in(evaluation_key(row["seed"], steps), 0)
        for name, value in play(saved.params(row["seed"]), key).items():
            assert row[f"{prefix}/{name}"] == pytest.approx(float(value), abs=1e-5), name


def test_config_json_holds_everything_that_decided_the_run(run: Run):
    facts = json.loads((run.path / "config.json").read_text())
    config = preset_config(everything.NAME)
    assert facts["schema"] == SCHEMA
    assert facts["config"] == json.loads(json.dumps(run.config.to_dict()))
    assert set(facts["config"]) == set(config.to_dict())  # resolved: defaults are spelled out
    assert facts["config"]["target"]["gamma"] == config.target.gamma
    assert facts["config"]["agent"]["encoder"] == [16]
    spec = facts["env"]
    assert (spec["name"], spec["episode_limit"]) == (everything.NAME, everything.LIMIT)
    assert spec["n_actions"] == list(everything.N_ACTIONS)
    assert spec["obs_sizes"] == list(everything.OBS_SIZES)
    assert spec["info"] == ["won", "paid"]
    for package in ("jax", "jaxlib", "numpy", "equinox", "optax"):
        assert facts["versions"][package] == importlib.metadata.version(package)
    assert facts["versions"]["qtot"] == qtot.__version__
    assert facts["versions"]["python"].startswith("3.")
    assert facts["git_commit"] is None or re.fullmatch(
        r"[0-9a-f]{40}(-dirty)?", facts["git_commit"]
    )
    assert facts["device"]["platform"] == jax.local_devices()[0].platform
    assert facts["device"]["cpu_cores"] >= 1
    assert facts["bytes"]["replay"] > 0


def test_parameters_are_plain_arrays_under_readable_names(run: Run):
    for seed in SEEDS:
        for which in ("last", "best"):
            path = run.path / "params" / f"seed-{seed}" / f"{which}.npz"
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            assert arrays["online.agent.network.head.weight"].shape == (3, 16)
            assert arrays["online.mixer.hyper_w_1.layers.0.weight"].shape[0] == 8
            assert arrays["stats.obs.mean"].shape == (2, 4)
            assert all(np.isfinite(x).all() for x in arrays.values())


def test_a_loaded_run_is_the_run(run: Run):
    loaded = qtot.load(str(run.path))
    assert loaded.config == run.config
    assert loaded.spec == run.spec == make_env(everything.NAME).spec
    assert loaded.seeds == SEEDS
    assert loaded.metrics() == run.metrics() and loaded.result() == run.result()
    assert repr(loaded) == f"Run('{run.path}', qmix on everything/game, seeds [3, 4])"
    for a, b in zip(jax.tree.leaves(loaded.params(4)), jax.tree.leaves(run.params(4)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_best_and_last_are_told_apart(copy: Path):
    other = copy / "params" / f"seed-{SEEDS[1]}" / "last.npz"
    shutil.copy(other, copy / "params" / f"seed-{SEEDS[0]}" / "best.npz")
    last, best = (qtot.load(copy, which=w).params(SEEDS[0]) for w in ("last", "best"))
    another = qtot.load(copy).params(SEEDS[1])
    weights = [p.online.agent.network.head.weight for p in (last, best, another)]
    assert (weights[0] != weights[1]).any()
    np.testing.assert_array_equal(weights[1], weights[2])
    assert qtot.load(copy).which == "last"


# Acting alone -------------------------------------------------------------------------------


def played_one_agent_at_a_time(run: Run, seed: int, episodes: int) -> dict[str, float]:
    """A plain loop: every agent sees its own observation and mask, and carries its own memory."""
    env, spec = make_env(run.config.env), run.spec
    reset, step, observe = (jax.jit(f) for f in (env.reset, env.step, env.observe))
    policies = {name: run.agent(name, seed) for name in spec.agents}
    returns, lengths, infos = [], [], []
    for key in jax.random.split(evaluation_key(seed, FRESH), episodes):
        chance = lambda t, key=key: plain(jax.random.fold_in(hashed(key), t))  # noqa: E731
        state, total, length, ended = reset(chance(0)), 0.0, 0, False
        memories = {name: policies[name].reset() for name in spec.agents}
        while not ended:
            seen, actions = observe(state), []
            for i, name in enumerate(spec.agents):
                action, memories[name] = policies[name].act(
                    np.asarray(seen.obs[i])[: spec.obs_sizes[i]],
                    np.asarray(seen.avail_actions[i])[: spec.n_actions[i]],
                    memories[name],
                )
                actions.append(action)
            state, result = step(chance(length + 1), state, jnp.array(actions))
            total, length = total + float(result.reward), length + 1
            ended = bool(result.terminated | result.truncated)
        returns.append(total)
        lengths.append(length)
        infos.append({k: float(v) for k, v in result.info.items()})
    return {
        "return": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "length": float(np.mean(lengths)),
        "win_rate": float(np.mean([info["won"] for info in infos])),
        "paid": float(np.mean([info["paid"] for info in infos])),
    }


def assert_decentralised_play_gives(rows: list[dict[str, float]], run: Run, episodes: int):
    assert [row["seed"] for row in rows] == list(run.seeds)
    for row in rows:
        alone = played_one_agent_at_a_time(run, int(row["seed"]), episodes)
        assert row == {"seed": row["seed"], "episodes": episodes, **alone} | {
            k: pytest.approx(v, abs=1e-5) for k, v in alone.items()
        }
        assert (
            alone["return_std"] > 0.01
        )  # episodes differ, so that there is something to get wrong


def test_agents_acting_alone_reproduce_the_in_graph_return(run: Run):
    rows = qtot.evaluate(run, episodes=12)
    assert_decentralised_play_gives(rows, run, 12)
    assert rows[0]["return"] != rows[1]["return"]


@pytest.mark.parametrize("memory", ["gru", "none"])
def test_agents_with_parameters_of_their_own_act_alone_too(tmp_path: Path, memory: str):
    run = untrained(tmp_path / "run", agent={"sharing": "none", "memory": memory})
    assert_decentralised_play_gives(qtot.evaluate(run, episodes=12), run, 12)


def test_evaluation_repeats_itself_and_another_seed_plays_other_episodes(run: Run):
    one = qtot.evaluate(run, episodes=8)
    assert qtot.evaluate(run.path, episodes=8) == one
    assert qtot.evaluate(run, episodes=8, seed=1) != one


@pytest.fixture(scope="module")
def agent(run: Run) -> Policy:
    return run.agent("agent_1")


OBS = np.array([0.5, -1.0, 2.0, 0.1])


def test_acting_is_greedy_over_legal_actions(agent: Policy):
    memory = agent.reset()
    q, _ = agent.q_values(OBS, memory)
    assert q.shape == (3,)
    order = np.argsort(-q)
    for legal in ([True] * 3, np.arange(3) != order[0], np.arange(3) == order[2]):
        action, _ = agent.act(OBS, legal, memory)
        assert action == max(np.flatnonzero(legal), key=lambda a: q[a])
    assert agent.act(OBS, None, memory)[0] == order[0]  # None: all are legal
    as_numbers = [int(a == order[1]) for a in range(3)]
    assert agent.act(OBS, as_numbers, memory)[0] == order[1]
    assert isinstance(agent.act(OBS, None, memory)[0], int)


def test_memory_holds_the_recurrent_state_and_the_previous_action(agent: Policy):
    start = agent.reset()
    assert isinstance(start, Memory)
    assert start.prev_action == -1 and start.hidden.shape == (16,) and not start.hidden.any()
    action, after = agent.act(OBS, None, start)
    assert after.prev_action == action and after.hidden.any()
    # Both reach the next decision, and an agent keeps no memory of its own.
    q, _ = agent.q_values(OBS, after)
    for changed in (
        after._replace(prev_action=(action + 1) % 3),
        after._replace(hidden=start.hidden),
    ):
        assert not np.allclose(agent.q_values(OBS, changed)[0], q)
    np.testing.assert_array_equal(agent.q_values(OBS, after)[0], q)


def test_exploration_draws_legal_actions_only_and_by_its_rng(agent: Policy):
    legal, memory = np.array([True, False, True]), agent.reset()

    def draw(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return [agent.act(OBS, legal, memory, epsilon=1.0, rng=rng)[0] for _ in range(30)]

    assert set(draw(0)) == {0, 2}
    assert draw(0) == draw(0) != draw(1)
    greedy, _ = agent.act(OBS, legal, memory)
    rng = np.random.default_rng(0)
    half = [agent.act(OBS, legal, memory, epsilon=0.5, rng=rng)[0] for _ in range(60)]
    assert 0.55 < np.mean([a == greedy for a in half]) < 0.95  # 3 in 4
    explored, after = agent.act(OBS, [True, False, False], memory, epsilon=1.0, rng=rng)
    assert after.prev_action == explored == 0


@pytest.mark.parametrize(
    ("obs", "legal", "message"),
    [
        (OBS[:3], None, r"agent_1 expects an observation of shape \(4,\), got \(3,\)"),
        (OBS[None], None, r"shape \(4,\), got \(1, 4\)"),
        (OBS, [True, True], r"agent_1 expects avail_actions of 0 and 1 of shape \(3,\)"),
        (OBS, [[True] * 3], r"avail_actions of 0 and 1 of shape \(3,\)"),
        (OBS, [False] * 3, "at least one legal action, got"),
    ],
)
def test_a_wrong_observation_or_mask_is_refused(agent: Policy, obs: Any, legal: Any, message: str):
    with pytest.raises(QtotError, match=message):
        agent.act(obs, legal, agent.reset())


def test_exploring_without_a_generator_is_refused(agent: Policy):
    with pytest.raises(QtotError, match=r"epsilon above 0 needs rng=numpy.random.default_rng"):
        agent.act(OBS, None, agent.reset(), epsilon=0.1)


def test_what_a_run_does_not_have_is_refused_with_what_it_has(run: Run, tmp_path: Path):
    refusals = {
        "no agent 'agent_7' here; choose one of: agent_0, agent_1": lambda: run.agent("agent_7"),
        r"has no seed 0; it has \[3, 4\]": lambda: run.agent("agent_0", seed=0),
        "which must be 'last' or 'best', got 'first'": lambda: qtot.load(run.path, which="first"),
        "episodes must be a whole number of at least 1, got 0": lambda: qtot.evaluate(run, 0),
        "episodes must be .* got 2.5": lambda: qtot.evaluate(run, 2.5),
        "seed must be a whole number from 0 .* got -1": lambda: qtot.evaluate(run, seed=-1),
        f"seed must be .* got {FRESH}": lambda: qtot.evaluate(run, seed=FRESH),
        "is not a run folder: it has no config.json": lambda: qtot.load(tmp_path),
        "nowhere is not a run folder": lambda: qtot.evaluate(tmp_path / "nowhere"),
    }
    for message, call in refusals.items():
        with pytest.raises(QtotError, match=message):
            call()


# Refusals before training -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "matrx/qtran"}, "unknown environment family 'matrx'; did you mean 'matrix'"),
        ({"env": "matrix/qtrn"}, "unknown task of matrix/ 'qtrn'; did you mean 'qtran'"),
        ({"env": "probe"}, "names a family but no task; expected 'family/task'"),
        ({"algo": "qmxi"}, "unknown algorithm 'qmxi'; did you mean 'qmix'"),
        ({"preset": "papper"}, "unknown preset 'papper'; did you mean 'paper'"),
        ({"stpes": 4}, "unknown option of TrainConfig 'stpes'; did you mean 'steps'"),
        ({"agent": {"hiden": 4}}, "unknown option of AgentConfig 'hiden'; did you mean 'hidden'"),
        ({"agent": {"memory": "gru2"}}, "unknown agent.memory 'gru2'; did you mean 'gru'"),
        ({"steps": 0}, "steps must be .* at least 1, got 0"),
        ({"seeds": -1}, "seeds must be .* at least 1, got -1"),
        ({"optimiser": {"lr": math.inf}}, "optimiser.lr must be a finite number .* got inf"),
        ({"replay": {"capacity": 10**9}}, "largest --replay.capacity that fits is about"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
):
    out = tmp_path / "run"
    with pytest.raises(QtotError, match=message):
        qtot.train(**{"env": "probe/one", "out": out, "quiet": True, **options})
    assert not out.exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(copy: Path):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(QtotError, match="already holds a run; go on with it: qtot resume"):
        qtot.train("probe/one", out=copy, quiet=True)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, below: str):
    (tmp_path / "file").write_text("a file in its place")
    with pytest.raises(QtotError, match=r"cannot write the run folder .*file.* with --out"):
        qtot.train("probe/one", out=tmp_path / "file" / below, quiet=True)
    assert (tmp_path / "file").read_text() == "a file in its place"


# Interrupted --------------------------------------------------------------------------------


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, out: Path) -> None:
    """A run during which the user presses Ctrl-C once ``at`` steps are logged."""

    def progress(_: Display, rows: list[dict[str, Any]], wall_s: float) -> None:
        if rows[0]["env_steps"] >= at and not pressed:
            pressed.append(wall_s)
            signal.raise_signal(signal.SIGINT)

    pressed: list[float] = []
    monkeypatch.setattr(Display, "progress", progress)
    with pytest.raises(KeyboardInterrupt):
        changes = {"seeds": 1, "evaluation": {**SMALL["evaluation"], "every": 0}}
        qtot.train(everything.NAME, out=out, quiet=True, **{**SMALL, **changes})


def test_a_stopped_run_keeps_the_parameters_it_had_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = signal.getsignal(signal.SIGINT)
    interrupted(monkeypatch, 2 * LOG, tmp_path / "run")
    run = qtot.load(tmp_path / "run")
    assert run.result() == []
    steps = [row["env_steps"] // LOG for row in run.metrics()]
    assert steps == [0, 1, 2]
    assert not any("eval/return" in row for row in run.metrics()[1:])
    # Those saved before training were the fresh ones.
    fresh, last = (qtot.load(run.path, which=w).params() for w in ("best", "last"))
    assert (fresh.online.agent.network.head.weight != last.online.agent.network.head.weight).any()
    assert float(last.stats.obs.n) == pytest.approx(run.metrics()[-1]["env_steps"])
    assert qtot.evaluate(run, episodes=4)[0]["length"] == everything.LIMIT
    # Our handler is gone.
    assert signal.getsignal(signal.SIGINT) is before


# Damage -------------------------------------------------------------------------------------


def last_params(folder: Path) -> Path:
    return folder / "params" / f"seed-{SEEDS[0]}" / "last.npz"


def rewritten(path: Path, **arrays: np.ndarray | None) -> None:
    """The file with other arrays under some names; None takes one away."""
    with np.load(path, allow_pickle=False) as file:
        new = {**file, **arrays}
    np.savez(path, **{k: v for k, v in new.items() if v is not None})


def npy(array: np.ndarray) -> bytes:
    """A file of one array, not of named ones."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HEAD = "online.agent.network.head.weight"
UNREADABLE = r"parameters at .*last\.npz (cannot be read|are damaged)"
PARAMS_DAMAGE = {
    "gone": (lambda p: p.unlink(), "no parameters at .*last.npz"),
    "empty": (lambda p: p.write_bytes(b""), UNREADABLE),
    "half": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), UNREADABLE),
    "text": (lambda p: p.write_text("hello"), UNREADABLE),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), UNREADABLE),
    "one array": (lambda p: p.write_bytes(npy(np.ones(3))), UNREADABLE),
    "objects": (lambda p: rewritten(p, **{HEAD: np.array([{}])}), r"got object\[1\]"),
    "array missing": (lambda p: rewritten(p, **{HEAD: None}), f"lacks the array '{HEAD}'"),
    "other shape": (
        lambda p: rewritten(p, **{HEAD: np.ones((5, 16), np.float32)}),
        rf"array '{HEAD}' should be float32\[3, 16\], got float32\[5, 16\]",
    ),
    "other dtype": (
        lambda p: rewritten(p, **{HEAD: np.ones((3, 16))}),
        r"float32\[3, 16\], got float64",
    ),
}


@pytest.mark.parametrize("damage", PARAMS_DAMAGE)
def test_damaged_parameters_are_refused(copy: Path, damage: str):
    harm, message = PARAMS_DAMAGE[damage]
    harm(last_params(copy))
    with pytest.raises(QtotError, match=message):
        qtot.load(copy).agent("agent_0")
    qtot.load(copy).agent("agent_0", seed=SEEDS[1])  # the other seed's are whole


def test_no_flipped_bit_gives_wrong_numbers(tmp_path: Path):
    rng = np.random.default_rng(0)
    tree = {"weight": rng.normal(size=(5, 4)).astype(np.float32), "updates": np.arange(3)}
    path = tmp_path / "last.npz"
    save_params(path, tree)
    data, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(data), 3):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            loaded = load_params(path, tree)
        except QtotError as error:
            assert str(path) in str(error)
            refused += 1
        else:  # a bit that nobody reads, such as a time stamp's
            assert all((loaded[name] == tree[name]).all() for name in tree), bit
    assert refused > len(data)


def changed(**facts: Any) -> Any:
    """Facts put in place of those in ``config.json``; None takes one away."""

    def harm(path: Path) -> None:
        new = {**json.loads(path.read_text()), **facts}
        path.write_text(json.dumps({k: v for k, v in new.items() if v is not None}))

    return harm


CONFIG_DAMAGE = {
    "half": (lambda p: p.write_bytes(p.read_bytes()[:300]), "not a qtot run's configuration"),
    "empty": (lambda p: p.write_bytes(b""), "not a qtot run's configuration"),
    "binary": (lambda p: p.write_bytes(b"\xff\xfe\x00"), r"config\.json cannot be read"),
    "null": (lambda p: p.write_text("null"), "not a qtot run's configuration"),
    "a list": (lambda p: p.write_text("[]"), "not a qtot run's configuration"),
    "another program's": (lambda p: p.write_text("{}"), "not a qtot run's configuration"),
    "schema": (
        changed(schema=99),
        f"has schema 99, this version reads 2 to {SCHEMA}; use the version",
    ),
    "no config": (changed(config=None), "not a qtot run's configuration"),
    "config a list": (changed(config=[]), "not a qtot run's configuration"),
    "config a name": (changed(config={"agent": "gru"}), "agent"),
    "no facts": (changed(env=None), "not a qtot run's configuration"),
    "facts missing": (changed(env={"name": "x"}), "not a qtot run's configuration"),
    "facts a list": (changed(env=["x"]), "not a qtot run's configuration"),
    "unknown option": (changed(config={"stpes": 4}), "did you mean 'steps'"),
    "impossible": (changed(config={"steps": -4}), "steps must be"),
}


@pytest.mark.parametrize("damage", CONFIG_DAMAGE)
def test_a_damaged_or_foreign_configuration_is_refused(copy: Path, damage: str):
    harm, message = CONFIG_DAMAGE[damage]
    harm(copy / "config.json")
    with pytest.raises(QtotError, match=message):
        qtot.load(copy)


def test_metrics_cut_in_mid_line_are_readable_up_to_there(run: Run, copy: Path):
    path = copy / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert qtot.load(copy).metrics() == run.metrics()[:-1]
    path.write_text("".join(lines[:-1]) + lines[-1].rstrip("\n"))  # only the line's end is missing
    assert qtot.load(copy).metrics() == run.metrics()[:-1]


def test_damaged_metrics_and_results_are_refused(copy: Path):
    run = qtot.load(copy)
    (copy / "metrics.jsonl").write_text('{"seed": 3\n{"seed": 3}\n')
    with pytest.raises(QtotError, match=r"metrics\.jsonl"):
        run.metrics()
    (copy / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(QtotError, match=r"metrics\.jsonl"):
        run.metrics()
    (copy / "metrics.jsonl").unlink()
    assert run.metrics() == []
    (copy / "result.json").write_text("[{")
    with pytest.raises(QtotError, match=r"result\.json"):
        run.result()


def test_configuration_survives_the_folder_with_every_kind_of_option(tmp_path: Path):
    run = untrained(
        tmp_path / "run",
        agent={"encoder": (), "memory": "none", "sharing": "none"},
        mixer={"hypernet_layers": 1},
        collect={"update_unit": "episode", "update_ratio": 1 / 3},
        replay={"sequences": "episodes"},
        evaluation={"every": 0},
    )
    config = run.config
    assert config.agent.encoder == () and config.collect.update_ratio == 1 / 3
    assert replace(config, steps=1) != config and hash(config) == hash(qtot.load(run.path).config)

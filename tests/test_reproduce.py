"""``qtot reproduce``: the experiments in miniature, what they write, and going on with them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qtot
from qtot.config import TrainConfig, nested_replace
from qtot.core.methods import METHODS
from qtot.envs.matrix import make
from qtot.errors import QtotError
from qtot.presets import preset_config
from qtot.reproduce import (
    EXPERIMENTS,
    ablations,
    climbing_penalty,
    curves,
    non_monotonic,
    predator_prey,
    random_matrix,
    reproduce,
)
from qtot.reproduce.games import play_games, uniform
from qtot.reproduce.page import Grid, Page, Settings, publish

pytestmark = pytest.mark.usefixtures("quick_compile")

SMALL: dict[str, Any] = {"agent": {"hidden": 8}, "mixer": {"embed": 4, "hypernet_embed": 4}}


def quiet(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(tmp_path, quick=True, say=lambda _: None, **changes)


@pytest.mark.long
def test_many_games_at_once_are_each_played_as_if_alone():
    """One program for two games and two seeds: the same policies as one game at a time."""
    payoffs = np.stack([make(game).payoffs for game in ("qtran", "qplex")])
    config, template = uniform("qmix", 80, **SMALL), make("qtran")
    same = np.stack([payoffs[0]] * 2)
    apart = play_games(config, template, same, 1, independent=True)
    one, other = apart.tables(0, 0)["q_tot"], apart.tables(1, 0)["q_tot"]
    assert np.abs(one - other).max() > 1e-3  # two teams, not the same twice
    together = play_games(config, template, payoffs, 2)
    alone = play_games(config, template, payoffs[1:], 2)
    assert together.returns.shape == (2, 2)
    np.testing.assert_array_equal(together.returns[1], alone.returns[0])
    for seed in range(2):
        one, other = together.tables(1, seed)["q_tot"], alone.tables(0, seed)["q_tot"]
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
        assert np.abs(one - together.tables(0, seed)["q_tot"]).max() > 1e-3


def test_the_return_is_the_payoff_of_the_greedy_joint_action():
    payoffs = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    template = make("qtran")
    played = play_games(uniform("vdn", 2_000, **SMALL), template, payoffs, 1)
    assert played.returns.tolist() == [[8.0]]  # additive, so VDN finds the best
    table = played.tables(0, 0)["q_tot"][0]
    np.testing.assert_allclose(table, payoffs[0, 0], atol=0.5)


@pytest.mark.parametrize(
    "algo",
    ["iql", "coma", *(pytest.param(x, marks=pytest.mark.long) for x in ("ow_qmix", "qtran"))],
)
def test_which_tables_a_method_has(algo: str):
    template = make("qtran")
    played = play_games(uniform(algo, 8, **SMALL), template, template.payoffs[None], 1)
    tables = played.tables(0, 0)
    expected = set() if algo in ("iql", "coma") else {"q_tot"}
    if METHODS[algo].critic and algo != "coma":
        expected |= {"critic"}
    assert set(tables) == expected
    assert all(t.shape == (1, 3, 3) and np.isfinite(t).all() for t in tables.values())


@pytest.mark.long
def test_the_weighted_mixer_finds_what_the_monotone_one_cannot():
    """The QTRAN game, five seeds."""
    template = make("qtran")
    ow = play_games(uniform("ow_qmix", 5_000), template, template.payoffs[None], 5)
    assert (ow.returns == 8.0).sum() >= 4


@pytest.mark.long
def test_qmix_ends_in_one_of_the_two_monotone_fits():
    template = make("qtran")
    payoffs = template.payoffs
    qmix = play_games(uniform("qmix", 5_000), template, payoffs[None], 5)
    fits = {fit.greedy: fit.mse for fit in non_monotonic.MONOTONE_FITS["qtran"]}
    for seed, payoff in enumerate(qmix.returns[0]):
        error = ((qmix.tables(0, seed)["q_tot"] - payoffs) ** 2).mean()
        np.testing.assert_allclose(error, fits[payoff], rtol=0.02)


def test_the_exact_projections_are_exact():
    """Every order of both agents' actions is a convex problem of its own; its best fit by
    projection, and the payoff of that fit's greedy joint action.
    """
    for game, fits in non_monotonic.MONOTONE_FITS.items():
        payoffs = make(game).payoffs[0].astype(float)
        found: dict[float, float] = {}
        for order in itertools.product(itertools.permutations(range(3)), repeat=2):
            table = payoffs[np.ix_(*order)]  # from every agent's worst action to its best
            error = ((monotone_fit(table) - table) ** 2).mean()
            found[table[-1, -1]] = min(error, found.get(table[-1, -1], np.inf))
        assert found[fits[0].greedy] == min(found.values())
        for fit in fits:
            np.testing.assert_allclose(found[fit.greedy], fit.mse, atol=0.005)
            own = ((np.array(fit.table) - payoffs) ** 2).mean()
            np.testing.assert_allclose(own, fit.mse, atol=0.005)
        rows = [np.r_[np.eye(3)[i], np.eye(3)[j]] for i in range(3) for j in range(3)]
        a = np.linalg.lstsq(np.stack(rows), payoffs.ravel(), rcond=None)[0]
        fitted = a[:3, None] + a[None, 3:]
        np.testing.assert_allclose(fitted, non_monotonic.VDN_FIT[game], atol=0.006)


def monotone_fit(table: np.ndarray) -> np.ndarray:
    """The nearest table that grows along rows and columns: projection onto one pair's half-space
    after the other (Dykstra).
    """
    pairs = [((i, j), (i + 1, j)) for i in range(2) for j in range(3)]
    pairs += [((i, j), (i, j + 1)) for i in range(3) for j in range(2)]
    x, corrections = table.copy(), {p: np.zeros(2) for p in pairs}
    for _ in range(400):
        for p in pairs:
            low, high = p
            y = np.array([x[low], x[high]]) + corrections[p]
            z = y if y[0] <= y[1] else np.full(2, y.mean())
            corrections[p] = y - z
            x[low], x[high] = z
    return x


# Pages --------------------------------------------------------------------------------------


def page(**changes: Any) -> Page:
    parts: dict[str, Any] = {
        "title": "A title",
        "setup": "What was done.",
        "grids": [Grid("Numbers", ("method", "value"), [["qmix", "1 2\n3 4"]])],
        "results": {"qmix": [1.0, 2.0]},
        "draw": lambda figure: figure.subplots().plot([0, 1], [0, 1]),
        "notes": ["A note."],
    }
    return Page(**{**parts, **changes})


def test_a_page_has_table_figure_command_versions_and_wall_clock(tmp_path: Path, capsys):
    publish(page(), Settings(tmp_path / "new" / "folder", quick=True, seeds=3), "two-step", 12.34)
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [
        "two-step.json", "two-step.md", "two-step.png",
    ]  # fmt: skip
    text = (folder / "two-step.md").read_text()
    for part in (
        "# A title", "What was done.", "![A title](two-step.png)", "| method | value |",
        "| qmix | 1 2<br>3 4 |", "- A note.", "`qtot reproduce two-step --quick --seeds 3`", "12 s",
        f"jax {jax.__version__}",
    ):  # fmt: skip
        assert part in text, part
    assert str(Path.home()) not in text and str(tmp_path) not in text
    facts = json.loads((folder / "two-step.json").read_text())
    assert facts["results"] == {"qmix": [1.0, 2.0]}
    assert facts["wall_clock_s"] == 12.3 and facts["agrees"] is True
    assert facts["versions"]["qtot"] == qtot.__version__
    assert (folder / "two-step.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "A note." in printed and "two-step.png" in printed


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QtotError, match="cannot be made"):
        publish(page(), Settings(tmp_path / "file" / "below"), "two-step", 1.0)


@pytest.mark.parametrize("seeds", [0, -1])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_seeds_are_refused_before_training(tmp_path: Path, name: str, seeds: int):
    with pytest.raises(QtotError, match=f"seeds must be .* at least 1, got {seeds}"):
        reproduce(name, seeds=seeds, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_it_came_out(tmp_path: Path, monkeypatch, agrees, code):
    from qtot.reproduce import two_step

    seen = []

    def run(settings: Settings) -> Page:
        seen.append(settings)
        return page(agrees=agrees)

    monkeypatch.setattr(two_step, "run", run)
    assert reproduce("two-step", quick=True, seeds=2, out=str(tmp_path)) == code
    assert (seen[0].quick, seen[0].seeds, seen[0].out) == (True, 2, tmp_path)
    assert (tmp_path / "two-step.md").exists()


# The experiments in miniature -----------------------------------------------------------------


def written(tmp_path: Path, name: str, made: Page) -> str:
    """Publishes the page, and returns what it says."""
    publish(made, quiet(tmp_path), name, 1.0)
    return (tmp_path / f"{name}.md").read_text()


@pytest.mark.long
def test_random_matrix_in_miniature(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(random_matrix, "QUICK", ((2, 2),))
    monkeypatch.setattr(random_matrix, "EPISODES", 4_000)
    made = random_matrix.run(quiet(tmp_path, seeds=4))
    values = made.results["2x2"]
    assert set(values) == {"iql", "vdn", "qmix"}
    for returns in values.values():
        assert len(returns) == 4 and all(0 <= r <= 1 for r in returns)
    assert np.median(values["qmix"]) > 0.9  # a 2 x 2 game is nearly always within its reach
    assert "2 agents, 2 actions" in written(tmp_path, "random-matrix", made)


@pytest.mark.long
def test_climbing_penalty_in_miniature(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(climbing_penalty, "QUICK", ("vdn",))
    config = climbing_penalty.config
    monkeypatch.setattr(climbing_penalty, "config", lambda algo, _: config(algo, 8_000))
    made = climbing_penalty.run(quiet(tmp_path, seeds=2))
    played = {25.0 * x for x in make("climbing").payoffs.ravel()}
    assert set(made.results["climbing"]["vdn"]) <= played
    assert np.median(made.results["penalty-0"]["vdn"]) == 250.0
    assert "penalty-100" in written(tmp_path, "climbing-penalty", made)


@pytest.mark.long
def test_non_monotonic_in_miniature(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(non_monotonic, "QUICK", ("vdn", "qtran"))
    monkeypatch.setattr(non_monotonic, "EPISODES", 400)
    made = non_monotonic.run(quiet(tmp_path, seeds=2))
    assert set(made.results) == {"qtran", "qplex"}
    entry = made.results["qtran"]["qtran"]
    assert len(entry["payoffs"]) == 2 and np.shape(entry["critic"]) == (3, 3)
    found = entry["payoffs"].count(8.0)
    assert made.agrees == (found == 2)  # QPLEX and the weighted ones were not asked for
    text = written(tmp_path, "non-monotonic", made)
    assert ("finds 8 on qtran in only" in text) == (not made.agrees)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        pytest.param("predator-prey", predator_prey, marks=pytest.mark.long),
        ("ablations", ablations),
    ],
)
def test_learning_curves_in_miniature(tmp_path: Path, monkeypatch, name: str, module: Any):
    """Curves come from runs; a second call trains nothing, and a cut-off run is trained anew."""
    monkeypatch.setattr(module, "METHODS_SHOWN", ("vdn", "qmix"))
    if module is predator_prey:
        monkeypatch.setattr(module, "METHODS_SHOWN", ("qmix", "cw_qmix", "ow_qmix"))
    tiny = {
        "steps": 64,
        "log_every": 32,
        "agent": {"encoder": (4,), "hidden": 4, "memory": "none"},
        "mixer": {"embed": 2, "hypernet_embed": 2},
        "critic": {"embed": 2},
        "replay": {"length": 4, "capacity": 16, "batch": 2, "warmup": 2},
        "collect": {"envs": 4},
        "evaluation": {"every": 32, "episodes": 2, "final_episodes": 2},
    }

    def config(algo: str, *_: Any, **__: Any) -> TrainConfig:
        return nested_replace(preset_config("matrix/climbing", algo), tiny)

    monkeypatch.setattr(module, "config", config)
    metric = "eval/return"
    monkeypatch.setattr(
        module,
        "train_seeds",
        lambda configs, seeds, _, settings: curves.train_seeds(configs, seeds, metric, settings),
    )
    before = jax.config.jax_compilation_cache_dir
    try:
        made = module.run(quiet(tmp_path, seeds=1))
        runs = sorted(p for p in (tmp_path / "runs").iterdir() if p.name != "cache")
        assert len(runs) == len(module.METHODS_SHOWN)
        text = written(tmp_path, name, made)
        assert all(algo in text for algo in module.METHODS_SHOWN)

        (runs[0] / "result.json").unlink()  # as if stopped before its end
        stamps = {run: (run / "metrics.jsonl").stat().st_mtime_ns for run in runs}
        said: list[str] = []
        again = module.run(Settings(tmp_path, quick=True, seeds=1, say=said.append))
        assert sum("finished before" in line for line in said) == len(runs) - 1
        changed = [r for r in runs if (r / "metrics.jsonl").stat().st_mtime_ns != stamps[r]]
        assert changed == [runs[0]]
        assert again.results == made.results  # the same seed gives the same curve
        assert again.seconds == pytest.approx(made.seconds, rel=0.9)  # of all runs, not the call's
        assert jax.config.jax_compilation_cache_dir == before
        other = nested_replace(config("qmix"), {"optimiser": {"lr": 0.1}})
        with pytest.raises(QtotError, match="other settings"):
            curves.finished(other, runs[-1], settings=quiet(tmp_path))
        assert (runs[-1] / "result.json").exists()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_every_experiment_says_how_long_it_takes():
    for experiment in EXPERIMENTS.values():
        assert re.fullmatch(r"\d+ (min|h)", experiment.full)
        assert re.fullmatch(r"\d+ min", experiment.quick)

# ruff: noqa: NPY002 (rliable draws from the global generator)
"""Numbers of a report, beside plain arithmetic and rliable; its files; what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import qtot
from command import run as command
from extras import package
from made_runs import made_run, value_of
from qtot.errors import QtotError
from qtot.evaluation import comparison
from qtot.reporting import tables
from qtot.reporting.curves import POINTS, aligned, curve, curves, metric_names
from qtot.reporting.episodes import read_checked
from qtot.reporting.files import as_marl_eval
from qtot.reporting.film import frames
from qtot.reporting.page import as_script, make_report, render
from qtot.reporting.read import read_run, read_runs
from small import small_config
from test_hostile import other_bytes, other_json, patient
from untrained import MEMORY, untrained

# Statistics -----------------------------------------------------------------------------------


def scores(runs: int, tasks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(runs, tasks)) + np.arange(tasks)


def by_task(matrix: np.ndarray) -> list[np.ndarray]:
    return list(matrix.T)


def draws_of_rliable(shape: tuple[int, int], repetitions: int, seed: int) -> list[np.ndarray]:
    """It draws from NumPy's global generator, run by task, anew for each repetition."""
    np.random.seed(seed)
    runs, tasks = shape
    drawn = [np.random.choice(runs, shape, replace=True) for _ in range(repetitions)]
    return [np.array([x[:, task] for x in drawn]) for task in range(tasks)]


@pytest.mark.parametrize("shape", [(5, 1), (10, 3)])
def test_intervals_are_those_of_rliable(shape: tuple[int, int]):
    library = package("rliable.library", "test")
    metrics = package("rliable.metrics", "test")
    matrix, taus = scores(*shape), [0.0, 0.5, 1.5]
    np.random.seed(3)
    points, intervals = library.get_interval_estimates(
        {"x": matrix}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=200
    )
    draws = draws_of_rliable(shape, 200, 3)
    np.testing.assert_allclose(comparison.iqm(by_task(matrix)), points["x"][0], rtol=1e-12)
    found = comparison.iqm_interval(by_task(matrix), draws)
    np.testing.assert_allclose(np.ravel(found), intervals["x"][:, 0], rtol=1e-12)

    np.random.seed(4)
    profile, bounds = library.create_performance_profile({"x": matrix}, np.array(taus), reps=200)
    np.testing.assert_allclose(comparison.profile(by_task(matrix), taus), profile["x"])
    found = comparison.profile_interval(by_task(matrix), taus, draws_of_rliable(shape, 200, 4))
    np.testing.assert_allclose(found, bounds["x"], rtol=1e-12, atol=1e-12)


def test_the_probability_of_improvement_is_that_of_rliable():
    library = package("rliable.library", "test")
    metrics = package("rliable.metrics", "test")
    x, y = np.round(scores(6, 3, 1), 1), np.round(scores(8, 3, 2), 1)
    y[0] = x[0]  # some ties
    found = comparison.improvement(by_task(x), by_task(y))
    assert found == pytest.approx(metrics.probability_of_improvement(x, y))
    whole = comparison.improvement_interval(
        by_task(x), by_task(y), [np.arange(6)[None]] * 3, [np.arange(8)[None]] * 3
    )
    assert whole == pytest.approx((found, found))

    def estimate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.array([metrics.probability_of_improvement(x, y)])

    np.random.seed(5)
    _, intervals = library.get_interval_estimates({"x,y": (x, y)}, estimate, reps=200)
    np.random.seed(5)  # it draws of both in turn
    drawn = [[np.random.choice(len(z), z.shape) for z in (x, y)] for _ in range(200)]
    of_x, of_y = ([np.array([d[k][:, task] for d in drawn]) for task in range(3)] for k in range(2))
    bounds = comparison.improvement_interval(by_task(x), by_task(y), of_x, of_y)
    np.testing.assert_allclose(bounds, intervals["x,y"][:, 0], rtol=1e-12)


def test_intervals_cover_what_they_should():
    """Of many samples of ten, about 95 % of the intervals hold the mean of the middle half."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        sample = [rng.normal(size=10)]
        low, high = comparison.iqm_interval(sample, comparison.drawn(sample, 300))
        hits += low <= 0.0 <= high
    assert 165 <= hits <= 199


# Reading --------------------------------------------------------------------------------------


def test_runs_are_sorted_into_methods_on_tasks(tmp_path: Path):
    for seed in range(3):
        made_run(tmp_path / f"a{seed}", seeds=[seed])
    made_run(tmp_path / "b", "vdn", seeds=[0, 1])
    made_run(tmp_path / "c", optimiser={"lr": 0.5})
    made_run(tmp_path / "d", env="matrix/climbing")
    groups = read_runs([tmp_path])
    assert [(g.task, g.label, len(g.seeds)) for g in groups] == [
        ("matrix/two_step", "qmix optimiser.lr=0.003", 3),
        ("matrix/two_step", "vdn", 2),
        ("matrix/two_step", "qmix optimiser.lr=0.5", 1),
        ("matrix/climbing", "qmix", 1),
    ]


def test_a_seed_that_was_run_twice_is_no_second_sample(tmp_path: Path):
    made_run(tmp_path / "a", seeds=[0, 1])
    made_run(tmp_path / "b", seeds=[1, 2], rows=6, finished=False)
    (group,) = read_runs([tmp_path])
    assert [(s.seed, len(s.rows)) for s in group.seeds] == [(0, 11), (1, 11), (2, 6)]
    assert group.notes == ["qmix on matrix/two_step: 1 seeds were run twice; the longer run counts"]


def test_a_run_of_which_nothing_counts_is_left_out(tmp_path: Path):
    path = made_run(tmp_path / "a", rows=3, steps=200, finished=False) / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:2]))
    made_run(tmp_path / "b", steps=200)
    report = make_report([tmp_path])
    (group,) = report.groups
    assert [run.path.name for run in group.runs] == ["b"]
    assert qtot.report(tmp_path, tmp_path / "out" / "r.html", episodes=0)


def test_methods_that_differ_have_names_that_differ(tmp_path: Path):
    """Also where the first differences are the same."""
    for i, tau in enumerate((0.1, 0.2)):
        more = {"agent": {"hidden": 9, "init": "torch"}, "mixer": {"embed": 5 + i}}
        made_run(tmp_path / f"x{i}", optimiser={"lr": 0.5}, target={"tau": tau}, **more)
    made_run(tmp_path / "y")
    groups = read_runs([tmp_path])
    assert len({group.label for group in groups}) == 3
    assert {tau for group in groups for tau in (group.runs[0].config.target.tau,)} >= {0.1, 0.2}


def test_seeds_that_ended_elsewhere_are_told(tmp_path: Path):
    made_run(tmp_path / "a", seeds=[0])
    made_run(tmp_path / "b", seeds=[1], rows=6, finished=False)
    rows = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[:3]
    (tmp_path / "b" / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    (note,) = make_report([tmp_path]).context["notes"]
    assert "its seeds ended at 400 to 1,000 steps" in note


def test_one_seed_is_sure_of_nothing(tmp_path: Path):
    made_run(tmp_path / "a")
    made_run(tmp_path / "b", "vdn")
    report = make_report([tmp_path])
    (better,) = tables.improvements(tables.scores(report.groups))
    assert better.low is None
    assert report.context["improvements"][0]["interval"] == "–"
    assert all(profile["low"] is None for profile in report.data["profiles"])


def test_thresholds_of_returns_lie_between_their_ends(tmp_path: Path):
    path = made_run(tmp_path / "a")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["eval/return"] = -1000.2 + 0.05 * i
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = read_runs([path])
    found = tables.thresholds_of(groups, "eval/return")
    np.testing.assert_allclose(found, [-1000.075, -999.95, -999.825, -999.75], atol=5e-3)
    reached = tables.reached(groups[0], "eval/return", found)
    assert [x.steps for x in reached] == sorted(x.steps for x in reached)
    assert reached[0].steps > 0
    for row in rows:
        row["eval/return"] = 1.0
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tables.thresholds_of(read_runs([path]), "eval/return") == []


def test_what_differs_between_runs_is_told(tmp_path: Path):
    made_run(tmp_path / "a", seeds=[0], log_every=500)
    made_run(tmp_path / "b", seeds=[1], log_every=250)
    (row,) = (x for x in make_report([tmp_path]).context["differences"] if x["name"] == "log_every")
    assert row["values"] == ["500 | 250"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_rows_of_no_numbers_are_refused(value: float, tmp_path: Path):
    path = made_run(tmp_path / "a")
    row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "loss": value}) + "\n")
    with pytest.raises(QtotError, match="is damaged"):
        make_report([path])


def test_an_episode_without_a_return_is_shown(tmp_path: Path):
    run = untrained(tmp_path / "run", small_config("matrix/two_step", **MEMORY))
    qtot.record(run, 1)
    facts, arrays = run._folder.read_record(0)
    arrays["returns"] = np.array([np.nan])
    run._folder.record(0, facts, arrays)
    assert make_report([run.path]).data["episodes"][0]["return"] is None
    render(make_report([run.path]))


def test_curves_are_means_of_the_middle_half_of_the_seeds(tmp_path: Path):
    made_run(tmp_path / "a", seeds=range(6), won=True)
    (group,) = read_runs([tmp_path / "a"])
    found = curve(group.seeds, "eval/win_rate", "env_steps")
    assert found is not None
    values = np.array([value_of("qmix", seed) for seed in range(6)])
    np.testing.assert_allclose(found["seeds"], values, rtol=1e-3)
    np.testing.assert_allclose(found["iqm"], stats.trim_mean(values, 0.25, axis=0), rtol=1e-3)
    assert found["x"] == [100 * i for i in range(11)]
    assert all(
        low <= mid <= high
        for low, mid, high in zip(found["low"], found["iqm"], found["high"], strict=True)
    )
    clock = curve(group.seeds, "eval/win_rate", "wall_s")
    assert clock is not None
    assert clock["x"][-1] == pytest.approx(0.5 + 10.0)  # where the fastest seed ends
    assert metric_names([group])[:4] == ["eval/win_rate", "eval/return", "loss", "q_tot"]
    assert curve(group.seeds, "eval/captures", "env_steps") is None


def test_seeds_that_were_logged_elsewhere_are_interpolated():
    a = (np.array([0.0, 50.0, 100.0]), np.array([0.0, 5.0, 10.0]))
    b = (np.array([0.0, 20.0, 80.0]), np.array([0.0, 2.0, 8.0]))
    x, values = aligned([a, b])
    assert x[-1] == 80.0
    np.testing.assert_allclose(values, [x / 10, x / 10], atol=1e-12)
    long = (np.arange(5000.0), np.arange(5000.0) % 2)
    x, values = aligned([long])
    assert len(x) == POINTS
    np.testing.assert_allclose(values, 0.5, atol=0.02)


def test_tables_say_where_seeds_ended_and_when_they_got_there(tmp_path: Path):
    made_run(tmp_path / "a", seeds=range(4), won=True)
    made_run(tmp_path / "b", "iql", seeds=range(3), won=True)
    groups = read_runs([tmp_path])
    found = {(x.group.label, x.metric): x for x in tables.finals(groups)}
    ends = [float(value_of("qmix", seed)[-1]) for seed in range(4)]
    final = found["qmix", "eval/win_rate"]
    assert final.values == pytest.approx(ends)
    assert final.iqm == pytest.approx(stats.trim_mean(ends, 0.25))
    assert final.steps == 1000
    for x in tables.reached(groups[0], "eval/win_rate", tables.THRESHOLDS):
        firsts = []
        for seed in range(4):
            there = np.flatnonzero(value_of("qmix", seed) >= x.threshold)
            firsts.append(100 * there[0] if len(there) else np.inf)
        assert x.steps == np.median(firsts)
        assert x.seeds == np.isfinite(firsts).sum()
    assert tables.reached(groups[1], "eval/win_rate", [0.9])[0].seeds == 0
    (better,) = tables.improvements(tables.scores(groups))
    assert (better.method, better.than, better.probability) == ("qmix", "iql", 1.0)
    scaled = tables.scores(read_runs([tmp_path / "a"]))["qmix"]["matrix/two_step"]
    np.testing.assert_allclose(scaled, ends)


def test_returns_are_scaled_between_the_worst_and_the_best_seed(tmp_path: Path):
    made_run(tmp_path / "a", seeds=range(3))
    made_run(tmp_path / "b", "vdn", seeds=range(3))
    by_method = tables.scores(read_runs([tmp_path]))
    ends = {a: [value_of(a, seed)[-1] for seed in range(3)] for a in ("qmix", "vdn")}
    every = np.concatenate(list(ends.values()))
    for algo, values in ends.items():
        want = (np.array(values) - every.min()) / (every.max() - every.min())
        np.testing.assert_allclose(by_method[algo]["matrix/two_step"], want, rtol=1e-6)


# Files ----------------------------------------------------------------------------------------


def test_the_numbers_lie_beside_the_page(tmp_path: Path):
    made_run(tmp_path / "a", seeds=[0, 1], won=True)
    made_run(tmp_path / "b", "vdn", won=True)
    got = command(
        f"report {tmp_path / 'a'} {tmp_path / 'b'} --out {tmp_path / 'r.html'} --episodes 0"
    )
    assert got.code == 0, got.err
    assert "r.marl-eval.json" in got.out
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = qtot.load(tmp_path / "a").metrics() + qtot.load(tmp_path / "b").metrics()
    assert len(rows) == len(metrics)
    for row, want in zip(rows, metrics, strict=True):
        assert {k: float(v) for k, v in row.items() if k in want} == pytest.approx(want)
        assert all(
            row[k] == "" for k in row if k not in want and k not in ("task", "method", "run")
        )
    said = json.loads((tmp_path / "r.tables.json").read_text())
    assert said["last_evaluation"][0]["seeds"] == [
        metrics[10]["eval/win_rate"],
        metrics[21]["eval/win_rate"],
    ]
    assert {x["method"] for x in said["time_to"]} == {"qmix", "vdn"}
    again = json.loads((tmp_path / "r.marl-eval.json").read_text())
    assert again == as_marl_eval(read_runs([tmp_path / "a", tmp_path / "b"]))
    one = again["matrix"]["two_step"]["qmix"]["seed_1"]
    assert one["step_3"] == {
        "step_count": 300,
        "elapsed_time": metrics[14]["wall_s"],
        "return": [metrics[14]["eval/return"]],
        "length": [2.0],
        "win_rate": [metrics[14]["eval/win_rate"]],
    }
    assert one["absolute_metrics"]["win_rate"] == [metrics[21]["eval/win_rate"]]
    assert len(one) == 12


def test_episodes_are_recorded_where_none_were(tmp_path: Path):
    config = small_config("matrix/two_step", **MEMORY)
    run = untrained(tmp_path / "run", config)
    own = made_run(tmp_path / "own", env="probe/memory")
    (own / "config.json").write_text(
        (own / "config.json").read_text().replace('"env": "probe/memory"', '"env": "nowhere:make"')
    )
    files = qtot.report([run, own], tmp_path / "r.html", episodes=1)
    assert run.path.joinpath("records", "seed-0.npz").is_file()
    page = files[0].read_text()
    assert "qmix on matrix/two_step, seed 0, episode 0" in page
    assert "was trained on &#39;nowhere:make&#39;, whose code is imported only" in page
    report = make_report([run.path])
    (episode,) = report.data["episodes"]
    (row,) = qtot.evaluate(run, episodes=1)
    assert episode["return"] == row["return"]


def test_records_of_other_parameters_are_told(tmp_path: Path):
    config = small_config("matrix/two_step", **MEMORY)
    run = untrained(tmp_path / "run", config)
    qtot.record(run, 1)
    assert not make_report([run.path]).context["episode_notes"]
    changed = untrained(tmp_path / "other", config, scale=0.9)
    file = Path("params", "seed-0", "last.npz")
    (run.path / file).write_bytes((changed.path / file).read_bytes())
    (note,) = make_report([run.path]).context["episode_notes"]
    assert "seed 0 has learned since its episodes were recorded" in note


def test_reports_are_read_without_jax(tmp_path: Path):
    path = made_run(tmp_path / "run", seeds=[0, 1])
    code = (
        "import sys, pathlib\n"
        "from qtot.reporting.page import make_report, render\n"
        "import qtot.reporting.watch, qtot.reporting.film\n"
        "render(make_report([pathlib.Path(sys.argv[1])]))\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


# Strangers' -----------------------------------------------------------------------------------

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028\"'&"


def test_every_text_is_escaped(tmp_path: Path):
    config = nested_evil()
    path = made_run(tmp_path / "run", agents=[EVIL, "b"], init_agents=EVIL, **config)
    facts = json.loads((path / "config.json").read_text())
    facts["versions"] = {EVIL: EVIL}
    facts["device"] = {"kind": EVIL, "count": EVIL}
    facts["git_commit"] = EVIL
    (path / "config.json").write_text(json.dumps(facts))
    page = render(make_report([path]))
    assert EVIL not in page
    assert "<script>alert" not in page
    assert "<img" not in page.split("<script>")[0]
    assert json.loads(as_script({EVIL: EVIL})) == {EVIL: EVIL}
    assert "<" not in as_script({EVIL: EVIL})


def nested_evil() -> dict[str, Any]:
    return {"host": {"info": (EVIL,), "args": (f"x={EVIL}",)}}


def test_what_cannot_be_reported_is_refused(tmp_path: Path):
    (tmp_path / "note").write_text("no run")
    for line, message in (
        (f"report {tmp_path}", "is not a run folder, and there is none in it"),
        (f"report {tmp_path / 'x'}", "is not a run folder"),
        (f"watch {tmp_path}", "is not a run folder, and there is none in it"),
        (f"render {tmp_path} --out x.gif", "is not a run folder"),
        ("report", "name the runs to report on"),
    ):
        got = command(line)
        assert got.code == 2, got
        assert message in got.err
    path = made_run(tmp_path / "run")
    got = command(f"report {path} --out {path / 'config.json' / 'r.html'} --episodes 0")
    assert got.code == 2
    for out, message in (
        (tmp_path / "r.json", "expected a page that ends in .html"),
        (path / "config.html", "is a run's or a sweep's own folder"),
    ):
        with pytest.raises(QtotError, match=message):
            qtot.report(path, out, episodes=0)
    with pytest.raises(QtotError, match="episodes must be a whole number of at least 0"):
        qtot.report(path, tmp_path / "r.html", episodes=-1)
    got = command(f"watch {path} --port 99999")
    assert got.code == 2
    assert "choose another --port" in got.err


def test_a_page_may_be_called_as_what_it_shows(tmp_path: Path):
    """What lies beside it is taken for no run's or sweep's own file."""
    made_run(tmp_path / "run")
    for name in ("sweep.html", "config.html", "sweep.html", "result.html"):
        qtot.report(tmp_path / "run", tmp_path / name, episodes=0)
    assert len(read_runs([tmp_path])) == 1


def harmed(run: qtot.Run, tmp_path: Path, tries: int, seed: int) -> int:
    """Reports of run folders with damage; how many were refused."""
    rng, refused = random.Random(seed), 0
    names = ["records/seed-0.npz"] * 3 + ["metrics.jsonl", "config.json", "result.json"]
    for number in range(tries):
        name = rng.choice(names)
        path = run.path / name
        data = path.read_bytes()
        json_like = path.suffix == ".json" and rng.random() < 0.7
        path.write_bytes(
            other_json(data.decode(), rng).encode(errors="surrogatepass")
            if json_like
            else other_bytes(data, rng)
        )
        try:
            with patient():
                render(make_report([run.path]))
        except QtotError:
            refused += 1
        except BaseException as error:
            error.add_note(f"try {number} of seed {seed}: {name}")
            raise
        finally:
            path.write_bytes(data)
    return refused


@pytest.fixture
def whole(tmp_path: Path) -> qtot.Run:
    run = untrained(tmp_path / "run", small_config("predator_prey/4x4-2v1-p2-t6", **MEMORY))
    made = made_run(tmp_path / "made", env="predator_prey/4x4-2v1-p2-t6")
    for name in ("metrics.jsonl", "result.json"):
        (run.path / name).write_bytes((made / name).read_bytes())
    qtot.record(run, 1)
    return run


def test_harmed_folders_are_reported_or_refused(whole: qtot.Run, tmp_path: Path):
    assert 10 < harmed(whole, tmp_path, 60, 0) < 60


ODD: Any = (None, math.nan, math.inf, -1, 7, 2.5, 10**400, True, "x", [], {}, [[]], 1e300)


def spoilt(facts: Any, rng: random.Random) -> Any:
    """The same, with something odd in a place that chance decides."""
    if not isinstance(facts, dict | list) or not facts or rng.random() < 0.2:
        return rng.choice(ODD)
    key: Any = rng.choice(list(facts)) if isinstance(facts, dict) else rng.randrange(len(facts))
    if isinstance(facts, dict) and rng.random() < 0.15:
        return {name: value for name, value in facts.items() if name != key}
    other = facts.copy()
    other[key] = spoilt(facts[key], rng)
    return other


def spoilt_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another type, shape or value."""
    value, place = rng.choice((math.nan, math.inf, -1, 99, 1e300)), rng.randrange(array.size)
    if rng.random() < 0.5:
        wide = array.astype(float if not math.isfinite(value) or value > 99 else array.dtype)
        with np.errstate(all="ignore"):
            np.put(wide, place, np.float64(value).astype(wide.dtype))
        return wide
    return rng.choice(
        [array.astype(float), array > 0, array[:-1], array[..., None], array[:0], np.int64(array)]
    )


def spoilt_records(run: qtot.Run, tries: int, seed: int) -> int:
    """Reports and films of records that are whole, and say something odd; how many were refused."""
    rng, refused = random.Random(seed), 0
    facts, arrays = run._folder.read_record(0)
    for number in range(tries):
        said, held = facts, dict(arrays)
        if rng.random() < 0.5:
            said = spoilt(facts, rng)
        else:
            name = rng.choice(list(arrays))
            held[name] = spoilt_array(arrays[name], rng)
        if not isinstance(said, dict):
            continue
        run._folder.record(0, said, held)
        try:
            with patient():
                report = make_report([run.path])
                if number % 10 == 0:
                    render(report)
                if report.data["episodes"]:
                    read = read_run(run.path)
                    drawn = frames(read, read_checked(read, 0), 0)
                    assert all(itertools.islice(drawn, 1 if number % 10 else None))
                else:
                    refused += 1
        except BaseException as error:
            error.add_note(f"try {number} of seed {seed}: {said if said is not facts else name}")
            raise
    return refused


RECORDED = ("predator_prey/4x4-2v1-p2-t6", "matrix/climbing", "probe/memory", "mpe/simple_spread")


@pytest.mark.parametrize("env", RECORDED)
def test_records_that_say_odd_things_are_drawn_or_refused(env: str, tmp_path: Path):
    run = untrained(tmp_path / "run", small_config(env, **MEMORY))
    (run.path / "metrics.jsonl").touch()
    qtot.record(run, 1)
    assert 5 < spoilt_records(run, 30, 0) < 30


@pytest.mark.long
@pytest.mark.parametrize("env", RECORDED)
def test_many_odd_records_are_drawn_or_refused(env: str, tmp_path: Path):
    run = untrained(tmp_path / "run", small_config(env, **MEMORY))
    (run.path / "metrics.jsonl").touch()
    qtot.record(run, 1)
    assert 50 < spoilt_records(run, 300, 1) < 300


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_thousand_harmed_folders_are_reported_or_refused(
    whole: qtot.Run, tmp_path: Path, seed: int
):
    assert 100 < harmed(whole, tmp_path, 1_000, seed) < 1_000


def test_ten_long_runs_make_a_page_of_bounded_size(tmp_path: Path):
    """10 runs of 10 million steps, logged every 10,000."""
    for i in range(10):
        algo = ("qmix", "vdn", "iql", "qmix_lin", "qplex")[i % 5]
        made_run(tmp_path / f"run{i}", algo, seeds=[i // 5], rows=1001, steps=10_000_000, won=True)
    report = make_report([tmp_path])
    assert len(render(report)) < 15_000_000
    assert len(report.groups) == 5
    assert all(len(c["lines"]["loss"]["env_steps"]["x"]) <= POINTS for c in curves(report.groups))

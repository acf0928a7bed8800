"""``qtot sweep``: its spaces, its folder, what it suggests, and that nothing of it is lost."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from command import run
from extras import needs, package
from made_runs import made_run
from qtot.cli import _command
from qtot.config import TrainConfig, nested_replace
from qtot.errors import QtotError
from qtot.presets import preset_config
from qtot.reporting.sweeps import read_all
from qtot.space import Choices, Range, Space, parse_space, size, trial_config
from qtot.store.run_folder import RunFolder
from qtot.store.sweep_folder import Sweep, Trial, held, read_sweep, write_sweep
from qtot.sweeping import begin, child
from qtot.sweeping.child import cpus_of
from qtot.sweeping.search import Settings
from qtot.sweeping.shown import Screen, command_of
from qtot.sweeping.suggest import importance, suggest
from qtot.sweeping.value import curve, lags, worth
from qtot.tracking.record import Record
from qtot.validation import validate
from test_hostile import WEIRD, patient, places, put

package("optuna", "sweep")

BASE = nested_replace(
    preset_config("matrix/two_step"),
    {"steps": 500, "log_every": 100, "replay": {"batch": 4}, "evaluation": {"every": 100}},
)
SPACE = parse_space(["optimiser.lr=1e-4..1e-2:log", "mixer.embed=4,8", "target.tau=.1..1"], BASE)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that only pretend to train, in a tenth of a second."""
    start = child.START.replace("qtot.sweeping.child", "fake_trials")
    assert start != child.START
    monkeypatch.setattr(child, "START", start)


def swept(path: Path, trials: int, jobs: int = 1, **options: Any) -> Sweep:
    """By children that pretend."""
    base, space = options.pop("base", BASE), options.pop("space", SPACE)
    return begin.sweep(path, base, space, Settings(trials, jobs, quiet=True), **options)


def by_hand(path: Path, metric: str = "eval/return") -> float:
    """A trial's value: a plain reading of its metrics."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    seeds = {row["seed"] for row in rows}
    means = []
    for seed in seeds:
        values = [r[metric] for r in rows if r["seed"] == seed and metric in r and r["env_steps"]]
        means.append(sum(values[-3:]) / 3)
    return sum(means) / len(means)


# The space ---------------------------------------------------------------------------------------

FRACTIONS = ("target.gamma", "loss.alpha", "exploration.start", "target.tau")
fractions = st.floats(1e-9, 1.0)
ranges = st.builds(
    lambda ends, log: Range(min(ends), max(ends), log),
    st.tuples(fractions, fractions).filter(lambda ends: ends[0] != ends[1]),
    st.booleans(),
)
wholes = st.builds(
    lambda ends, log: Range(min(ends), max(ends), log, whole=True),
    st.lists(st.integers(1, 2**30), min_size=2, max_size=2, unique=True),
    st.booleans(),
)
numbers = st.builds(
    lambda values: Choices(tuple(values)),
    st.lists(st.integers(1, 2**30), min_size=2, max_size=9, unique=True),
)
widths = st.builds(
    lambda values: Choices(tuple(map(tuple, values))),
    st.lists(st.lists(st.integers(1, 512), max_size=3), min_size=2, max_size=4, unique_by=tuple),
)
spaces = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(FRACTIONS, ranges),
        "mixer.embed": wholes | numbers,
        "agent.encoder": widths,
        "agent.memory": st.just(Choices(("gru", "none"))),
        "target.double_q": st.just(Choices((True, False))),
        "mixer.hypernet_layers": st.just(Choices((1, 2))),
    },
).filter(bool)


@given(spaces, st.integers())
def test_a_space_is_read_as_it_is_written(space: Space, seed: int):
    read = parse_space([f"{name}={dimension}" for name, dimension in space.items()], BASE)
    assert read == space
    rng = random.Random(seed)
    for name, dimension in read.items():
        value = dimension.draw(rng)
        assert value in dimension
        assert getattr_of(trial_config(BASE, {name: value}), name) == value


def getattr_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@settings(max_examples=25)
@given(spaces, st.integers(), st.sampled_from(["qmix", "vdn", "coma"]), st.booleans())
def test_the_command_of_a_trial_trains_it(space: Space, seed: int, algo: str, paper: bool):
    rng = random.Random(seed)
    base = preset_config("matrix/two_step", algo, "paper" if paper else "default")
    base = replace(base, seed=rng.randrange(9), steps=rng.randrange(1, 9_000))
    config = trial_config(base, {name: d.draw(rng) for name, d in space.items()})
    program, *args = shlex.split(command_of(config))
    assert program == "qtot"
    assert _command(args).config == config  # pyright: ignore[reportAttributeAccessIssue]


def test_a_searched_method_has_its_own_defaults_and_the_flags_that_were_given():
    base = replace(preset_config("matrix/two_step"), steps=77)
    assert trial_config(base, {"algo": "vdn"}) == replace(base, algo="vdn")
    coma = trial_config(base, {"algo": "coma", "mixer.embed": 3})
    expected = preset_config("matrix/two_step", "coma")
    assert expected.data == "online" != base.data
    assert coma == replace(expected, steps=77, mixer=replace(expected.mixer, embed=3))


@pytest.mark.parametrize(
    ("env", "data", "params", "own"),
    [
        ("matrix/two_step", "online", {"algo": "coma"}, ("coma", "default", "online")),
        ("matrix/two_step", "online", {"preset": "paper"}, ("qmix", "paper", "online")),
        ("smax/3m", "replay", {"data": "online"}, ("qmix", "default", "online")),
        ("smax/3m", "replay", {"algo": "vdn"}, ("vdn", "default", "replay")),
        ("smax/3m", "online", {"data": "replay"}, ("qmix", "default", "replay")),
    ],
)
def test_what_came_with_the_data_is_no_flag_that_was_given(
    env: str, data: str, params: dict[str, Any], own: tuple[str, str, str]
):
    """``--data`` decides defaults, too: a trial with other data, or another method, has its own."""
    base = replace(preset_config(env, data=data), steps=77)
    config = trial_config(base, params)
    assert config == validate(replace(preset_config(env, *own), steps=77))
    assert _command(shlex.split(command_of(config))[1:]).config == config  # pyright: ignore[reportAttributeAccessIssue]


def test_words_of_every_kind():
    words = ["optimiser.lr=1e-4..3e-3:log", "target.td-lambda = 0..1", "mixer.embed=16,32"]
    words += ["replay.length=2..64:log", "agent.encoder=64,64 64,", "target.double_q=true,False"]
    space = parse_space([*words, "mixer.hypernet-layers=1,2", "algo=qmix,vdn"], BASE)
    assert space == {
        "optimiser.lr": Range(1e-4, 3e-3, log=True),
        "target.td_lambda": Range(0.0, 1.0),
        "mixer.embed": Choices((16, 32)),
        "replay.length": Range(2, 64, log=True, whole=True),
        "agent.encoder": Choices(((64,), (64, 64), ())),
        "target.double_q": Choices((True, False)),
        "mixer.hypernet_layers": Choices((1, 2)),
        "algo": Choices(("qmix", "vdn")),
    }
    assert size({"a": Choices((1, 2)), "b": Range(1, 3, whole=True)}) == 6
    assert size(space) == math.inf


MISTAKES = {
    "lr=1..2": "unknown field 'lr'; did you mean 'optimiser.lr'?",
    "optimizer.lr=1..2": "unknown field 'optimizer.lr'; did you mean 'optimiser.lr'?",
    "xyzzy=1,2": "unknown field 'xyzzy'; see 'qtot train --help'",
    "agent=1,2": "unknown field 'agent'",
    "=1,2": "unknown field ''",
    "env=smax/3m,smax/8m": "env cannot be searched",
    "seed=0..4": "seed cannot be searched",
    "seeds=1,2": "seeds cannot be searched",
    "out=a,b": "out cannot be searched",
    "evaluation.episodes=8,16": "evaluation.episodes cannot be searched",
    "optimiser.lr": "must look like FIELD=LOW..HIGH or FIELD=A,B,C, got 'optimiser.lr'",
    "optimiser.lr=high..low": "optimiser.lr: expected a number, got 'high'",
    "optimiser.lr=1..": "optimiser.lr: expected a number, got ''",
    "optimiser.lr=": "optimiser.lr: expected a number, got ''",
    "optimiser.lr=2e-3..1e-3": "optimiser.lr: expected low below high, got 0.002..0.001",
    "optimiser.lr=1e-3..1e-3": "optimiser.lr: expected low below high",
    "optimiser.lr=1e-4..1e-3:lgo": "optimiser.lr: expected 'log' after ':', got 'lgo'",
    "optimiser.lr=nan..1": "optimiser.lr must be a finite number above 0, got nan",
    "optimiser.lr=0..1": "optimiser.lr must be a finite number above 0, got 0.0",
    "target.gamma=0..1:log": "target.gamma: a logarithm needs low above 0, got 0.0..1.0:log",
    "target.gamma=.9..2": "target.gamma must be a finite number at most 1, got 2.0",
    "mixer.embed=1.5..3": "mixer.embed: expected a whole number, got '1.5'",
    "mixer.embed=0,3": "mixer.embed must be a finite number at least 1, got 0",
    "mixer.embed=32": "mixer.embed has one value only",
    "mixer.embed=32,32": "mixer.embed=32,32 names a value twice",
    "mixer.embed=1,2 mixer.embed=3,4": "names mixer.embed twice",
    "agent.memory=gru,nnoe": "unknown value of --space agent.memory 'nnoe'; did you mean 'none'?",
    "agent.memory=gru..none": "unknown value of --space agent.memory 'gru..none'",
    "algo=qmix,qmxi": "unknown algorithm 'qmxi'; did you mean 'qmix'?",
    "target.double_q=yes,no": "target.double_q: expected true or false, got 'yes'",
    f"mixer.embed={','.join(map(str, range(1, 200)))}": "expected at most 100 values, got 199",
    f"replay.capacity=1..{2**60}": "replay.capacity: whole numbers may be at most 2**53",
    "target.n_step=2,3 target.td_lambda=.5,1": "no trial of this --space is possible: target.n_st",
    "optimiser.lr=1e-4..1e-3 --trials 0": "--trials must be a whole number of at least 1, got 0",
    "optimiser.lr=1e-4..1e-3 --jobs -1": "--jobs must be a whole number of at least 1, got -1",
    "optimiser.lr=1e-4..1e-3 --metric retrn": "unknown metric 'retrn'; did you mean 'eval/return'?",
    "optimiser.lr=1e-4..1e-3 --trails 3": "unknown flag '--trails'; did you mean '--trials'?",
    "optimiser.lr=1e-4..1e-3 --goal mxa": "unknown value of --goal 'mxa'; did you mean 'max'?",
    "optimiser.lr=1e-4..1e-3 --steps 0": "steps must be a finite number at least 1, got 0",
    "optimiser.lr=1e-4..1e-3 --env smaxx/3m": "family 'smaxx'; did you mean 'smax'?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qtot.sweeping.search.Child", lambda *_: pytest.fail("training started"))
    out = tmp_path / "sweep"
    got = run(f"sweep --env matrix/two_step --out {out} --space {words}")
    assert (got.code, got.out, got.err.count("\n")) == (2, "", 1)
    assert MISTAKES[words] in got.err
    assert not out.exists()


def test_what_is_missing_is_said():
    assert "qtot sweep: expected --space (FIELD=VALUES" in run("sweep --out a").err
    assert "qtot sweep: expected --out (DIR" in run("sweep --space mixer.embed=1,2").err


def test_help_mistakes_and_reading_load_neither_jax_nor_optuna(tmp_path: Path):
    write_sweep(Sweep(tmp_path, BASE, SPACE))
    lines = ("sweep --help", "sweep --out a --space lr=1..2", "sweep --out a --space seed=1..2")
    source = (
        "import sys; from qtot.cli import main\n"
        f"codes = [main(line.split()) for line in {lines!r}]\n"
        "from qtot.store.sweep_folder import read_sweep\n"
        f"read_sweep({str(tmp_path)!r})\n"
        "print(codes, {'jax', 'optuna', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[0, 2, 2] set()"


@pytest.mark.parametrize(
    ("module", "extra"), [("optuna", "sweep"), ("tensorboardX", "tensorboard")]
)
def test_without_a_package_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
):
    monkeypatch.setitem(sys.modules, module, None)
    got = run(f"sweep --out {tmp_path / 'a'} --track tensorboard --space mixer.embed=1,2")
    assert (got.code, got.err.count("\n")) == (2, 1)
    assert f"pip install 'qtot[{extra}]'" in got.err
    assert not (tmp_path / "a").exists()


# Suggestions -------------------------------------------------------------------------------------


def pretended(trials: int, seed: int = 0, space: Space = SPACE) -> Sweep:
    """Trials whose values are known, without any process."""
    sweep = Sweep(Path("nowhere"), replace(BASE, seed=seed), space, "eval/return")
    for number in range(trials):
        params = suggest(sweep)
        lr, embed = params["optimiser.lr"], params["mixer.embed"]
        assert isinstance(lr, float) and isinstance(embed, int)
        value = -abs(math.log10(lr) + 3) + 0.1 * embed
        done = Trial(number, params, "finished", value)
        sweep = replace(sweep, trials=(*sweep.trials, done))
    return sweep


def test_suggestions_follow_from_the_seed_and_the_trials_so_far_and_get_better():
    sweep = pretended(30)
    assert [t.params for t in pretended(30).trials] == [t.params for t in sweep.trials]
    assert pretended(3, seed=1).trials[0].params != sweep.trials[0].params
    assert suggest(replace(sweep, trials=sweep.trials[:12])) == sweep.trials[12].params
    for trial in sweep.trials:
        assert trial.params.keys() == SPACE.keys()
        assert all(value in SPACE[name] for name, value in trial.params.items())
    values = [trial.value or 0.0 for trial in sweep.trials]
    assert statistics.mean(values[20:]) > statistics.mean(values[:10]) + 0.2
    found = importance(sweep)
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "optimiser.lr"
    assert found["optimiser.lr"] > 0.5
    assert importance(replace(sweep, trials=sweep.trials[:3])) == {}


def test_no_combination_comes_twice_while_there_are_others():
    space = parse_space(["mixer.embed=4,8", "optimiser.lr=1e-3,2e-3", "agent.hidden=3..5"], BASE)
    sweep = pretended(12, space=space)
    assert len({tuple(trial.params.items()) for trial in sweep.trials}) == 12 == size(space)


@given(st.integers(1, 9), st.integers(1, 64))
def test_children_share_the_cores(jobs: int, cores: int):
    assume(hasattr(os, "sched_getaffinity"))
    allowed = os.sched_getaffinity(0)
    shares = [cpus_of(place, jobs, cores) for place in range(jobs)]
    assert set().union(*shares) <= allowed
    if jobs == 1:
        assert shares == [()]
    elif jobs <= min(cores, len(allowed)):
        assert len({cpu for share in shares for cpu in share}) == sum(map(len, shares))


def test_who_lags_behind_the_median():
    others = [[1.0, 2.0], [1.0, 3.0], [1.0, 4.0], [1.0, 5.0, 9.0]]  # then: 2 3 4 5, median 3.5
    assert lags([1.0, 3.4], others, 1.0)
    assert not lags([1.0, 3.6], others, 1.0)
    assert not lags([3.6, 0.0], others, 1.0)  # its best counts
    assert not lags([1.0, 3.4], others, -1.0)
    assert lags([4.0, 3.6], others, -1.0)
    assert not lags([0.0, 0.0, 0.0], others, 1.0)  # one other has come so far
    assert not lags([], others, 1.0)


def test_each_seed_counts_with_its_own_last_rows():
    """Also where one reports later than others, or stops earlier."""

    def rows(*seeds: list[float | None]) -> list[dict[str, Any]]:
        return [
            {"seed": seed, "env_steps": 100 * step}
            | ({} if value == -1 else {"train/return": value})
            for step in range(len(seeds[0]))
            for seed, value in enumerate(values[step] for values in seeds)
        ]

    late = rows([0, 2, 4, 6, 7, 8, 9], [-1, -1, -1, -1, -1, 10, 10])
    assert worth(late, "train/return") == (8 + 10) / 2
    assert curve(late, "train/return") == [6, 7]
    assert worth(rows([0, 3, 4, 5], [0, 6, -1, -1]), "train/return") == (4 + 6) / 2
    never = rows([0, 1, 2], [-1, -1, -1])
    assert curve(never, "train/return") == []
    with pytest.raises(QtotError, match="seed 1 never reported train/return"):
        worth(never, "train/return")
    with pytest.raises(QtotError, match="train/return is not finite at step 100"):
        worth(rows([0, None], [0, 1]), "train/return")


# The sweep ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_a_sweep_and_what_it_says(tmp_path: Path):
    out = tmp_path / "sweep"
    line = f"sweep --env matrix/two_step --steps 500 --log-every 100 --seeds 2 --out {out} --jobs 2"
    words = "--trials 3 --space optimiser.lr=1e-4..1e-2:log mixer.embed=4,8 --replay.batch 4"
    got = run(f"{line} {words}", columns=200)
    assert (got.code, got.err) == (0, "")
    sweep = read_sweep(out)
    assert (sweep.metric, sweep.goal, len(sweep.trials)) == ("eval/return", "max", 3)
    for trial in sweep.trials:
        path = sweep.run_path(trial)
        assert (trial.state, trial.reason) == ("finished", "")
        assert trial.value == pytest.approx(by_hand(path), abs=1e-12)
        assert trial.seconds == 0.5 * 500 + 2.0
        assert RunFolder(path).facts()[0].optimiser.lr == trial.params["optimiser.lr"]
        said = f"{trial.name} of 3: finished at eval/return {trial.value:.4g} after 252 s"
        assert said in got.out
    best, *rest = sweep.ranked()
    assert all((best.value or 0) >= (trial.value or 0) for trial in rest)
    rows = [row for row in got.out.splitlines() if row.startswith("│")]
    assert [str(sweep.run_path(t)) in row for t, row in zip(sweep.ranked(), rows, strict=True)]
    command = got.out.split("the best alone: qtot ")[1].strip()
    assert _command(shlex.split(command)).config == sweep.config_of(best)  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(p.name for p in out.iterdir()) == [
        *("lock", "sweep.json", "trial-0000", "trial-0001", "trial-0002")
    ]
    again = run(f"{line} {words}")
    assert again.code == 0
    assert read_sweep(out) == sweep
    refused = run(f"{line} {words} --agent.hidden 3")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "holds a sweep with agent.hidden 64, not 3" in refused.err
    refused = run(f"{line} {words.replace('4,8', '4,9')}")
    assert "holds a sweep with space mixer.embed=4,8 opt" in refused.err


@pytest.mark.usefixtures("fake")
def test_going_on_tries_what_would_have_been_tried(tmp_path: Path):
    straight = swept(tmp_path / "a", 3)
    begun = swept(tmp_path / "b", 1)
    times = [(begun.run_path(t) / "result.json").stat().st_mtime_ns for t in begun.trials]
    gone_on = swept(tmp_path / "b", 3)
    assert [t.params for t in gone_on.trials] == [t.params for t in straight.trials]
    assert [t.value for t in gone_on.trials] == [t.value for t in straight.trials]
    assert times == [(begun.run_path(t) / "result.json").stat().st_mtime_ns for t in begun.trials]


@pytest.mark.usefixtures("fake")
def test_less_may_be_better_and_a_space_may_be_exhausted(tmp_path: Path):
    space = parse_space(["optimiser.lr=1e-3,1e-2,1e-1"], BASE)
    sweep = swept(tmp_path / "a", 9, jobs=3, space=space, goal="min", metric="eval/return")
    assert [t.params["optimiser.lr"] for t in sweep.ranked()] == [1e-1, 1e-2, 1e-3]
    with pytest.raises(QtotError, match="with goal min, not max"):
        swept(tmp_path / "a", 9, space=space)


@pytest.mark.usefixtures("fake")
def test_what_fails_or_is_impossible_does_not_stop_the_sweep(tmp_path: Path):
    words = ["replay.batch=4,8,9,10", "target.n_step=1,2", "target.td_lambda=0,0.5"]
    space = parse_space(words, BASE)
    sweep = swept(tmp_path / "a", 16, jobs=2, space=space)
    reasons = {8: "the fake mistake", 9: "exit code 1 RuntimeError: the fake crash", 10: "signal 9"}
    assert len(sweep.trials) == 16 == size(space)
    for trial in sweep.trials:
        batch = trial.params["replay.batch"]
        if trial.params["target.n_step"] == 2 and trial.params["target.td_lambda"] == 0.5:
            assert trial.state == "impossible"
            assert "exclude each other" in trial.reason
            assert not sweep.run_path(trial).exists()
        elif batch == 4:
            assert trial.state == "finished"
        else:
            assert (trial.state, trial.reason) == ("failed", reasons[batch])  # pyright: ignore[reportArgumentType]
    assert read_sweep(tmp_path / "a") == sweep


@pytest.mark.usefixtures("fake")
def test_where_nothing_works_that_is_said_soon(tmp_path: Path):
    base = nested_replace(BASE, {"replay": {"batch": 8}})
    with pytest.raises(QtotError, match="3 trials failed alike, and none finished: the fake mist"):
        swept(tmp_path / "a", 20, base=base)
    assert len(read_sweep(tmp_path / "a").trials) == 3
    out = tmp_path / "b"
    words = f"--trials 2 --replay.batch 8 --space mixer.embed=4,8 --out {out}"
    assert run(f"sweep --env matrix/two_step {words}").code == 1


@pytest.mark.usefixtures("fake")
@needs("tensorboardX")
def test_a_tracker_that_cannot_begin_costs_no_trial(tmp_path: Path):
    tracked = Settings(3, 1, quiet=True, track=("tensorboard",))
    with pytest.raises(QtotError, match=r"trial-0000: tracker x cannot begin \(no route\); go on"):
        begin.sweep(tmp_path / "a", BASE, SPACE, tracked)
    assert [trial.state for trial in read_sweep(tmp_path / "a").trials] == ["running"]
    assert [trial.state for trial in swept(tmp_path / "a", 3).trials] == ["finished"] * 3


@pytest.mark.usefixtures("fake")
def test_failures_that_name_their_trials_are_alike(tmp_path: Path):
    base = nested_replace(BASE, {"replay": {"batch": 12}})
    with pytest.raises(QtotError, match=r"3 trials failed alike, .*/a/trial-0002 is no good"):
        swept(tmp_path / "a", 20, base=base)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_sweep_goes_on_where_its_output_has_no_room(monkeypatch: pytest.MonkeyPatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        Screen(1, quiet=False).say("nobody will read this")
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        with contextlib.suppress(OSError):
            full.close()


@pytest.mark.usefixtures("fake")
def test_a_trial_that_lags_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qtot.sweeping.search.LOOK", 0.1)
    space = parse_space(["optimiser.lr=1e-3..2e-3", "replay.batch=16,17"], BASE)
    begun = swept(tmp_path / "a", 4, jobs=2, space=space, prune=True)
    assert all(trial.state == "finished" for trial in begun.trials)
    slow = {"optimiser.lr": 1e-1, "replay.batch": 1000}
    wide = {"optimiser.lr": Range(1e-3, 1e-1), "replay.batch": Choices((16, 17, 1000))}
    write_sweep(replace(begun, space=wide, trials=(*begun.trials, Trial(4, slow))))
    sweep = swept(tmp_path / "a", 5, space=wide, prune=True)
    last = sweep.trials[4]
    assert last.state == "pruned"
    assert last.value is not None and last.value < -1
    assert not RunFolder(sweep.run_path(last)).result()
    assert last not in sweep.ranked()
    assert read_sweep(tmp_path / "a") == sweep


# Nothing is lost ---------------------------------------------------------------------------------


def pretending(out: Path) -> subprocess.Popen[str]:
    """``qtot sweep`` in a process of its own, whose children pretend to train for a second."""
    start = child.START.replace("qtot.sweeping.child", "fake_trials")
    source = (
        f"from qtot.sweeping import child; child.START = {start!r}\n"
        "from qtot.cli import command; command()"
    )
    words = f"sweep --env matrix/two_step --steps 2000 --log-every 100 --out {out} --trials 3 "
    words += "--jobs 2 --replay.batch 60 --space optimiser.lr=1e-4..1e-2:log"
    return subprocess.Popen(
        [sys.executable, "-c", source, *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent,
    )


def children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def until(what: Any, patience: float = 60.0) -> Any:
    """What becomes true in time."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    """Ended, or waiting for whoever inherited it to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_ended_leaves_no_process_and_goes_on(tmp_path: Path, number: int):
    out = tmp_path / "a"

    def rows() -> int:
        found = out.glob("trial-*/metrics.jsonl")
        return min([len(path.read_text().splitlines()) for path in found] or [0])

    with pretending(out) as process:
        until(lambda: rows() > 3)
        pids = children(process.pid)
        assert len(pids) == 2
        process.send_signal(number)
        said, _ = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    if number != signal.SIGKILL:
        assert "go on with the same command" in said
    until(lambda: all(map(gone, pids)), 10)
    begun = read_sweep(out)
    assert [trial.state for trial in begun.trials] == ["running", "running"]
    before = [RunFolder(begun.run_path(t)).metrics() for t in begun.trials]
    with pretending(out) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    sweep = read_sweep(out)
    assert [t.state for t in sweep.trials] == ["finished"] * 3
    assert [t.params for t in sweep.trials[:2]] == [t.params for t in begun.trials]
    for trial, kept in zip(sweep.trials, before, strict=False):
        rows_now = RunFolder(sweep.run_path(trial)).metrics()
        assert rows_now[: len(kept)] == kept
        assert [row["env_steps"] for row in rows_now] == list(range(0, 2001, 100))


@pytest.mark.usefixtures("fake")
def test_one_process_searches_a_folder(tmp_path: Path):
    with held(tmp_path / "a"), pytest.raises(QtotError, match=f"written by process {os.getpid()}"):
        swept(tmp_path / "a", 1)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("raised", [SystemExit(1), RuntimeError("a bug")])
def test_whatever_ends_a_sweep_trials_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException
):
    """Rich turns a pipe that is closed, as by ``head``, into the former."""
    killed: list[int] = []

    def ended(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(Screen, "ended", ended)
    monkeypatch.setattr(child.Child, "kill", lambda self: killed.append(self.place))
    space = parse_space(["replay.batch=16,3000"], BASE)
    with pytest.raises(type(raised)):
        swept(tmp_path / "a", 2, jobs=2, space=space)
    trials = read_sweep(tmp_path / "a").trials
    states = {trial.params["replay.batch"]: trial.state for trial in trials}
    assert states == {16: "finished", 3000: "running"} and not killed


@pytest.mark.usefixtures("fake")
def test_a_trial_that_an_earlier_child_still_saves_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun = Sweep(tmp_path / "a", BASE, SPACE)
    trial = Trial(0, suggest(begun))
    begun = replace(begun, trials=(trial,))
    begun.path.mkdir()
    write_sweep(begun)
    monkeypatch.setattr("qtot.sweeping.search.PATIENCE", 0.2)
    wait = pytest.raises(QtotError, match=r"wait until it ends.*; go on with the same command")
    with RunFolder(begun.run_path(trial)).held(), wait:
        swept(begun.path, 2)
    states = [trial.state for trial in read_sweep(begun.path).trials]
    assert states == ["running", "finished"]
    monkeypatch.setattr("qtot.sweeping.search.PATIENCE", 30.0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(RunFolder(begun.run_path(trial)).held())
        threading.Timer(0.5, stack.pop_all().close).start()
        assert [trial.state for trial in swept(begun.path, 2).trials] == ["finished"] * 2


@pytest.mark.usefixtures("fake")
def test_only_the_trial_whose_folder_is_no_good_fails(tmp_path: Path):
    begun = Sweep(tmp_path / "a", BASE, SPACE)
    begun.path.mkdir()
    for number in range(2):
        begun = replace(begun, trials=(*begun.trials, Trial(number, suggest(begun))))
    write_sweep(begun)
    begun.run_path(begun.trials[0]).mkdir()
    (begun.run_path(begun.trials[0]) / "lock").symlink_to("/etc/passwd")
    before = time.monotonic()
    failed, other = swept(begun.path, 2).trials
    assert (failed.state, other.state) == ("failed", "finished")
    assert "leads out of the run folder" in failed.reason
    assert time.monotonic() - before < 60  # it is not waited for


def test_a_sweep_does_not_begin_in_a_run_folder(tmp_path: Path):
    run_folder = made_run(tmp_path / "run")
    before = sorted(run_folder.rglob("*"))
    with pytest.raises(QtotError, match="holds a run; choose another --out"):
        swept(run_folder, 1)
    assert sorted(run_folder.rglob("*")) == before


@pytest.mark.usefixtures("fake")
def test_a_trials_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sweep, look = swept(tmp_path / "a", 1), Path.is_file
    write_sweep(replace(sweep, trials=(Trial(0, sweep.trials[0].params),)))

    def is_file(path: Path) -> bool:
        if path.parent.name == "trial-0000":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    said = r"cannot read the run folder .*trial-0000 \(Permission denied\)"
    with pytest.raises(QtotError, match=said):
        read_all([sweep.path])
    (failed,) = swept(tmp_path / "a", 1).trials
    assert failed.state == "failed" and re.search(said, failed.reason)


@needs("tensorboardX")
def test_real_trials(tmp_path: Path):
    """Two, one after the other, with a tracker, that train what is the same program."""
    out = tmp_path / "a"
    words = "--env matrix/two_step --steps 400 --log-every 100 --evaluation.every 100 --seeds 2 "
    words += "--evaluation.episodes 4 --evaluation.final-episodes 4 --agent.hidden 4 "
    words += "--agent.memory none --mixer.embed 4 --jobs 1 --trials 2 --track tensorboard "
    words += f"--space host.failures=1,2 --out {out}"
    command = [sys.executable, "-m", "qtot", "sweep", *words.split()]
    env = {**os.environ, "QTOT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    sweep = read_sweep(out)
    assert [trial.state for trial in sweep.trials] == ["finished"] * 2
    for trial in sweep.trials:
        path = sweep.run_path(trial)
        assert trial.value == pytest.approx(by_hand(path), abs=1e-12)
        config = RunFolder(path).facts()[0]
        assert config.host.failures == trial.params["host.failures"]
        end = RunFolder(path).metrics()[-1]["env_steps"]
        assert end >= 400 and Record.of(RunFolder(path)).given == {"tensorboard": {0: end, 1: end}}
        assert len(list(path.glob("tensorboard/seed-*/events.out.*"))) == 2


@pytest.mark.long
@needs_proc
def test_real_trials_survive_a_kill(tmp_path: Path):
    """Trained, killed with the sweep, gone on with: as many trials as were asked for, none twice,
    and the values that their metrics have.
    """
    out = tmp_path / "a"
    words = "--env matrix/two_step --steps 4000 --log-every 100 --evaluation.every 500 --seeds 2 "
    words += "--evaluation.episodes 4 --evaluation.final-episodes 4 --checkpoint.steps 300 "
    words += "--agent.hidden 4 --agent.memory none --mixer.embed 4 --jobs 2 --trials 3 "
    # What decides nothing here: one program for all of them, compiled once.
    words += f"--space host.failures=1..3 --out {out}"
    command = [sys.executable, "-m", "qtot", "sweep", *words.split()]
    env = {**os.environ, "QTOT_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        until(lambda: len(list(out.glob("trial-*/checkpoints/step-*"))) > 3)
        pids = children(process.pid)
        process.kill()
    until(lambda: all(map(gone, pids)), 20)
    begun = read_sweep(out)
    steps = [
        [row["env_steps"] for row in RunFolder(path).metrics()]
        for path in sorted(out.glob("trial-*/"))
    ]
    assert any(steps)
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sweep = read_sweep(out)
    assert [t.state for t in sweep.trials] == ["finished"] * 3
    assert [t.params for t in sweep.trials[: len(begun.trials)]] == [t.params for t in begun.trials]
    assert sorted(map(str, (t.params["host.failures"] for t in sweep.trials))) == ["1", "2", "3"]
    for trial in sweep.trials:
        path = sweep.run_path(trial)
        assert trial.value == pytest.approx(by_hand(path), abs=1e-12)
        assert RunFolder(path).facts()[0].host.failures == trial.params["host.failures"]
        seen = [row["env_steps"] for row in RunFolder(path).metrics() if row["seed"] == 0]
        assert seen == sorted(set(seen))
    for path, before in zip(sorted(out.glob("trial-*/")), steps, strict=False):
        now = [row["env_steps"] for row in RunFolder(path).metrics()]
        assert now[: len(before)] == before  # gone on with, not begun anew


# Strangers' folders ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a sweep with trials in every state."""
    folder = tmp_path_factory.mktemp("sweep")
    space = parse_space(["agent.encoder=4,8 8", "optimiser.lr=1e-4..1e-2:log"], BASE)
    params = {"agent.encoder": (8, 8), "optimiser.lr": 1e-3}
    trials = (
        Trial(0, params, "finished", 1.0, 2.0),
        Trial(1, params, "pruned", 0.5, 1.0),
        Trial(2, params, "failed", reason="why"),
        Trial(3, params),
    )
    sweep = Sweep(folder, BASE, space, "eval/return", "max", False, trials, {"optimiser.lr": 1.0})
    write_sweep(sweep)
    assert read_sweep(folder) == sweep
    return json.loads((folder / "sweep.json").read_text())


def test_a_strangers_sweep_is_read_or_refused_with_words(tmp_path: Path, facts: dict[str, Any]):
    rng, refused = random.Random(0), 0
    spots = [*places(facts)]
    own = [spot for spot in spots if spot[:1] != ("config",)]
    with patient():
        for i in range(400):
            new = put(copy.deepcopy(facts), rng.choice(own if i % 2 else spots), rng.choice(WEIRD))
            text = json.dumps(new)
            if i % 10 == 0:
                text = text[: rng.randrange(len(text))]
            (tmp_path / "sweep.json").write_text(text)
            try:
                sweep = read_sweep(tmp_path)
            except QtotError as error:
                refused += 1
                assert str(error).startswith(str(tmp_path))
            else:
                assert all(trial.params.keys() == sweep.space.keys() for trial in sweep.trials)
                sweep.ranked()
    assert refused > 200
    assert "trojan" not in sys.modules


def test_what_is_no_sweep_is_refused(tmp_path: Path):
    with pytest.raises(QtotError, match="is not a sweep: it has no"):
        read_sweep(tmp_path)
    for content in (b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"3", b"{}"):
        (tmp_path / "sweep.json").write_bytes(content)
        with pytest.raises(QtotError, match="damaged, or no sweep"):
            read_sweep(tmp_path)
    (tmp_path / "sweep.json").unlink()
    os.mkfifo(tmp_path / "sweep.json")
    with pytest.raises(QtotError, match="is not a sweep"):
        read_sweep(tmp_path)
    with pytest.raises(QtotError, match="cannot be made"):
        swept(tmp_path / "sweep.json", 1)


@pytest.mark.usefixtures("fake")
def test_a_trials_folder_that_holds_something_else_is_left_alone(tmp_path: Path):
    other = swept(tmp_path / "other", 1)
    elsewhere = other.run_path(other.trials[0])
    base, space = replace(BASE, steps=300), parse_space(["optimiser.lr=1e-4..1e-2"], BASE)
    path = tmp_path / "a"
    path.mkdir()
    sweep = Sweep(path, base, space)
    for number in range(3):
        sweep = replace(sweep, trials=(*sweep.trials, Trial(number, suggest(sweep))))
    write_sweep(sweep)
    shutil.copytree(elsewhere, path / "trial-0000")
    (path / "trial-0001").symlink_to(elsewhere)
    (path / "trial-0002.log").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("x")
    before, locked = ((elsewhere / name).read_bytes() for name in ("metrics.jsonl", "lock"))
    done = swept(path, 3, base=base, space=space)
    assert [t.state for t in done.trials] == ["failed", "failed", "finished"]
    assert "holds another run; move it away" in done.trials[0].reason
    assert "is a link" in done.trials[1].reason
    assert (path / "trial-0000" / "metrics.jsonl").read_bytes() == before
    assert (elsewhere / "metrics.jsonl").read_bytes() == before
    assert (elsewhere / "lock").read_bytes() == locked
    assert (tmp_path / "precious").read_text() == "x"


def test_the_configuration_of_a_sweep_is_that_of_train():
    args = "--env matrix/two_step --algo vdn --agent.hidden 9 --space mixer.embed=1,2 --out a"
    command = _command(["sweep", *args.split()])
    base = preset_config("matrix/two_step", "vdn")
    expected: TrainConfig = replace(base, agent=replace(base.agent, hidden=9))
    assert command.config == expected  # pyright: ignore[reportAttributeAccessIssue]

"""The command: its help, its defaults, and what it calls (faked here)."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

import qtot
import qtot.cli
from command import plain, run
from qtot.config import TrainConfig
from qtot.errors import QtotWarning
from qtot.presets import preset_config


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What ``qtot train`` asked for, instead of the training."""
    calls: list[SimpleNamespace] = []

    def train_config(
        config: TrainConfig,
        out: str | None = None,
        *,
        quiet: bool = False,
        debug_nans: bool = False,
        track: tuple[str, ...] = (),
    ) -> None:
        assert not debug_nans and not track
        calls.append(SimpleNamespace(config=config, out=out, quiet=quiet))

    monkeypatch.setattr("qtot.api.train_config", train_config)
    return calls


def documented(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flag and docstring of every field, read from the source (tyro reads them its own way)."""
    tree = ast.parse(inspect.getsource(type(config)))
    docs = {
        a.target.id: b.value.value
        for a, b in itertools.pairwise(next(ast.iter_child_nodes(tree)).body)
        if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr)
    }
    for f in fields(config):
        value, name = getattr(config, f.name), f.name.replace("_", "-")
        if is_dataclass(value):
            yield from documented(value, f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}", plain(docs.get(f.name, ""))


FLAGS = dict(documented(TrainConfig()))


@functools.cache
def help_of_train() -> str:
    return plain(run("train --help").out)


def test_help_and_version():
    top = run("--help")
    assert (top.code, top.err) == (0, "")
    for name in ("train", "eval", "envs", "reproduce"):
        assert f"• {name} " in top.out
        own = run(f"{name} --help")
        assert (own.code, own.err) == (0, "")
        assert f"usage: qtot {name} " in own.out
    assert run("--version").out == f"qtot {qtot.__version__}\n"


@pytest.mark.parametrize("flag", FLAGS)
def test_every_option_is_documented_in_the_help_of_train(flag: str):
    assert FLAGS[flag], f"{flag} has no docstring"
    entry = rf"{re.escape(flag)}(?![-\w]).{{0,80}}? {re.escape(FLAGS[flag])}"
    assert re.search(entry, help_of_train())


def test_help_shows_the_defaults_of_the_environment_and_preset():
    for args in ("train --env matrix/two_step --help", "train --help --env=matrix/two_step"):
        steps = preset_config("matrix/two_step").steps
        assert f"each seed (default: {steps})" in plain(run(args).out)
    assert "(default: rmsprop)" in plain(run("train --preset paper --help").out)
    assert "(default: rmsprop)" not in help_of_train()


def test_without_flags_train_gets_the_preset(trained: list[SimpleNamespace]):
    assert run("train").code == 0
    assert trained == [SimpleNamespace(config=preset_config("smax/3m"), out=None, quiet=False)]


def test_env_algo_and_preset_decide_the_defaults_wherever_they_stand(
    trained: list[SimpleNamespace],
):
    for line in (
        "train --env matrix/climbing --algo vdn --seed 3",
        "train --seed=3 --algo=vdn --env=matrix/climbing",
        "train --env smax/3m --seed 3 --algo vdn --env matrix/climbing",
    ):
        assert run(line).code == 0
        assert trained.pop().config == replace(preset_config("matrix/climbing", "vdn"), seed=3)
    assert run("train --preset paper --algo iql --env smax/8m").code == 0
    assert trained.pop().config == preset_config("smax/8m", "iql", "paper")


def test_flags_reach_the_configuration(trained: list[SimpleNamespace]):
    got = run(
        "train --agent.hidden 128 --agent.encoder 32 16 --target.td-lambda 0.8 --log_every 7 "
        "--target.no_double_q --optimiser.lr=1e-3 --mixer.hypernet_layers 1 --out a/b --quiet"
    )
    assert (got.code, got.out, got.err) == (0, "", "")
    (call,) = trained
    assert (call.out, call.quiet) == ("a/b", True)
    base = preset_config("smax/3m")
    assert call.config == replace(
        base,
        log_every=7,
        agent=replace(base.agent, hidden=128, encoder=(32, 16)),
        target=replace(base.target, td_lambda=0.8, double_q=False),
        optimiser=replace(base.optimiser, lr=1e-3),
        mixer=replace(base.mixer, hypernet_layers=1),
    )


def test_an_unknown_task_names_the_nearest(tmp_path: Any):
    got = run(("train", "--env", "matrix/two_stp", "--out", str(tmp_path / "run")))
    assert got.code == 2
    assert "unknown task of matrix/ 'two_stp'; did you mean 'two_step'?" in got.err
    assert got.err.count("\n") == 1


def test_eval_plays_the_run_that_it_is_given(monkeypatch: pytest.MonkeyPatch):
    def load(path: str, which: str, *, trust: bool) -> str:
        return f"{which} of {path}" + ", trusted" * trust

    def evaluate(of: str, *, episodes: int, seed: int, env: str | None) -> str:
        return f"{of}: {episodes} episodes, seed {seed}" + (f", on {env}" if env else "")

    monkeypatch.setattr("qtot.api.load", load)
    monkeypatch.setattr("qtot.api.evaluate", evaluate)
    monkeypatch.setattr("qtot.evaluation.table.print_evaluation", print)
    assert run("eval runs/a").out == "last of runs/a: 256 episodes, seed 0\n"
    got = run("eval runs/a --which best --seed 4 --episodes 8")
    assert got.out == "best of runs/a: 8 episodes, seed 4\n"
    got = run("eval runs/a --trust")
    assert got.out == "last of runs/a, trusted: 256 episodes, seed 0\n"
    got = run("eval runs/a --env own_env:make")
    assert got.out == "last of runs/a: 256 episodes, seed 0, on own_env:make\n"


def test_reproduce_answers_with_its_own_exit_code(monkeypatch: pytest.MonkeyPatch):
    said: list[Any] = []

    def reproduce(experiment: str, **options: Any) -> int:
        said.append((experiment, options))
        return 1 if options["seeds"] == 2 else 0

    monkeypatch.setattr("qtot.reproduce.reproduce", reproduce)
    assert run("reproduce two-step").code == 0
    assert run("reproduce two-step --quick --seeds 2 --out a").code == 1
    assert said == [
        ("two-step", {"quick": False, "seeds": None, "out": None}),
        ("two-step", {"quick": True, "seeds": 2, "out": "a"}),
    ]


def test_interrupting_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qtot.api.train_config", stop)
    got = run("train")
    assert (got.code, got.err) == (130, "qtot: interrupted\n")


def program(*args: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], check=False, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_our_warnings_are_one_line_and_others_are_pythons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def warning(args: Any) -> int:
        warnings.simplefilter("always")
        warnings.warn("two\nlines", QtotWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
        return 0

    theirs: list[str] = []
    monkeypatch.setattr("qtot.cli._run", warning)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: theirs.append(str(message))
        assert qtot.cli.main([]) == 0
    assert theirs == ["theirs"]
    assert capsys.readouterr().err == "qtot: warning: two lines\n"


def test_help_and_mistakes_do_not_load_jax():
    lines = ("--help", "--version", "train --help", "train --stpes 4", "train --steps 0", "tran")
    source = (
        "import sys; from qtot.cli import main\n"
        f"codes = [main(line.split()) for line in {lines!r}]\n"
        "heavy = {'jax', 'numpy', 'optax', 'equinox', 'scipy', 'jaxmarl', 'jaxtyping', 'rich'}\n"
        "print(codes, heavy & set(sys.modules), file=sys.stderr)"
    )
    assert program("-c", source).stderr.splitlines()[-1] == "[0, 0, 0, 2, 2, 2] set()"


def test_as_a_program():
    done = program("-m", "qtot", "train", "--steps", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("qtot: error: steps must be")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("line", ["train --help", "envs matrix"])
def test_a_reader_that_leaves_early_is_no_traceback(line: str):
    read, write = os.pipe()
    os.close(read)
    try:
        done = program("-m", "qtot", *line.split(), stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")

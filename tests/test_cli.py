"""The command: its help, its defaults, and one line for every mistake. What it calls is faked."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import qtot
from qtot.cli import main
from qtot.config import TrainConfig
from qtot.envs import FAMILIES, make_env, tasks
from qtot.envs.spec import EnvSpec
from qtot.listing import _table
from qtot.presets import preset_config

Command = Callable[..., SimpleNamespace]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``qtot`` in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args: str) -> SimpleNamespace:
        code = main(args)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What ``qtot train`` asked for, instead of the training."""
    calls: list[SimpleNamespace] = []

    def train_config(config: TrainConfig, out: str | None = None, *, quiet: bool = False) -> None:
        calls.append(SimpleNamespace(config=config, out=out, quiet=quiet))

    monkeypatch.setattr("qtot.api.train_config", train_config)
    return calls


def plain(text: str) -> str:
    """Without frames and line breaks."""
    return " ".join(re.sub(r"[╭╮╰╯│─]", " ", text).split())


def documented(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flag and docstring of every field, read from the source (tyro reads them its own way)."""
    body = ast.parse(inspect.getsource(type(config))).body[0].body  # type: ignore[attr-defined]
    after = dict(zip(body, body[1:], strict=False))
    nodes = {n.target.id: after.get(n) for n in body if isinstance(n, ast.AnnAssign)}  # type: ignore[union-attr]
    for f in fields(config):
        value, name = getattr(config, f.name), f.name.replace("_", "-")
        if is_dataclass(value):
            yield from documented(value, f"{prefix}{name}.")
            continue
        node = nodes[f.name]
        text = node.value.value if isinstance(node, ast.Expr) else ""  # type: ignore[attr-defined]
        yield f"--{prefix}{name}", plain(text)


FLAGS = dict(documented(TrainConfig()))


def test_help_and_version(command: Command):
    top = command("--help")
    assert (top.code, top.err) == (0, "")
    for name in ("train", "eval", "envs", "reproduce"):
        assert f"• {name} " in top.out
        own = command(name, "--help")
        assert (own.code, own.err) == (0, "")
        assert f"usage: qtot {name} " in own.out
    assert command("--version").out == f"qtot {qtot.__version__}\n"


@pytest.mark.parametrize("flag", FLAGS)
def test_every_option_is_documented_in_the_help_of_train(flag: str, command: Command):
    said = plain(command("train", "--help").out)
    assert FLAGS[flag], f"{flag} has no docstring"
    assert re.search(rf"{re.escape(flag)}(?![-\w]).{{0,80}}? {re.escape(FLAGS[flag])}", said)


def test_help_shows_the_defaults_of_the_environment_and_preset(command: Command):
    assert "each seed (default: 20000)" in plain(
        command("train", "--help", "--env", "matrix/two_step").out
    )
    assert "(default: rmsprop)" in plain(command("train", "--preset=paper", "--help").out)


MISTAKES = {
    "": "expected a command: train, eval, envs, reproduce",
    "tran": "unknown command 'tran'; did you mean 'train'?",
    "xyzzy": "unknown command 'xyzzy'; choose one of: train, eval, envs, reproduce",
    "--seeds 2 train": "expected a command before '--seeds'",
    "train --stpes 4": "unknown flag '--stpes'; did you mean '--steps'?",
    "train --stpes=4": "unknown flag '--stpes'; did you mean '--steps'?",
    "train -steps 4": "unknown flag '-steps'; did you mean '--steps'?",
    "train --agnet.hiden 4": "unknown flag '--agnet.hiden'; did you mean '--agent.hidden'?",
    "train --lr 1": "unknown flag '--lr'; did you mean '--optimiser.lr'?",
    "train --TD_lambda 1": "unknown flag '--TD_lambda'; did you mean '--target.td-lambda'?",
    "train --xyzzy": "unknown flag '--xyzzy'; 'qtot train --help' lists those there are",
    "train 3m": "unexpected argument '3m'",
    "train --target.double_q False": "write --target.double-q or --target.no-double-q",
    "train --steps abc": "--steps: expected a whole number, got 'abc'",
    "train --steps 1.5": "--steps: expected a whole number, got '1.5'",
    "train --target.gamma high": "--target.gamma: expected a number, got 'high'",
    "train --agent.encoder 64 x": "--agent.encoder: expected numbers, got ['64', 'x']",
    "train --steps": "--steps: expected a value",
    "train --seeds --quiet": "--seeds: expected a value",
    "train --env": "--env: expected a value",
    "train --agent.memory gur": "unknown value of --agent.memory 'gur'; did you mean 'gru'?",
    "train --mixer.hypernet-layers 3": "--mixer.hypernet-layers '3'; choose one of: 1, 2",
    "train --replay.sequences segmnets": "did you mean 'segments'?",
    "train --steps 0": "steps must be a finite number at least 1 and at most 2147483647, got 0",
    "train --steps -5": "got -5",
    "train --seeds -1": "seeds must be a finite number at least 1, got -1",
    "train --seeds=0": "seeds must be a finite number at least 1, got 0",
    "train --optimiser.lr nan": "optimiser.lr must be a finite number above 0",
    "train --optimiser.lr inf": "optimiser.lr must be a finite number above 0",
    "train --env smaxx/3m": "unknown environment family 'smaxx'; did you mean 'smax'?",
    "train --env=smaxx/3m": "unknown environment family 'smaxx'; did you mean 'smax'?",
    "train --env smax": "expected 'family/task', such as 'smax/3m'",
    "train --algo qmxi": "unknown algorithm 'qmxi'; did you mean 'qmix'?",
    "train --preset papper": "unknown preset 'papper'; did you mean 'paper'?",
    "train --target.n_step 3 --target.td_lambda .5": "target.td_lambda 0.5 exclude each other",
    "eval": "qtot eval: expected RUN (run folder",
    "eval a b": "unexpected argument 'b'; 'qtot eval --help'",
    "eval a --episods 3": "unknown flag '--episods'; did you mean '--episodes'?",
    "eval a --which bset": "unknown value of --which 'bset'; did you mean 'best'?",
    "eval --episodes few a": "--episodes: expected a whole number, got 'few'",
    "envs smaks": "unknown environment family 'smaks'; did you mean 'smax'?",
    "reproduce": "qtot reproduce: expected EXPERIMENT",
    "reproduce two_step": "unknown value of experiment 'two_step'; did you mean 'two-step'?",
    "reproduce two-step --seed 1": "unknown flag '--seed'; did you mean '--seeds'?",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, command: Command, trained: list[SimpleNamespace]
):
    got = command(*line.split())
    assert got.code == 2
    assert got.out == ""
    assert got.err.startswith("qtot: error: ")
    assert got.err.count("\n") == 1
    assert got.err.endswith("\n")
    assert MISTAKES[line] in got.err
    assert not re.search(r"[╭╮╰╯│─]", got.err)
    assert trained == []


@pytest.mark.parametrize("columns", ["40", "200"])
def test_one_line_whatever_the_user_types_on_whatever_terminal(
    columns: str, command: Command, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", columns)
    for args in (("train", "--env", "a\nb/c"), ("train", "--steps", "a\n─b"), ("tr\nain",)):
        got = command(*args)
        assert (got.code, got.err.count("\n")) == (2, 1)


def test_an_error_from_below_is_one_line_too(command: Command, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise qtot.errors.QtotError("the replay would take 80 GB,\nhere are 24 GB")

    monkeypatch.setattr("qtot.api.train_config", refuse)
    got = command("train")
    assert got.code == 2
    assert got.err == "qtot: error: the replay would take 80 GB, here are 24 GB\n"


def test_an_unknown_task_names_the_nearest(command: Command, tmp_path: Any):
    got = command("train", "--env", "matrix/two_stp", "--out", str(tmp_path / "run"))
    assert got.code == 2
    assert "unknown task of matrix/ 'two_stp'; did you mean 'two_step'?" in got.err
    assert got.err.count("\n") == 1


def test_without_flags_train_gets_the_preset(command: Command, trained: list[SimpleNamespace]):
    assert command("train").code == 0
    assert trained == [SimpleNamespace(config=preset_config("smax/3m"), out=None, quiet=False)]


def test_env_algo_and_preset_decide_the_defaults_wherever_they_stand(
    command: Command, trained: list[SimpleNamespace]
):
    matrix = preset_config("matrix/climbing", "vdn")
    paper = preset_config("smax/8m", "iql", "paper")
    for line in (
        "train --env matrix/climbing --algo vdn --seed 3",
        "train --seed=3 --algo=vdn --env=matrix/climbing",
        "train --env smax/3m --seed 3 --algo vdn --env matrix/climbing",
    ):
        assert command(*line.split()).code == 0
        assert trained.pop().config == replace(matrix, seed=3)
    assert command(*"train --preset paper --algo iql --env smax/8m".split()).code == 0
    assert trained.pop().config == paper


def test_flags_reach_the_configuration(command: Command, trained: list[SimpleNamespace]):
    got = command(
        *"train --agent.hidden 128 --agent.encoder 32 16 --target.td-lambda 0.8".split(),
        *"--target.no_double_q --log_every 7 --optimiser.lr=1e-3 --mixer.hypernet_layers 1".split(),
        *"--out a/b --quiet".split(),
    )
    assert (got.code, got.err) == (0, "")
    (call,) = trained
    assert (call.out, call.quiet) == ("a/b", True)
    base, config = preset_config("smax/3m"), call.config
    assert config == replace(
        base,
        log_every=7,
        agent=replace(base.agent, hidden=128, encoder=(32, 16)),
        target=replace(base.target, td_lambda=0.8, double_q=False),
        optimiser=replace(base.optimiser, lr=1e-3),
        mixer=replace(base.mixer, hypernet_layers=1),
    )


def test_eval_plays_the_run_that_it_is_given(command: Command, monkeypatch: pytest.MonkeyPatch):
    def load(path: str, which: str) -> str:
        return f"{which} of {path}"

    def evaluate(run: str, *, episodes: int, seed: int) -> str:
        return f"{run}: {episodes} episodes, seed {seed}"

    monkeypatch.setattr("qtot.api.load", load)
    monkeypatch.setattr("qtot.api.evaluate", evaluate)
    monkeypatch.setattr("qtot.api.print_evaluation", print, raising=False)
    assert command("eval", "runs/a").out == "last of runs/a: 256 episodes, seed 0\n"
    got = command(*"eval runs/a --which best --seed 4 --episodes 8".split())
    assert got.out == "best of runs/a: 8 episodes, seed 4\n"


def test_reproduce_answers_with_its_own_exit_code(
    command: Command, monkeypatch: pytest.MonkeyPatch
):
    module = SimpleNamespace(reproduce=lambda seeds, out: 0 if (seeds, out) == (5, None) else 1)
    monkeypatch.setitem(sys.modules, "qtot.reproduce.two_step", module)  # type: ignore[arg-type]
    assert command("reproduce", "two-step").code == 0
    assert command("reproduce", "two-step", "--seeds", "2").code == 1


@pytest.mark.parametrize("family", ["matrix", "probe"])
def test_envs_lists_every_task_in_full_when_piped(family: str, command: Command):
    got = command("envs", family)
    assert (got.code, got.err) == (0, "")
    rows = {line.split()[0]: line for line in got.out.splitlines() if line.startswith(f"{family}/")}
    assert list(rows) == [f"{family}/{task}" for task in tasks(family)]
    for name, row in rows.items():
        assert make_env(name).spec.about in row


def test_envs_states_the_facts(command: Command):
    rows = [line.split() for line in command("envs", "probe").out.splitlines()]
    facts = {row[0]: row[1:10] for row in rows if row}
    assert facts["probe/own_obs"] == ["2", "2-4", "1-3", "2", "own", "1", "sum", "all", "-"]
    assert facts["probe/masks"][7:] == ["env", "-"]
    assert facts["probe/distinct"][8] == "id"


def test_the_families_are_listed_with_the_tests_own_last():
    assert list(FAMILIES)[-1] == "probe"


def test_envs_fits_80_columns():
    longest = EnvSpec(
        name="mpe/simple_speaker_listener",
        agents=("a",) * 27,
        n_actions=(3, 35),
        obs_sizes=(11, 738),
        state_size=684,
        episode_limit=100,
        state_source="concatenated observations",
        info=("won",),
        about="a speaker who sees the goal, a listener who moves",
    )
    screen = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    screen.print(_table([longest], screen))
    head, row = screen.file.getvalue().rstrip().splitlines()  # type: ignore[attr-defined]
    assert max(len(head), len(row)) <= 80
    expected = [longest.name, "27", "3-35", "11-738", "684", "obs", "100", "given", "env", "won"]
    assert row.split() == expected


def test_interrupting_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qtot.api.train_config", stop)
    got = command("train")
    assert (got.code, got.err) == (130, "qtot: interrupted\n")


def test_help_and_mistakes_do_not_load_jax():
    lines = ("--help", "--version", "train --help", "train --stpes 4", "train --steps 0", "tran")
    program = (
        "import sys; from qtot.cli import main\n"
        f"codes = [main(line.split()) for line in {lines!r}]\n"
        "heavy = {'jax', 'numpy', 'optax', 'equinox', 'scipy', 'jaxmarl', 'jaxtyping', 'rich'}\n"
        "print(codes, heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[0, 0, 0, 2, 2, 2] set()"


def test_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "qtot", "train", "--steps", "0"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("qtot: error: steps must be")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [("train", "--help"), ("envs", "matrix")])
def test_a_reader_that_leaves_early_is_no_traceback(args: tuple[str, ...]):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qtot", *args], stdout=write, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")

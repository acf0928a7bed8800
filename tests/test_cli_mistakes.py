"""Every mistake of the user's: one line that says what is wrong and what is near, exit code 2."""

from __future__ import annotations

import re
from typing import Any

import pytest

from command import run
from qtot.errors import QtotError

MISTAKES = {
    "": "expected a command: train, resume, eval, play, report, watch, render, export",
    "tran": "unknown command 'tran'; did you mean 'train'?",
    "xyzzy": "unknown command 'xyzzy'; choose one of: train, resume, eval, play, report",
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
    "train --steps 0": "steps must be a finite number at least 1, got 0",
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
    "reproduce two-step --seeds x": "--seeds: expected a whole number, got 'x'",
    "reproduce two-step --seed 1": "unknown flag '--seed'; did you mean '--seeds'?",
}


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that goes unnoticed fails here, instead of training for minutes."""

    def train_config(*_: Any, **__: Any) -> None:
        pytest.fail("training started")

    monkeypatch.setattr("qtot.api.train_config", train_config)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(line: str):
    got = run(line)
    assert got.code == 2
    assert got.out == ""
    assert got.err.startswith("qtot: error: ")
    assert got.err.count("\n") == 1
    assert got.err.endswith("\n")
    assert MISTAKES[line] in got.err
    assert not re.search(r"[╭╮╰╯│─]", got.err)


def test_without_box_characters_the_line_is_the_same():
    for line in ("eval", "train --steps", "train --steps abc", "train --agent.memory gur"):
        got = run(line, encoding="ascii")
        assert MISTAKES[line] in got.err
        assert got == run(line)


@pytest.mark.parametrize("columns", [40, 200])
def test_one_line_whatever_is_typed_on_whatever_terminal(columns: int):
    for args in (("train", "--env", "a\nb/c"), ("train", "--steps", "a\n─b"), ("tr\nain",)):
        got = run(args, columns=columns)
        assert (got.code, got.err.count("\n")) == (2, 1)


def test_an_error_from_below_is_one_line_too(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise QtotError("the replay would take 80 GB,\nhere are 24 GB")

    monkeypatch.setattr("qtot.api.train_config", refuse)
    got = run("train")
    assert got.code == 2
    assert got.err == "qtot: error: the replay would take 80 GB, here are 24 GB\n"


def test_an_unexpected_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr("qtot.api.train_config", fail)
    with pytest.raises(ValueError, match="a bug of ours"):
        run("train")

"""Runs ``qtot`` in this process, as if into a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

from qtot.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def run(line: str | Sequence[str], *, encoding: str = "utf-8", columns: int = 80) -> Answer:
    """``qtot`` with the words of ``line``."""
    args = line.split() if isinstance(line, str) else line
    pipes = [io.BytesIO(), io.BytesIO()]
    out, err = (io.TextIOWrapper(pipe, encoding) for pipe in pipes)
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(args)
    out.flush()
    err.flush()
    return Answer(code, *(pipe.getvalue().decode(encoding) for pipe in pipes))


def plain(text: str) -> str:
    """Without frames and line breaks."""
    return " ".join(re.sub(r"[╭╮╰╯│─]", " ", text).split())

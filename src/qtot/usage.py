"""Parsing with tyro, and one plain line for whatever it rejects.

tyro draws a box of several lines around an error. What is in the box is taken over; what is
around it is left out.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any, get_type_hints

import tyro

from qtot.errors import QtotError, unknown


def parse(
    kind: Any, args: Sequence[str], *, lenient: bool = False, **options: Any
) -> tuple[Any, list[str]]:
    """An instance of ``kind``, a dataclass or a union of them, and the arguments left over.

    Args:
        kind: the type to make.
        args: the command line.
        lenient: leave over what is not known; otherwise it is an error.
        **options: for ``tyro.cli``.

    Raises:
        QtotError: the first thing wrong with ``args``.
        SystemExit: help was asked for, and printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made, rest = tyro.cli(kind, args=args, prog="qtot", return_unknown_args=True, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _rejected(said.getvalue()) from None
    if rest and not lenient:
        raise _left_over(made, args, rest)
    return made, rest


# what Python and tyro say, and what it means to a user
PLAIN = (
    (r"^Error parsing (.+?): ", r"\1: "),
    # of an option that may be left out, only what it may be otherwise
    (r"no type matching \{None\}.* could be instantiated .* - <class '\w+'>: ", ""),
    (r"invalid literal for int\(\) with base 10: ", "expected a whole number, got "),
    (r"could not convert string to float: ", "expected a number, got "),
    (r"Could not find valid parse for arguments: ", "expected numbers, got "),
    (r"^Missing value for argument '(.+?)'\. Expected 1 values\.", r"\1: expected a value"),
    (r"^Missing from (.+?): (\S+) (.+) \(required\)$", r"\1: expected \2 (\3)"),
)


def _rejected(box: str) -> QtotError:
    """The error in tyro's box: the paragraph below the title, without the frame.

    The frame's sides are missing where the terminal has no characters for them.
    """
    paragraphs: list[list[str]] = [[]]
    for raw in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = raw.strip("╭╮╰╯│─- ") if raw.startswith(("╭", "╰")) else raw.strip("│ ")
        is_rule = re.fullmatch(r"[─-]+", text)
        if text and not is_rule:
            paragraphs[-1].append(text)
        if is_rule or raw.startswith("╭"):
            paragraphs.append([])
    message = " ".join(paragraphs[min(1, len(paragraphs) - 1)]) or " ".join(box.split())
    choice = re.fullmatch(
        r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)\s*\.", message
    )
    if choice:
        known = [one.strip().strip("'\"") for one in choice[3].split(",")]
        return unknown(f"value of {choice[2]}", choice[1], known)
    for said, meant in PLAIN:
        message = re.sub(said, meant, message)
    return QtotError(message)


def _left_over(made: Any, args: Sequence[str], rest: Sequence[str]) -> QtotError:
    """The error for arguments that nobody took: the first flag, else the first word."""
    known = dict(_flags(made))
    help_of = f"'qtot {args[0]} --help'"
    flags = [a.partition("=")[0] for a in rest if re.match(r"-+[A-Za-z]", a)]
    name = next((f for f in flags if f.replace("_", "-") not in known), None)
    if name:
        near = _nearest(name, list(known))
        return QtotError(
            f"unknown flag {name!r}; "
            + (f"did you mean {near!r}?" if near else f"{help_of} lists those there are")
        )
    word = rest[0]
    before = args[args.index(word) - 1].replace("_", "-") if word in args[1:] else ""
    if known.get(before):
        return QtotError(
            f"unexpected {word!r} after {before!r}, which takes no value; "
            f"write {' or '.join(f for f in known if known[f] == known[before])}"
        )
    return QtotError(f"unexpected argument {word!r}; {help_of} says what is expected")


def _flags(made: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The flags that make ``made``; those which take no value with a name of what they switch."""
    hints = get_type_hints(type(made), include_extras=True)
    for f in fields(made):
        value, name = getattr(made, f.name), f.name.replace("_", "-")
        if tyro.conf.Positional in getattr(hints[f.name], "__metadata__", ()):
            continue
        if is_dataclass(value):
            # the whole configuration lies flat beside the command's own flags
            yield from _flags(value, "" if f.name == "config" else f"{prefix}{name}.")
        elif isinstance(value, bool) and prefix:
            yield f"--{prefix}{name}", f"{prefix}{name}"
            yield f"--{prefix}no-{name}", f"{prefix}{name}"
        else:
            yield f"--{prefix}{name}", name if isinstance(value, bool) else ""


def _nearest(flag: str, known: Sequence[str]) -> str | None:
    """The known flag most like ``flag``, also where only its last part was typed."""
    got = flag.lstrip("-").replace("_", "-")

    def likeness(one: str) -> tuple[float, float]:
        full = one.lstrip("-")
        whole = SequenceMatcher(None, got, full).ratio()
        last = SequenceMatcher(None, got.rpartition(".")[2], full.rpartition(".")[2]).ratio()
        return max(whole, last), whole

    best = max(known, key=likeness, default=None)
    return best if best and likeness(best)[0] >= 0.65 else None

"""The command ``qtot``: from its arguments to an exit code.

tyro parses; mistakes are one line. Nothing here imports JAX before the arguments are known to be
good, so that help and mistakes answer at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union

from tyro import MISSING
from tyro.conf import subcommand

from qtot import __version__
from qtot.commands import COMMANDS, Command, Sweep, Train
from qtot.config import TrainConfig
from qtot.errors import QtotError, QtotWarning, unknown
from qtot.presets import preset_config
from qtot.usage import parse


@dataclass(frozen=True)
class _Basis:
    """The flags that decide the defaults of the others."""

    env: str = TrainConfig.env
    algo: str = TrainConfig.algo
    preset: str = TrainConfig.preset
    data: str | None = None


def _defaults(args: Sequence[str]) -> TrainConfig:
    """What ``train`` starts from: a first, lenient pass finds the flags that decide it."""
    basis, _ = parse(_Basis, args, lenient=True, add_help=False)
    return preset_config(basis.env, basis.algo, basis.preset, basis.data)


def _command(args: Sequence[str]) -> Command:
    """The command that ``args`` ask for.

    Raises:
        QtotError: they ask for nothing that there is.
        SystemExit: help was asked for, and printed.
    """
    if not args:
        raise QtotError(f"expected a command: {', '.join(COMMANDS)} ('qtot --help' says more)")
    asks_tyro = args[0] in ("-h", "--help") or args[0].startswith("--tyro-")
    if args[0].startswith("-") and not asks_tyro:
        raise QtotError(f"expected a command before {args[0]!r}: {', '.join(COMMANDS)}")
    if args[0] not in COMMANDS and not asks_tyro:
        raise unknown("command", args[0], COMMANDS)
    config = _defaults(args[1:]) if args[0] in ("train", "sweep") else TrainConfig()
    asked: dict[type, Any] = {
        Train: Train(config),
        Sweep: Sweep(config, space=MISSING, out=MISSING),
    }
    kinds: Any = Union[  # noqa: UP007  (made at run time)
        tuple(
            Annotated[kind, subcommand(name, default=asked[kind])]
            if kind in asked
            else Annotated[kind, subcommand(name)]
            for name, kind in COMMANDS.items()
        )
    ]
    about = (
        f"qtot {__version__}: trains teams of agents with QMIX and its family.\n"
        "'qtot COMMAND --help' lists a command's flags, 'qtot --version' says the version."
    )
    command, _ = parse(kinds, args, description=about)
    return command


def _run(args: Sequence[str]) -> int:
    if list(args) == ["--version"]:
        print(f"qtot {__version__}")  # noqa: T201
        return 0
    try:
        return _command(args).execute()
    except SystemExit as stop:  # help
        return int(stop.code or 0)


def _say(message: str) -> None:
    """One line on stderr, whatever the user typed."""
    print(f"qtot: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Ours in one line; others' as Python shows them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def warn(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, QtotWarning):
                _say(f"warning: {message}")
            else:
                show(message, category, *rest)

        warnings.showwarning = warn
        yield


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: the arguments without the program's name; ``sys.argv`` by default.

    Returns:
        The exit code: 0; 2 for a mistake of the user's, which is said in one line; 130 when
        interrupted, 143 by SIGTERM; 1 when whoever reads the output left, or the command's answer
        is no.
    """
    try:
        with _plain_warnings():
            code = _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except QtotError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt as stop:
        _say("interrupted")
        return 128 + getattr(stop, "signum", signal.SIGINT)
    except BrokenPipeError:
        # what is still buffered would raise again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def command() -> None:
    """``main`` for a process of its own, which whoever interrupts it shall not wait for: XLA may
    compile on in threads that cannot be ended.
    """
    code = main()
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

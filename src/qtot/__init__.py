"""qtot: QMIX and its family. Train a team together, run each agent alone.

Importing this package does not import JAX; the names below are loaded on first use, and the
settings of the process that pay are made then (qtot.process).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Policy",
    "QtotError",
    "Run",
    "check_env",
    "evaluate",
    "export",
    "import_pymarl",
    "load",
    "make_env",
    "play",
    "record",
    "render",
    "report",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from qtot.api import (
        Policy,
        QtotError,
        Run,
        check_env,
        evaluate,
        export,
        import_pymarl,
        load,
        make_env,
        play,
        record,
        render,
        report,
        resume,
        train,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from qtot import api

        return getattr(api, name)
    raise AttributeError(f"module 'qtot' has no attribute {name!r}")

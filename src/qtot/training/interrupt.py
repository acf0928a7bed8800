"""Ctrl-C, and a cluster's SIGTERM, that wait for a safe moment: the program's state is donated
while a chunk runs.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

END: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""how the second of a kind acts"""
SIGNALS = tuple(END)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and is saved."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


class StopRequest:
    """Within the context, the first signal only sets ``asked``; the second acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self.signum: int = signal.SIGINT
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self.asked, self.signum = True, signum
        for number in self._previous:  # also where a shell had its background jobs ignore them
            signal.signal(number, END[number])

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()

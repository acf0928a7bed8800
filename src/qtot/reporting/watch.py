"""A page that follows runs while they train, for this machine's browser only."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import cast

from qtot.errors import QtotError
from qtot.reporting.page import make_report, plotly, render, sections

HERE = "127.0.0.1"
SECONDS = 3.0
"""between a page's questions"""
WAIT = 10.0
"""seconds for a run folder to come"""


class _Latest:
    """What there is to say of the runs, made anew when they changed."""

    def __init__(self, paths: Sequence[Path]):
        self._paths, self._guard = paths, threading.Lock()
        self._seen: object = _state_of(paths)
        self._bodies: dict[str, tuple[bytes, str]] = {}
        self.report = make_report(paths)
        self.trouble = ""
        """why it could not be made anew"""

    def body(self, name: str, make: Callable[[_Latest], bytes]) -> tuple[bytes, str]:
        """Of one answer, and its tag; the last good one while a file is being written."""
        with self._guard:
            seen = _state_of(self._paths)
            if seen != self._seen:
                self._bodies.clear()
                try:
                    self.report, self.trouble, self._seen = make_report(self._paths), "", seen
                except QtotError as error:  # perhaps in the middle of something: asked again soon
                    self.trouble = str(error)
            if name not in self._bodies:
                made = make(self)
                self._bodies[name] = made, f'"{hashlib.sha256(made).hexdigest()[:32]}"'
            return self._bodies[name]


def _page(latest: _Latest) -> bytes:
    return render(latest.report, live=SECONDS).encode()


def _data(latest: _Latest) -> bytes:
    report = latest.report
    said = {"data": report.data, "sections": sections(report), "trouble": latest.trouble}
    return json.dumps(said, allow_nan=False).encode()


def _plotly(latest: _Latest) -> bytes:
    del latest
    return plotly().encode()


ANSWERS: dict[str, tuple[str, Callable[[_Latest], bytes]]] = {
    "/": ("text/html; charset=utf-8", _page),
    "/report.json": ("application/json", _data),
    "/plotly.js": ("text/javascript", _plotly),
}


def _state_of(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    found = []
    for path in paths:
        for pattern in ("", "*/"):
            for name in ("metrics.jsonl", "result.json", "records/*.npz", "sweep.json"):
                for file in sorted(path.glob(f"{pattern}{name}")):
                    try:
                        stat = file.stat()
                    except OSError:
                        continue
                    found.append((str(file), stat.st_mtime_ns, stat.st_size))
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
    """GET of three things, for who asks this machine by its own name."""

    def do_GET(self) -> None:
        """Answers."""
        # A name that a stranger's server lets point here is not ours (DNS rebinding).
        if self.headers.get("Host", "") not in self._served.names:
            self._say(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for 127.0.0.1 only\n")
            return
        path = self.path.partition("?")[0]
        if path not in ANSWERS:
            self._say(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")
            return
        kind, make = ANSWERS[path]
        body, tag = self._served.latest.body(path, make)
        if self.headers.get("If-None-Match") == tag:
            self._say(HTTPStatus.NOT_MODIFIED, kind, b"", tag)
        else:
            self._say(HTTPStatus.OK, kind, body, tag)

    @property
    def _served(self) -> _Server:
        return cast(_Server, self.server)

    def _say(self, status: HTTPStatus, kind: str, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-cache")
        if tag:
            self.send_header("ETag", tag)
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # the reader left
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, latest: _Latest):
        super().__init__((HERE, port), _Handler)
        self.latest = latest
        at = self.server_address[1]
        self.names = {f"{name}:{at}" for name in (HERE, "localhost")}
        if at == 80:  # which browsers leave out
            self.names |= {HERE, "localhost"}


def watch(paths: Sequence[Path], port: int, say: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Raises:
        QtotError: nothing to watch, or the port is taken.
    """
    latest = _first(paths)
    try:
        server = _Server(port, latest)
    except (OSError, OverflowError) as error:
        raise QtotError(
            f"cannot listen on {HERE}:{port} ({error}); choose another --port"
        ) from None
    with server:
        say(f"http://{HERE}:{server.server_address[1]}/ follows {', '.join(map(str, paths))}")
        say("Ctrl-C ends it")
        server.serve_forever(poll_interval=0.2)


def _first(paths: Sequence[Path]) -> _Latest:
    """Waited for a little: training may just have begun."""
    until = time.monotonic() + WAIT
    while True:
        try:
            return _Latest(paths)
        except QtotError:
            begun = {"params", "lock", "metrics.jsonl"}
            coming = paths and all(_names(path) <= begun for path in paths)
            if not coming or time.monotonic() > until:
                raise
        time.sleep(0.5)


def _names(path: Path) -> set[str]:
    """What lies in a folder; nothing, where there is none yet."""
    try:
        return {one.name for one in path.iterdir()} if path.exists() else set()
    except OSError:
        return {str(path)}

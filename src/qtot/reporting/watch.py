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
from qtot.reporting.page import Report, make_report, plotly, render, sections

HERE = "127.0.0.1"
SECONDS = 3.0
"""between a page's questions"""


class _Latest:
    """What there is to say of the runs, made anew when they changed."""

    def __init__(self, paths: Sequence[Path]):
        self._paths, self._guard = paths, threading.Lock()
        self._seen: object = None
        self._report = make_report(paths)

    def report(self) -> Report:
        """At most one is made at a time; the last good one while a file is being written."""
        with self._guard:
            seen = _state_of(self._paths)
            if seen != self._seen:
                try:
                    self._report = make_report(self._paths)
                    self._seen = seen
                except QtotError:  # in the middle of something; asked again soon
                    pass
            return self._report


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
        page = {
            "/": ("text/html; charset=utf-8", self._page),
            "/report.json": ("application/json", self._data),
            "/plotly.js": ("text/javascript", lambda: plotly().encode()),
        }.get(self.path.partition("?")[0])
        if page is None:
            self._say(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")
            return
        kind, make = page
        body = make()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._say(HTTPStatus.NOT_MODIFIED, kind, b"", tag)
        else:
            self._say(HTTPStatus.OK, kind, body, tag)

    @property
    def _served(self) -> _Server:
        return cast(_Server, self.server)

    def _page(self) -> bytes:
        return render(self._served.latest.report(), live=SECONDS).encode()

    def _data(self) -> bytes:
        report = self._served.latest.report()
        return json.dumps({"data": report.data, "sections": sections(report)}).encode()

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
        self.end_headers()
        try:
            self.wfile.write(body)
        except BrokenPipeError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, latest: _Latest):
        super().__init__((HERE, port), _Handler)
        self.latest = latest
        self.names = {f"{name}:{self.server_address[1]}" for name in (HERE, "localhost")}


def watch(paths: Sequence[Path], port: int, say: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Raises:
        QtotError: nothing to watch, or the port is taken.
    """
    latest = _Latest(_there(paths))
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


def _there(paths: Sequence[Path]) -> Sequence[Path]:
    """The folders, waited for a little: training may just have begun."""
    for _ in range(20):
        if all(path.exists() for path in paths):
            break
        time.sleep(0.5)
    return paths

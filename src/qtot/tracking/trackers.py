"""All trackers of one run, each in a thread of its own: none holds up training, none ends it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from qtot.config import TrainConfig
from qtot.errors import QtotError, QtotWarning
from qtot.store.run_folder import RunFolder
from qtot.tracking.base import Facts, Row, Status, Tracker, TrackerError, make_tracker
from qtot.tracking.record import Given, Record

BEGIN_S = 60.0
"""seconds that all trackers of a run have to begin"""
FINISH_S = 60.0
"""seconds that they have to send the rest, when it has ended"""
STOP_S = 10.0
"""seconds that they have when it is stopped, or has failed: a cluster's grace is often 30"""
BEHIND = 1_000
"""logs that a tracker may be late"""
AT_ONCE = 40
"""earlier rows of a seed that a tracker is given at once: about the 1,000 numbers that MLflow takes
"""


class _Feed:
    """One tracker, fed through a queue."""

    def __init__(self, name: str, tracker: Tracker, facts: Facts, record: Record, *, over: bool):
        self.name, self.tracker, self.facts, self.record = name, tracker, facts, record
        self.over = over
        """whether the run has ended: it stays finished, however the catching up goes"""
        self.begun, self.ended = threading.Event(), threading.Event()
        self.caught_up = threading.Event()
        """once it has the rows that it lacked, or will not get them"""
        self.hurry = False
        """whether those that it still lacks shall wait for the run to go on"""
        self.moved = time.monotonic()
        """when it last took rows"""
        self.error: BaseException | None = None
        self.cannot_begin = False
        """whether that came before it had begun"""
        self.out = False
        """whether it is left out, which the user has been told"""
        self._queue: queue.Queue[Any] = queue.Queue(BEHIND)
        self._past: Given = {}
        """where a tracker that cannot take rows back has them already, beyond those that stay"""

    def start(self, earlier: list[Row]) -> None:
        """Begin, and give it the rows that it lacks; a daemon, for whoever leaves at once."""
        work = partial(self._work, earlier)
        threading.Thread(target=work, name=f"qtot-{self.name}", daemon=True).start()

    def put(self, item: Any) -> None:
        """Rows, or how it ends."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.error = QtotError(f"it is {BEHIND} logs behind")

    def _work(self, earlier: list[Row]) -> None:
        try:
            lacks = self._begin(earlier)
            self.moved = time.monotonic()
            self.begun.set()
            has_all = self._catch_up(lacks)
            while not self.error:
                item = self._queue.get()
                if not isinstance(item, list):
                    self._close(*item)
                    break
                if has_all:  # else they would hide that others before them are missing
                    self._log([x for x in item if x.step > self._past.get(x.seed, -1)])
            else:  # it was given up, being late
                self._close("failed", [])
        except BaseException as error:  # whatever it does, the run goes on
            self.cannot_begin, self.error = not self.begun.is_set(), error
            with contextlib.suppress(BaseException):
                self._close("failed", [])
        finally:
            for event in (self.begun, self.caught_up, self.ended):
                event.set()

    def _close(self, status: Status, result: list[Row]) -> None:
        """Unless that comes too late: another session may feed the same tracker run by now."""
        status = "finished" if self.over else status
        if not self.record.closed:
            self.tracker.close(status, result)
            if status == "finished" and result:
                self.record.end(self.name)

    def _begin(self, earlier: list[Row]) -> list[Row]:
        """The rows that it lacks."""
        kept = self._kept(earlier)
        given, since = self.record.given.get(self.name), None
        if given is not None:
            given = {seed: given.get(seed, -1) for seed in self.facts.ids}
            since = {seed: min(step, kept.get(seed, -1)) for seed, step in given.items()}
        goes_on = self.tracker.begin(self.facts, since)
        has = dict.fromkeys(self.facts.ids, -1)
        if given is not None and since is not None:
            has |= {seed: (since if self.tracker.rewinds else given)[seed] for seed in goes_on}
        self._past = {seed: step for seed, step in has.items() if step > kept.get(seed, -1)}
        self.record.give(self.name, has)
        return [row for row in earlier if row.step > has.get(row.seed, -1)]

    def _kept(self, earlier: list[Row]) -> Given:
        """The last row of each seed that stays; of a tracker that rewinds the one before, so that
        the closing table, which lies at the last one's step, comes once however often it comes.
        """
        kept: Given = {}
        last: Given = {}
        for row in earlier:
            if row.seed in last:
                kept[row.seed] = last[row.seed]
            last[row.seed] = row.step
        return kept if self.tracker.rewinds else last

    def _catch_up(self, lacks: list[Row]) -> bool:
        """Give it what it lacks, seed by seed; whether it has got all of it."""
        for seed in self.facts.ids:
            rows = [row for row in lacks if row.seed == seed]
            for at in range(0, len(rows), AT_ONCE):
                if self.error or self.hurry:
                    return False
                self._log(rows[at : at + AT_ONCE])
                self.moved = time.monotonic()
        self.caught_up.set()
        return True

    def _log(self, rows: list[Row]) -> None:
        """One that rewinds can be given rows twice. Of the others, it is noted first: where the
        process is killed in between, rows are missing rather than doubled.
        """
        if not rows or self.record.closed:
            return
        before = dict(self.record.given[self.name])
        after = {row.seed: row.step for row in rows}
        if not self.tracker.rewinds:
            self.record.give(self.name, after)
            if self.record.closed:  # perhaps it was not noted
                return
        try:
            self.tracker.log(rows)
        except BaseException:
            self.record.give(self.name, before)
            raise
        if self.tracker.rewinds:
            self.record.give(self.name, after)


class Trackers:
    """What the training loop tells of a run; nothing here raises, or takes time."""

    def __init__(self, feeds: Iterable[_Feed] = ()):
        self._feeds = list(feeds)
        self._result: list[Row] = []

    @property
    def said(self) -> list[str]:
        """What the user should know of those that have begun."""
        return [f"{f.name}: {line}" for f in self._feeds if not f.out for line in f.tracker.said]

    @property
    def named_again(self) -> str:
        """What a command that goes on has to say of those that send."""
        names = [f.name for f in self._feeds if f.tracker.sends]
        return f" --track {' '.join(names)}" if names else ""

    def log(self, rows: list[dict[str, Any]]) -> None:
        """A log's rows of the metrics."""
        for feed in self._feeds:
            if not feed.out:
                feed.put(_rows(rows))
        self.tell()

    def conclude(self, result: list[dict[str, Any]]) -> None:
        """The closing table."""
        self._result = _rows(result)

    def catch_up(self) -> None:
        """Wait until they have what they lacked; not for one that stands still."""
        for feed in self._feeds:
            while not (feed.out or feed.caught_up.wait(_left(feed.moved + FINISH_S))):
                if _left(feed.moved + FINISH_S) == 0.0:
                    feed.error = QtotError(f"it took nothing for {FINISH_S:.0f} s")
                    break
        self.tell()

    def begin(self, earlier: list[Row]) -> None:
        """Begin all of them, and have them given the rows that they lack.

        Raises:
            QtotError: one that was asked for cannot begin.
        """
        for feed in self._feeds:
            feed.start(earlier)
        until = time.monotonic() + BEGIN_S
        for feed in self._feeds:
            if not feed.begun.wait(_left(until)):
                feed.cannot_begin = True
                feed.error = QtotError(f"it did not begin within {BEGIN_S:.0f} s")
        failed = [(x, x.error) for x in self._feeds if x.cannot_begin and x.error is not None]
        for feed, error in failed:
            if feed.facts.named:
                for other, _ in failed:
                    other.out = True  # one line is enough
                raise TrackerError(
                    f"tracker {feed.name} cannot begin ({_plain(error)}); once that is mended, go "
                    f"on with: qtot resume {feed.record.folder.path} --track {feed.name}; or "
                    "without --track"
                )
        self.tell()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._close("finished", FINISH_S)
            else:
                for feed in self._feeds:
                    feed.hurry = True
                stopped = issubclass(kind, KeyboardInterrupt)
                self._close("stopped" if stopped else "failed", STOP_S)
        finally:  # also where Ctrl-C comes once more
            for feed in self._feeds:
                feed.record.close()

    def _close(self, status: Status, seconds: float) -> None:
        for feed in self._feeds:
            feed.put((status, self._result))
        until = time.monotonic() + seconds
        for feed in self._feeds:
            if not feed.out and not feed.ended.wait(_left(until)):
                feed.error = feed.error or QtotError(f"it did not end within {seconds:.0f} s")
        self.tell()

    def tell(self) -> None:
        """Say once of each that it is left out."""
        for feed in self._feeds:
            if feed.error is not None and not feed.out:
                feed.out = True
                warnings.warn(
                    f"tracker {feed.name} is left out from here: {_plain(feed.error)}; "
                    "metrics.jsonl has everything, and 'qtot resume' gives the tracker what it "
                    "lacks",
                    QtotWarning,
                    stacklevel=3,
                )


def track(
    folder: RunFolder,
    config: TrainConfig,
    asked: dict[str, Tracker],
    *,
    goes_on: bool,
    over: bool = False,
) -> Trackers:
    """Begin the trackers that were asked for and, where the run goes on, those that it had.

    Args:
        folder: the run's.
        config: of the run.
        asked: trackers that the user named.
        goes_on: whether the folder is older than this process, and may be a stranger's.
        over: whether it has ended, and is finished whatever comes of its trackers.

    Raises:
        QtotError: one that was asked for cannot begin, or the folder's record is damaged.
    """
    record = Record.of(folder) if goes_on else Record(folder)
    made, left_out = dict(asked), []
    for name in [name for name in record.given if name not in asked]:
        try:
            made[name] = make_tracker(name)
        except QtotError as error:
            left_out.append(f"tracker {name} is left out: {_plain(error)}")
    seeds = range(config.seed, config.seed + config.seeds)
    earlier = [row for row in _rows(folder.metrics()) if row.seed in seeds] if made else []
    facts = Facts(
        name=folder.path.resolve().name,
        folder=folder.path,
        config=_flat(config),
        ids={seed: record.id_of(seed) for seed in seeds},
        named=False,
    )
    feeds = [
        _Feed(
            name,
            tracker,
            facts._replace(folder=folder.tracker_folder(name), named=name in asked),
            record,
            over=over,
        )
        for name, tracker in made.items()
    ]
    with contextlib.ExitStack() as stack:
        trackers = stack.enter_context(Trackers(feeds))  # closed where one cannot begin
        trackers.begin(earlier)
        for line in left_out:
            warnings.warn(line, QtotWarning, stacklevel=2)
        stack.pop_all()
        return trackers


def _left(until: float) -> float:
    """Seconds."""
    return max(0.0, until - time.monotonic())


def _rows(rows: list[dict[str, Any]]) -> list[Row]:
    """Without what is missing, not finite, or no number of the seed's own."""
    return [
        Row(
            row["seed"],
            row["env_steps"],
            {k: v for k, v in row.items() if k not in ("seed", "env_steps") and v is not None},
        )
        for row in rows
        if type(row.get("env_steps")) is int
    ]


def _flat(config: Any, above: str = "") -> dict[str, Any]:
    """Hyperparameters by the names of their flags."""
    flat: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), f"{above}{field.name}"
        if is_dataclass(value):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = str(list(value)) if isinstance(value, tuple) else value
    return flat


def _plain(error: BaseException) -> str:
    """One line, not too long, of what others write."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if isinstance(error, QtotError) else f"{type(error).__name__}: {said[:300]}"

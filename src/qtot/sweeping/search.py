"""The search: which trials run, which begin, what came of those that ended."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace

from qtot.config import scheduled
from qtot.errors import QtotError
from qtot.process import cores
from qtot.space import size
from qtot.store.lock import HeldError
from qtot.store.run_folder import RunFolder, is_run
from qtot.store.sweep_folder import State, Sweep, Trial, write_sweep
from qtot.sweeping.child import NO_TRACKER, STOPPED, Child, Job, cpus_of
from qtot.sweeping.shown import Screen
from qtot.sweeping.suggest import importance, suggest
from qtot.sweeping.value import curve, lags, metric_of, seconds, worth
from qtot.training.interrupt import Stopped, StopRequest
from qtot.validation import validate

POLL = 0.05
"""seconds between looks at the children"""
LOOK = 1.0
"""seconds between looks at their metrics"""
PATIENCE = 300.0
"""seconds in which a child that lost its search saves and leaves"""
ALIKE = 3
"""failures with the same words, before anything was finished, after which it is no accident"""


@dataclass(frozen=True)
class Settings:
    """How a sweep is searched this time; the sweep itself does not depend on it."""

    trials: int
    """in all, with those that are there"""
    jobs: int | None = None
    """trials at once; None: one per core"""
    quiet: bool = False
    tune: bool = True
    keep: bool = True
    """as in ``process.prepare``"""
    track: tuple[str, ...] = ()
    """trackers of every trial that begins, or goes on"""


class Search:
    """A sweep that runs."""

    def __init__(self, sweep: Sweep, settings: Settings):
        self.sweep, self.settings = sweep, settings
        self.trials = max(int(min(settings.trials, size(sweep.space))), len(sweep.trials))
        self.jobs = settings.jobs or min(cores(), self.trials)
        self.screen = Screen(self.trials, quiet=settings.quiet)
        self.running: dict[int, Child] = {}
        """by the number of their trial"""
        self.left = [trial for trial in sweep.trials if trial.state == "running"]
        """interrupted trials that have not begun again"""
        self.lagging: set[int] = set()
        """trials that were told to stop as worse than most"""
        self.curves: dict[int, list[float]] = {}
        """of finished trials"""
        self.looked = 0.0
        self.waiting: dict[int, float] = {}
        """since when, by trial, for a child of an earlier search that still saves it"""
        self.held: list[str] = []
        """which of them were waited for in vain"""
        self.trouble = ""
        """why no trial can go on, for all that can be known"""

    def run(self) -> Sweep:
        """Until all trials have ended.

        Raises:
            QtotError: the sweep cannot be written, or trial after trial fails.
            Stopped: it was asked for, and all is saved.
        """
        self.screen.header(self.sweep, self.jobs)
        if self.trials < self.settings.trials:
            self.screen.say(f"these are all {self.trials} combinations that there are")
        with StopRequest() as stop:
            try:
                while not stop.asked and not self.trouble and self._unfinished():
                    self._fill()
                    time.sleep(POLL)
                    self._collect()
                    if self.sweep.prune and time.monotonic() - self.looked > LOOK:
                        self._prune()
                if stop.asked:
                    self.screen.say(f"stopping; trials that are being saved: {len(self.running)}")
                    self._drain()
                    self.screen.say("go on with the same command")
                    raise Stopped(stop.signum)
                if self.trouble or self.held:
                    raise QtotError(self.trouble or f"{self.held[0]}; go on with the same command")
            except KeyboardInterrupt:  # all is saved, or a second one does not wait
                raise
            except QtotError:
                self.screen.say(f"stopping; trials that are being saved: {len(self.running)}")
                self._drain()
                raise
            except BaseException:  # also whoever read what is printed here, and left
                self._drain()
                raise
            finally:
                for child in self.running.values():
                    child.kill()
        self.sweep = replace(self.sweep, importance=importance(self.sweep))
        write_sweep(self.sweep)
        self.screen.closing(self.sweep)
        return self.sweep

    def _unfinished(self) -> bool:
        return bool(self.running or self.left) or len(self.sweep.trials) < self.trials

    def _drain(self) -> None:
        """Have all children save and leave; the next search takes their trials up."""
        for child in self.running.values():
            child.stop()
        for child in self.running.values():
            child.process.wait()
            child.close()
        self.running.clear()

    def _fill(self) -> None:
        """Begin trials wherever there is a place."""
        while len(self.running) < self.jobs and (trial := self._next()) is not None:
            try:
                done = self._start(trial)
            except HeldError as error:  # no harm was done to it: it is left as it is
                self.held.append(str(error))
                continue
            except QtotError as error:
                done = replace(trial, state="failed", reason=str(error))
            if done is not None:
                self._end(done)

    def _next(self) -> Trial | None:
        """An interrupted trial, or a new one."""
        for trial in self.left:
            if not self._is_waited_for(trial):
                self.left.remove(trial)
                return trial
        if self.left:
            return None
        if len(self.sweep.trials) >= self.trials:
            return None
        trial = Trial(len(self.sweep.trials), suggest(self.sweep))
        self.sweep = replace(self.sweep, trials=(*self.sweep.trials, trial))
        write_sweep(self.sweep)
        return trial

    def _is_waited_for(self, trial: Trial) -> bool:
        """Whether a child of a search that was killed may still be saving it."""
        error = self._written(trial)
        if error is None:
            return False
        if trial.number not in self.waiting:
            self.screen.say(f"waiting: {error}")
        since = self.waiting.setdefault(trial.number, time.monotonic())
        return time.monotonic() - since <= PATIENCE

    def _written(self, trial: Trial) -> HeldError | None:
        """Who writes it now. Whatever else is wrong with it, it is refused when it begins."""
        folder = RunFolder(self.sweep.path / trial.name)
        if folder.path.is_symlink() or not folder.path.is_dir():
            return None
        try:
            with folder.held():
                return None
        except HeldError as error:
            return error
        except QtotError:
            return None

    def _start(self, trial: Trial) -> Trial | None:
        """A child for it; if it needs none, what came of it.

        Raises:
            QtotError: its folder holds something else, or is being written.
        """
        if (error := self._written(trial)) is not None:
            raise error
        try:
            config = validate(self.sweep.config_of(trial))
        except QtotError as error:
            return replace(trial, state="impossible", reason=str(error))
        folder = self._folder(trial)
        begun = is_run(folder.path)
        if begun:
            if scheduled(folder.facts()[0]) != scheduled(config):
                raise QtotError(f"{folder.path} holds another run; move it away")
            if folder.result():
                return self._settled(trial, "finished")
            if not folder.checkpoints.all():  # ended before its first
                shutil.rmtree(folder.path, ignore_errors=True)
                begun = False
        place = min(set(range(self.jobs)) - {child.place for child in self.running.values()})
        job = Job(
            config=config.to_dict(),
            out=str(folder.path),
            resume=begun,
            cpus=cpus_of(place, self.jobs, cores()),
            tune=self.settings.tune,
            keep=self.settings.keep,
            track=self.settings.track,
        )
        self.running[trial.number] = Child(job, place, folder.path.with_suffix(".log"))
        return None

    def _collect(self) -> None:
        """What came of children that have ended."""
        for number, child in list(self.running.items()):
            if child.process.poll() is None:
                continue
            del self.running[number]
            trial = self.sweep.trials[number]
            try:
                done = self._outcome(trial, child)
            except QtotError as error:
                done = replace(trial, state="failed", reason=str(error))
            if done is not None:
                self._end(done)

    def _outcome(self, trial: Trial, child: Child) -> Trial | None:
        """What counts is what the run folder holds.

        Raises:
            QtotError: it holds no number for the metric.
        """
        code, last, folder = child.process.returncode, child.close(), self._folder(trial)
        if folder.result():
            return self._settled(trial, "finished")
        if trial.number in self.lagging:
            return self._settled(trial, "pruned")
        if code in STOPPED:
            self.screen.say(f"{trial.name} was stopped by a signal, and can go on")
            return None
        if code == NO_TRACKER:
            self.trouble = (
                f"{trial.name}: {last.removeprefix('error: ').partition(';')[0]}; go on with the "
                "same command once that is mended, or without --track"
            )
            return None
        if code == 2:
            why = last.removeprefix("error: ")
        else:
            why = f"{f'signal {-code}' if code < 0 else f'exit code {code}'} {last}".strip()
        return replace(trial, state="failed", reason=why, seconds=seconds(folder.metrics()))

    def _settled(self, trial: Trial, state: State) -> Trial:
        """With the value that its metrics give it."""
        rows = self._folder(trial).metrics()
        if self.sweep.metric is None:
            self.sweep = replace(self.sweep, metric=metric_of(rows))
        value = worth(rows, self.sweep.metric or "")
        return replace(trial, state=state, value=value, seconds=seconds(rows))

    def _end(self, done: Trial) -> None:
        """Write down what came of a trial.

        Raises:
            QtotError: it cannot be written, or nothing but the same failure comes.
        """
        trials = list(self.sweep.trials)
        trials[done.number] = done
        self.sweep = replace(self.sweep, trials=tuple(trials))
        write_sweep(self.sweep)
        self.screen.ended(self.sweep, done)
        failed = [
            trial.reason.replace(trial.name, "") for trial in trials if trial.state == "failed"
        ]
        if len(failed) >= ALIKE and len(set(failed)) == 1 and not self.sweep.ranked():
            raise QtotError(f"{len(failed)} trials failed alike, and none finished: {done.reason}")

    def _prune(self) -> None:
        """Stop trials that are worse than most had been when they had come as far."""
        self.looked = time.monotonic()
        for trial in self.sweep.trials:
            if trial.state == "finished" and trial.number not in self.curves:
                self.curves[trial.number] = self._curve(trial)
        for number, child in self.running.items():
            own = self._curve(self.sweep.trials[number])
            if not child.asked and lags(own, self.curves.values(), self.sweep.sign):
                self.lagging.add(number)
                child.stop()

    def _curve(self, trial: Trial) -> list[float]:
        """Of the metric; empty where it cannot be read, which its outcome will say."""
        try:
            return curve(self._folder(trial).metrics(), self.sweep.metric or "")
        except QtotError:
            return []

    def _folder(self, trial: Trial) -> RunFolder:
        return RunFolder(self.sweep.run_path(trial))

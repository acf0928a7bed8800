"""Weights & Biases: its files in ``RUN/wandb``, sent only where the user says so."""

from __future__ import annotations

import netrc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qtot.errors import QtotError
from qtot.tracking.base import Facts, Row, Status, package

EXIT_CODES: dict[Status, int] = {"finished": 0, "stopped": 255, "failed": 1}
"""that of an interrupted process is shown as killed"""


class Tracker:
    """One run per seed, in a group named after the run folder."""

    rewinds = False

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is sent unasked
        self._wandb: Any = package("wandb", "wandb")
        self._runs: dict[int, Any] = {}
        self.sends = False
        self.said: list[str] = []

    def begin(self, facts: Facts, since: Mapping[int, int] | None) -> set[int]:
        """Under the same ids as before; online, the server says whether it has them.

        Raises:
            QtotError: files in the run folder would redirect it, or it is to be online without a
                key.
        """
        for path in (facts.folder / "settings", facts.folder.parent / ".wandb"):
            if os.path.lexists(path):
                raise QtotError(f"{path} would say where wandb sends or writes; delete it")
        settings = self._wandb.setup().settings
        mode = self._mode(settings, facts)
        self.sends = mode not in ("offline", "dryrun", "disabled")
        # Nothing of its own on the user's terminal, where a live bar may be; and where versions
        # can, no end that waits for a network for ever.
        limits: dict[str, Any] = {"silent": True, "console": "off", "init_timeout": 50}
        if "finish_timeout" in getattr(self._wandb.Settings, "model_fields", ()):
            limits["finish_timeout"] = 50
        for seed, name in facts.ids.items():
            # It names folders by the second, and would write over one that is there.
            while any(facts.folder.glob(f"*-{time.strftime('%Y%m%d_%H%M%S')}-{name}")):
                time.sleep(0.1)
            self._runs[seed] = self._wandb.init(
                id=name,
                resume="allow",
                mode=mode,
                project=settings.project or "qtot",
                group=settings.run_group or facts.name,
                name=f"{facts.name} seed {seed}",
                config=facts.config,
                allow_val_change=True,
                dir=str(facts.folder.parent),
                reinit="create_new",
                settings=self._wandb.Settings(**limits),
            )
        if self.sends:
            self.said += [str(run.url) for run in self._runs.values()]
            return {seed for seed, run in self._runs.items() if run.resumed}
        return set(facts.ids) if since is not None else set()

    def _mode(self, settings: Any, facts: Facts) -> str:
        """Online only with a key, and if the user says so now: by name, or by ``WANDB_MODE``."""
        asked, mode = "WANDB_MODE" in os.environ, settings.mode or "online"
        if mode in ("offline", "dryrun", "disabled"):
            return mode
        if not _has_key(settings):
            if asked:
                raise QtotError(f"WANDB_MODE is {mode}, and there is no key; run: wandb login")
            why = "there is no key (wandb login)"
        elif not (facts.named or asked):
            why = "a run folder's word is not enough to send; go on with --track wandb to send"
        else:
            return mode
        self.said.append(f"offline, since {why}; send with: wandb sync {facts.folder}/offline-*")
        return "offline"

    def log(self, rows: list[Row]) -> None:
        """A step of the history each."""
        for row in rows:
            self._runs[row.seed].log({"env_steps": row.step, **row.values}, step=row.step)

    def close(self, status: Status, result: list[Row]) -> None:
        """The closing table is the summary."""
        for row in result:
            self._runs[row.seed].summary.update(row.values)
        for run in self._runs.values():
            run.finish(exit_code=EXIT_CODES[status])


def _has_key(settings: Any) -> bool:
    """Whether wandb would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    if getattr(settings, "api_key", None):
        return True
    host = urlsplit(settings.base_url).netloc
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]:
        try:
            if netrc.netrc(path.expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, RuntimeError):
            continue
    return False

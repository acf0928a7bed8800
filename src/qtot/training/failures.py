"""Failures of environments and their workers: counted, and told of."""

from __future__ import annotations

from qtot.envs.host.player import Failure

SHOWN = 3
"""failures that are shown with their traceback"""


class Failures:
    """Of a whole run, from all who step its environments."""

    def __init__(self) -> None:
        self.failed, self.discarded = 0, 0
        self.news: dict[str, tuple[int, int]] = {}
        """of failures alike: how many, and episodes that they cost"""

    def counted(self, counts: dict[str, int]) -> None:
        """In the part of the run before it was resumed."""
        self.failed += counts.get("env_failures", 0)
        self.discarded += counts.get("discarded_episodes", 0)

    def hear(self, failures: list[Failure]) -> None:
        """Takes over what is in there."""
        for failure in failures:
            self.failed += 1
            self.discarded += failure.lost
            said = failure.what
            if self.failed <= SHOWN:
                said += "\n" + failure.traceback.rstrip()
            times, lost = self.news.get(said, (0, 0))
            self.news[said] = times + 1, lost + failure.lost
        failures.clear()

    def told(self) -> list[str]:
        """What was not told before, those alike in one line."""
        news, self.news = self.news, {}
        told = []
        for said, (times, lost) in news.items():
            what, *traceback = said.split("\n", 1)
            often = f" ({times} times)" if times > 1 else ""
            head = f"{what}{often}; {lost} episode{'s' * (lost != 1)} discarded, going on"
            told.append("\n".join((head, *traceback)))
        return told

    def counts(self) -> dict[str, int]:
        """For the metrics."""
        return {"env_failures": self.failed, "discarded_episodes": self.discarded}

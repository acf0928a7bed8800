"""Failures of environments and their workers: counted, and told of."""

from __future__ import annotations

from qtot.envs.host.player import Failure

SHOWN = 3
"""failures that are shown with their traceback; of the others, one line"""


class Failures:
    """Of a whole run, from all who step its environments."""

    def __init__(self) -> None:
        self.failed, self.discarded, self.news = 0, 0, list[str]()

    def hear(self, failures: list[Failure]) -> None:
        """Takes over what is in there."""
        for failure in failures:
            self.failed += 1
            lost = failure.lost
            said = f"{failure.what}; {lost} episode{'s' * (lost != 1)} discarded, going on"
            if self.failed <= SHOWN:
                said += "\n" + failure.traceback.rstrip()
            self.news.append(said)
            self.discarded += lost
        failures.clear()

    def told(self) -> list[str]:
        """What was not told before."""
        news, self.news = self.news, []
        return news

    def counts(self) -> dict[str, int]:
        """For the metrics."""
        return {"env_failures": self.failed, "discarded_episodes": self.discarded}

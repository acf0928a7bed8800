"""Where lines for the user go."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Undeterred(Console):
    """Where the output goes to a full disk, what is told of goes on all the same."""

    def print(self, *objects: Any, **how: Any) -> None:
        """As rich prints."""
        try:
            super().print(*objects, **how)
        except BrokenPipeError:  # whoever read it has left: that is for the program to know
            raise
        except OSError:
            pass

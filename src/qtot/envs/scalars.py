"""Names that scalars of an environment may not take; without NumPy, for the command's help."""

from __future__ import annotations

REPORTED = ("return", "return_std", "length", "episodes", "seed")
"""what is reported of every environment"""


def taken_name(info: tuple[str, ...]) -> str | None:
    """The first of an environment's scalars whose name is another's; ``won`` is reported as
    ``win_rate``.
    """
    seen = set[str](REPORTED)
    for name in info:
        shown = "win_rate" if name == "won" else name
        if shown in seen:
            return name
        seen.add(shown)
    return None

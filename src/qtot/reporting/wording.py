"""Numbers as a report says them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return ", ".join(names)


def value_of(value: float | None, metric: str) -> str:
    """A share as per cent, a return as it is."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if metric.endswith("win_rate") else f"{value:.4g}"


def interval(low: float, high: float, metric: str) -> str:
    """Of values of a metric."""
    return f"[{value_of(low, metric)}, {value_of(high, metric)}]"


def large(value: float) -> str:
    """With a unit."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Rounded to what is worth reading."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def number(value: float | None, digits: int = 4) -> str:
    """Rounded; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def setting(value: Any, digits: int = 6) -> str:
    """Of a configuration."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)

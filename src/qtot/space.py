"""Search spaces: fields of the configuration, and what is tried of each.

optimiser.lr=1e-4..3e-3:log     numbers from low to high, here evenly in their logarithm
mixer.embed=16,32,64            one of these
agent.encoder=64,64 64          one of these tuples
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qtot.config import TrainConfig, nested_replace
from qtot.errors import QtotError, unknown
from qtot.presets import preset_config
from qtot.validation import check_values, validate

Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...]
Params = Mapping[str, Value]
"""by field"""

KEPT = (
    "env",
    "seed",
    "seeds",
    "log_every",
    "collectors",
    "ray_address",
    "evaluation",
    "checkpoint",
)
"""fields that say what a trial is measured in, or where it runs"""
WHOLE = 2**53
"""the largest whole number of a range"""
MANY = 100
"""values in a list"""
DRAWS = 100
"""combinations of which at least one must be possible"""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False
    """evenly in their logarithm"""
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low!r}..{self.high!r}{':log' * self.log}"

    @property
    def size(self) -> float:
        """How many there are."""
        return self.high - self.low + 1 if self.whole else math.inf

    def __contains__(self, value: Any) -> bool:
        return type(value) is (int if self.whole else float) and self.low <= value <= self.high

    def draw(self, rng: random.Random) -> Value:
        """Any of them."""
        if self.whole:
            return rng.randint(int(self.low), int(self.high))
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class Choices:
    """One of these."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        return ",".join(map(shown, self.values))

    @property
    def size(self) -> float:
        """How many there are."""
        return len(self.values)

    def __contains__(self, value: Any) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)

    def draw(self, rng: random.Random) -> Value:
        """Any of them."""
        return rng.choice(self.values)


Space = dict[str, Range | Choices]
"""by field"""


def size(space: Space) -> float:
    """How many combinations there are."""
    return math.prod(dimension.size for dimension in space.values())


def parse_space(words: Sequence[str], base: TrainConfig) -> Space:
    """The space that ``words`` describe, each value of which a trial may have.

    Args:
        words: ``FIELD=LOW..HIGH``, ``FIELD=LOW..HIGH:log`` or ``FIELD=A,B,C``.
        base: what fields that are not searched are.

    Raises:
        QtotError: the first thing that is wrong.
    """
    if not words:
        raise QtotError("--space must name at least one field, such as optimiser.lr=1e-4..3e-3:log")
    check_values(base)
    hints, space = hints_of(TrainConfig), Space()
    for word in words:
        said, equals, text = word.partition("=")
        name = said.strip().replace("-", "_")
        if not equals:
            raise QtotError(f"--space must look like FIELD=LOW..HIGH or FIELD=A,B,C, got {word!r}")
        _check_name(name, hints)
        if name in space:
            raise QtotError(f"--space names {name} twice")
        space[name] = _dimension(name, text.strip(), hints[name])
        _check_dimension(name, space[name], base)
    _check_possible(space, base)
    return space


def hints_of(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Every field's dotted name and type."""
    hints, found = get_type_hints(cls), {}
    for f in fields(cls):
        hint = hints[f.name]
        within = isinstance(hint, type) and is_dataclass(hint)
        found |= hints_of(hint, f"{prefix}{f.name}.") if within else {prefix + f.name: hint}
    return found


def _check_name(name: str, hints: Mapping[str, Any]) -> None:
    if name == "out" or name.partition(".")[0] in KEPT:
        raise QtotError(
            f"{name} cannot be searched: all trials share what they are measured in, and where "
            "they run; give it as a flag"
        )
    if name not in hints:
        by_last = {full.rpartition(".")[2]: full for full in hints} | {full: full for full in hints}
        close = difflib.get_close_matches(name, by_last, n=1, cutoff=0.6)
        raise QtotError(
            f"--space: unknown field {name!r}; "
            + (f"did you mean {by_last[close[0]]!r}?" if close else "see 'qtot train --help'")
        )


def _dimension(name: str, text: str, hint: Any) -> Range | Choices:
    """What is tried of a field."""
    if hint in (int, float) and ".." in text:
        numbers, colon, how = text.partition(":")
        if colon and how.strip() != "log":
            raise QtotError(f"--space {name}: expected 'log' after ':', got {how!r}")
        low, high = (_value(name, part.strip(), hint) for part in numbers.split("..", 1))
        return Range(low, high, log=bool(colon), whole=hint is int)
    values = text.split(",")
    if len(values) > MANY:
        raise QtotError(f"--space {name}: expected at most {MANY} values, got {len(values)}")
    return Choices(tuple(_value(name, part.strip(), hint) for part in values))


def _value(name: str, text: str, hint: Any) -> Any:
    """As ``qtot train`` reads it."""
    if hint is str:
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise QtotError(f"--space {name}: expected true or false, got {text!r}")
        return text.lower() == "true"
    if get_origin(hint) is Literal:
        options = {str(option): option for option in get_args(hint)}
        if text not in options:
            raise unknown(f"value of --space {name}", text, options)
        return options[text]
    if get_origin(hint) is tuple:
        return tuple(_value(name, part, get_args(hint)[0]) for part in text.split())
    try:
        return hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise QtotError(f"--space {name}: expected {kind}, got {text!r}") from None


def _check_dimension(name: str, dimension: Range | Choices, base: TrainConfig) -> None:
    """Each value must be possible by itself, and there must be something to choose."""
    ends = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
    for value in ends:
        try:
            check_values(trial_config(base, {name: value}))
        except QtotError as error:
            raise QtotError(f"--space: {error}") from None
    if isinstance(dimension, Choices):
        if len(dimension.values) < 2:
            raise QtotError(
                f"--space {name} has one value only; list several, or give it as a flag"
            )
        if len(set(dimension.values)) < len(dimension.values):
            raise QtotError(f"--space {name}={dimension} names a value twice")
    elif not dimension.low < dimension.high:
        raise QtotError(f"--space {name}: expected low below high, got {dimension}")
    elif dimension.log and dimension.low <= 0:
        raise QtotError(f"--space {name}: a logarithm needs low above 0, got {dimension}")
    elif dimension.whole and dimension.high > WHOLE:
        raise QtotError(f"--space {name}: whole numbers may be at most 2**53")


def _check_possible(space: Space, base: TrainConfig) -> None:
    """A space of nothing but impossible combinations is a mistake; of some, it is not."""
    rng, wrong = random.Random(0), ""
    for _ in range(DRAWS):
        params = {name: dimension.draw(rng) for name, dimension in space.items()}
        try:
            validate(trial_config(base, params))
            return
        except QtotError as error:
            wrong = wrong or str(error)
    raise QtotError(f"no trial of this --space is possible: {wrong}")


def trial_config(base: TrainConfig, params: Params) -> TrainConfig:
    """What ``qtot train`` would make of the flags of ``base`` and ``params`` together; where a
    trial has another method, preset or data, its defaults are those of that one.
    """
    start = preset_config(base.env, base.algo, base.preset, base.data)
    by_itself = preset_config(base.env, base.algo, base.preset).data
    basis = {
        "algo": base.algo,
        "preset": base.preset,
        "data": None if base.data == by_itself else base.data,
        **params,
    }
    config = preset_config(
        base.env,
        *(basis[name] for name in ("algo", "preset", "data")),  # pyright: ignore[reportArgumentType]
    )
    given = differences(start, base)
    return nested_replace(nested_replace(config, nested(given)), nested(params))


def differences(start: Any, config: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of ``config``, by their dotted names, that are others in ``start``."""
    found = {}
    for f in fields(config):
        was, value, name = getattr(start, f.name), getattr(config, f.name), prefix + f.name
        if is_dataclass(value):
            found |= differences(was, value, f"{name}.")
        elif value != was:
            found[name] = value
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as dicts within dicts, for ``nested_replace``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = name.split(".")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def shown(value: Value) -> str:
    """As it is written in a space."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)

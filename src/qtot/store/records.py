"""Records of episodes: arrays by name, and what they are of, in one file; whoever wrote it.

A file is an ``.npz`` of plain arrays beside ``facts``, the bytes of a JSON object: ``slots/...`` as
training has them (``types.Slots``, without states), ``said/...`` (SAID), ``look/...``
(``envs.scenes.LOOKS``), ``info/...``, ``returns`` and ``lengths`` of the episodes, and ``frames``,
pictures of the first one, where the environment draws itself.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qtot.errors import QtotError
from qtot.store.files import write_atomic
from qtot.store.npz import read_array

SAID: dict[str, str] = {
    "q": "[T, E, N, A] every agent's values; with coma the logits of its policy",
    "greedy": "[T, E, N] the legal action of largest value",
    "q_tot": "[T, E] of the actions taken; only where values are mixed",
    "credit": "[T, E, N] ∂Q_tot/∂Q_a by the value of the action taken",
    "bias": "[T, E] Q_tot minus the sum of credit times Q_a: what the state adds",
    "td_error": "[T, E], or [T, E, N] where nothing is mixed: reward (as scaled in training) plus "
    "the discounted value of the next greedy joint action, minus the value; all by the networks as "
    "they are, over one step; 0 where no transition is",
    "q_joint": "[T, E] of the actions taken, by the unrestricted critic of weighted QMIX or QTRAN",
    "table": "[T, E, P] Q_tot of every joint action, legal or not, the last agent's action "
    "counting fastest; where there are few",
    "policy": "[T, E, N, A] coma: probabilities, without exploration",
    "q_critic": "[T, E, N, A] coma: the critic's value of each action, the others' as taken",
    "advantage": "[T, E, N] coma: counterfactual, of the action taken",
}
"""what the networks say of E episodes over T slots, as far as the method has it"""

FORMAT = 2
LARGEST = 2**30
"""bytes of a file that is read"""
KINDS = "biuf"
"""of numbers"""


class Certificate(NamedTuple):
    """Whether decentralised greedy actions are jointly greedy, in the states of some episodes."""

    states: int
    """in which the slopes below were taken"""
    smallest_credit: float | None
    """of ∂Q_tot/∂Q_a, over agents and states; None where nothing is mixed"""
    negative: float | None
    """share of agents and states in which it is below 0"""
    tried: int
    """states in which all joint actions were tried; 0 where there are too many, or no value of
    them"""
    joint_actions: int
    """of a state, legal or not"""
    agree: float | None
    """share of them in which everyone's own argmax has the largest Q_tot"""
    gap: float | None
    """the largest amount by which it falls short"""
    agree_joint: float | None
    """the same by the unrestricted critic of weighted QMIX or QTRAN; None where there is none"""
    gap_joint: float | None


def write_record(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Atomically.

    Raises:
        QtotError: it would be too large to be read again.
    """
    if sum(array.nbytes for array in arrays.values()) > LARGEST:
        raise QtotError("these episodes are too large to be recorded; record fewer")
    said = np.frombuffer(json.dumps({"format": FORMAT, **facts}).encode(), np.uint8)
    buffer = io.BytesIO()
    plain: Any = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, facts=said, **plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_record(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the arrays.

    Raises:
        QtotError: it is damaged, of another version, or no record.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise QtotError(f"{path} is no record of episodes")
        data = path.read_bytes()
    except OSError as error:
        raise QtotError(f"{path} cannot be read ({error})") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
            most, arrays = LARGEST, {}

            def fits(shape: tuple[int, ...], dtype: Any) -> str:
                size = int(np.prod(shape, dtype=object)) * dtype.itemsize
                fine = dtype.kind in KINDS and 0 <= size <= most
                return "" if fine else "holds no plain numbers, or too many"

            for name in names:
                arrays[name] = read_array(path, file, name, fits)
                most -= arrays[name].nbytes
        facts = json.loads(arrays.pop("facts").tobytes())
        if facts["format"] != FORMAT:
            raise QtotError(
                f"{path} has format {str(facts['format'])[:80]}, this version reads {FORMAT}; "
                "record anew: qtot eval RUN --record 4"
            )
    except QtotError:
        raise
    except Exception:  # a damaged zip raises whatever its bytes happen to say
        raise QtotError(
            f"{path} is damaged, or no record of episodes; record anew: qtot eval RUN --record 4"
        ) from None
    return facts, arrays

"""The folder that ``qtot export`` writes, read: ``policy.json``, checked before it is believed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtot.deploy.acting import Place
from qtot.errors import QtotError
from qtot.shapes import ObsShape, features

FORMAT = 1
POLICY = "policy.json"
LARGEST = 2**24
"""numbers in an observation, agents, actions: more is no policy of ours"""
_FILE = re.compile(r"[A-Za-z0-9_-]{1,64}\.[a-z]{1,16}")


@dataclass(frozen=True)
class Member:
    """An agent, and where its network is."""

    place: Place
    file: str


@dataclass(frozen=True)
class Facts:
    """What ``policy.json`` says."""

    members: tuple[Member, ...]
    obs_size: int
    """O, to which observations are padded with zeros"""
    max_actions: int
    """A, to which masks are padded with False"""
    memory_size: int
    values: str
    """``q``, or ``logits`` of a policy (COMA)"""
    said: dict[str, Any]
    """all of it"""


def read_facts(folder: Path) -> Facts:
    """What the folder holds.

    Raises:
        QtotError: it is no exported policy, or one that this version cannot read.
    """
    path = folder / POLICY
    if not path.is_file():
        raise QtotError(f"{folder} holds no {POLICY}; 'qtot export RUN --out {folder}' writes one")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise QtotError(f"{path} cannot be read ({str(error)[:200]})") from None
    try:
        if said["format"] != FORMAT:
            raise QtotError(
                f"{path} has format {str(said['format'])[:80]}, this version reads {FORMAT}; use "
                "the version that wrote it, or export again"
            )
        return _facts(said)
    except QtotError as error:
        raise QtotError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise QtotError(f"{path} is no policy of qtot's ({str(error)[:200]!r})") from None


def _facts(said: dict[str, Any]) -> Facts:
    obs_shape, pixels = _obs_shape(said["obs_shape"]), tuple(map(_text, said["pixels"]))
    obs_size, max_actions = _whole(said["obs_size"], 0), _whole(said["max_actions"], 1)
    members = []
    for i, one in enumerate(said["agents"]):
        place = Place(
            name=_text(one["name"]),
            index=_whole(one["agent_id"], 0),
            n_actions=_whole(one["n_actions"], 1),
            obs_size=_whole(one["obs_size"], 0),
            obs_shape=obs_shape,
            pixels=pixels,
            action_meanings=tuple(map(_text, one["action_meanings"])),
        )
        fits = place.n_actions <= max_actions and place.obs_size <= obs_size
        fits = fits and (not obs_shape or place.obs_size == obs_size)
        if place.index != i or not fits or len(place.action_meanings) not in (0, place.n_actions):
            raise QtotError(f"agent {i} cannot be one: {str(one)[:200]}")
        members.append(Member(place, _file(one["file"])))
    names = [member.place.name for member in members]
    if not names or len(set(names)) != len(names):
        raise QtotError(f"expected agents with names of their own, got {str(names)[:200]}")
    if obs_shape and features(obs_shape) != obs_size:
        raise QtotError(f"obs_shape {said['obs_shape']} has not the {obs_size} numbers of obs_size")
    if said["values"] not in ("q", "logits"):
        raise QtotError(f"values must be 'q' or 'logits', got {str(said['values'])[:80]!r}")
    size = _whole(said["memory_size"], 0)
    return Facts(tuple(members), obs_size, max_actions, size, said["values"], said)


def read_file(folder: Path, name: str, facts: Facts) -> bytes:
    """A file of the folder, as it was written.

    Raises:
        QtotError: it is missing, changed, or somewhere else.
    """
    path = folder / name
    try:
        seal = facts.said["files"][name]
        size, digest = _whole(seal["bytes"], 0, 2**40), _text(seal["sha256"])
    except (KeyError, TypeError) as error:
        raise QtotError(f"{folder / POLICY} says nothing of {name} ({error!r})") from None
    try:
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise QtotError(f"{path} is no file of that folder")
        data = path.read_bytes() if path.stat().st_size == size else b""
    except (OSError, RuntimeError) as error:
        raise QtotError(f"{path} cannot be read ({error})") from None
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise QtotError(
            f"{path} is not the file that was exported: its size or checksum is another; copy the "
            "folder again, or export again"
        )
    return data


def _whole(value: Any, low: int, high: int = LARGEST) -> int:
    if type(value) is not int or not low <= value <= high:
        raise QtotError(f"expected a whole number from {low} to {high}, got {str(value)[:80]}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise QtotError(f"expected a text, got {str(value)[:80]}")
    return value


def _file(value: Any) -> str:
    if not _FILE.fullmatch(_text(value)):
        raise QtotError(f"expected the plain name of a file, got {value[:80]!r}")
    return value


def _obs_shape(value: Any) -> ObsShape:
    """As JSON has it: a list of sizes, or of names with lists of sizes."""
    if value and isinstance(value[0], list):
        return tuple((_text(name), tuple(_whole(x, 0) for x in part)) for name, part in value)
    return tuple(_whole(x, 0) for x in value)

"""Recorded episodes as a page plays them: lists of numbers, step by step. What is read may be
anybody's, so every size is checked.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any, NamedTuple, get_args

import numpy as np

from qtot.core.methods import method
from qtot.envs.scenes import LOOKS
from qtot.errors import QtotError
from qtot.reporting.read import ReadRun
from qtot.store.records import SAID, Certificate
from qtot.store.run_folder import Which

MOST_FEATURES = 64
"""of an observation, drawn where there is nothing else to see"""
GROUNDS = ("plane", "grid", "table")


class Record(NamedTuple):
    """The episodes of one seed."""

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def episodes(self) -> int:
        """How many."""
        return len(self.arrays["lengths"])

    @property
    def certificate(self) -> Certificate:
        """Of the states of more episodes, perhaps."""
        return Certificate(**self.facts["certificate"])


def read_checked(run: ReadRun, seed: int) -> Record:
    """Of one seed.

    Raises:
        QtotError: there is none, or it is no record of that run.
    """
    facts, arrays = run.folder.read_record(seed)
    try:
        _check(run, facts, arrays)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise QtotError(
            f"the record of seed {seed} of {run.path} is damaged ({str(error)[:200]}); record "
            f"anew: qtot eval {run.path} --record 4"
        ) from None
    return Record(facts, arrays)


SHAPES = {
    "slots/obs": "NO",
    "slots/avail_actions": "NA",
    "slots/alive": "N",
    "slots/action": "N",
    "slots/reward": "",
    "slots/valid": "",
    "said/q": "NA",
    "said/greedy": "N",
}
"""of what every record has, after slots and episodes"""
SHAPES_OF_SOME = {
    "said/credit": "N",
    "said/advantage": "N",
    "said/q_tot": "",
    "said/bias": "",
    "said/q_joint": "",
    "said/policy": "NA",
    "said/q_critic": "NA",
}


def _check(run: ReadRun, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    spec = run.spec
    sizes = {"N": spec.n_agents, "A": spec.max_actions, "O": spec.obs_size}
    slots, many = arrays["slots/action"].shape[:2]

    def be(fine: Any, what: str) -> None:
        if not fine:
            raise ValueError(what)

    be(facts["which"] in get_args(Which) and isinstance(facts["seed"], int), "which")
    be(isinstance(facts["params"], str), "params")
    agents, n_actions = facts["agents"], facts["n_actions"]  # of the environment, --env perhaps
    be(isinstance(agents, list) and isinstance(n_actions, list), "agents")
    be(len(agents) == spec.n_agents and all(isinstance(x, str) for x in agents), "agents")
    be(len(n_actions) == spec.n_agents and all(type(x) is int for x in n_actions), "n_actions")
    be(min(n_actions) > 0 and max(n_actions) <= spec.max_actions, "n_actions")
    for name, axes in (SHAPES | SHAPES_OF_SOME).items():
        if name in SHAPES or name in arrays:
            shape = arrays[name].shape
            be(shape == (slots, many, *(sizes[axis] for axis in axes)), f"{name}: {shape}")
    for name, array in arrays.items():
        part = name.partition("/")[0]
        be(part not in ("said", "look") or array.shape[:2] == (slots, many), name)
        be(part != "info" or array.shape == (many,), name)
    for name in ("slots/action", "said/greedy"):
        array = arrays[name]
        be(array.dtype.kind in "iu", name)
        be(((array >= 0) & (array < np.array(n_actions))).all(), name)
    lengths = arrays["lengths"]
    be(lengths.shape == (many,) and 1 <= lengths.min() <= lengths.max() < slots, "lengths")
    be(arrays["returns"].shape == (many,), "returns")
    frames = arrays.get("frames")
    if frames is not None:
        be(frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3, "frames")
        be(frames.size and len(frames) <= slots, "frames")
    _check_certificate(Certificate(**facts["certificate"]))
    for name in ("said/td_error", "said/table", "look/payoffs"):
        if name in arrays:
            be(arrays[name].ndim <= 3, name)
    joint = arrays.get("look/payoffs")
    if joint is not None:
        size = spec.max_actions**spec.n_agents
        be(joint.shape[2:] == (size,), "look/payoffs")
        be(arrays.get("said/table", joint).shape == joint.shape, "said/table")
    if facts["scene"] is not None:
        facts["scene"] = _scene(facts["scene"], arrays, spec.n_agents)


def _check_certificate(said: Certificate) -> None:
    counts = (said.states, said.tried, said.joint_actions)
    pairs = (
        (said.smallest_credit, said.negative),
        (said.agree, said.gap),
        (said.agree_joint, said.gap_joint),
    )
    fine = all(isinstance(x, int) and x >= 0 for x in counts)
    for one, other in pairs:
        if one is None or other is None:
            fine = fine and one is other
        else:
            fine = fine and math.isfinite(one) and math.isfinite(other)
    if not fine:
        raise ValueError("certificate")


WIDEST = 1e4
"""of a ground, from side to side"""


def _scene(scene: Any, arrays: dict[str, np.ndarray], agents: int) -> dict[str, Any]:
    """The same, of plain values; nothing else that a file may say of it."""
    bounds = [float(x) for x in scene["bounds"]]
    wide, high = (abs(bounds[i + 2] - bounds[i]) for i in (0, 1))
    things = [
        {"name": str(x["name"]), "kind": str(x["kind"]), "radius": float(x["radius"])}
        for x in scene["things"]
    ]
    fine = scene["ground"] in GROUNDS and len(bounds) == 4 and 0 < wide < WIDEST
    fine = fine and 0 < high < WIDEST and all(0 < x["radius"] < WIDEST for x in things)
    fine = fine and (scene["ground"] == "table" or len(things) >= agents)
    for name in ("x", "y", "shown") if scene["ground"] != "table" else ("payoffs",):
        fine = fine and f"look/{name}" in arrays
    for name, kinds in (("x", "if"), ("y", "if"), ("target", "i")):
        array = arrays.get(f"look/{name}", np.zeros(0, int))
        fine = fine and array.dtype.kind in kinds and np.isfinite(array).all()
    for name in LOOKS:
        array = arrays.get(f"look/{name}")
        if array is not None and name != "payoffs":
            fine = fine and array.shape[2:] == (len(things),)
    if not fine:
        raise ValueError("scene")
    return {"ground": scene["ground"], "bounds": bounds, "things": things}


def episode(record: Record, index: int) -> dict[str, Any]:
    """One as the viewer reads it: lists over its slots, the final observation's included."""
    facts, arrays = record
    length = int(arrays["lengths"][index])
    span = slice(0, length + 1)

    def of(name: str) -> Any:
        array = arrays.get(name)
        return None if array is None else numbers(array[span, index])

    said = {name: of(f"said/{name}") for name in SAID}
    looks = {name: of(f"look/{name}") for name in LOOKS}
    out = {
        "seed": facts["seed"],
        "length": length,
        "return": _shortest(float(arrays["returns"][index])),
        "info": {
            name.partition("/")[2]: _shortest(float(values[index]))
            for name, values in arrays.items()
            if name.startswith("info/")
        },
        "action": of("slots/action"),
        "legal": of("slots/avail_actions"),
        "alive": of("slots/alive"),
        "reward": of("slots/reward"),
        **{name: value for name, value in said.items() if value is not None},
        "looks": {name: value for name, value in looks.items() if value is not None},
    }
    if index == 0 and "frames" in arrays:
        out["frames"] = [_picture(frame) for frame in arrays["frames"][span]]
    if facts["scene"] is not None:
        out["bounds"] = _bounds(facts["scene"], arrays, span, index)
    else:
        out["obs"] = numbers(arrays["slots/obs"][span, index, :, :MOST_FEATURES], 3)
    return out


def _bounds(
    scene: dict[str, Any], arrays: dict[str, np.ndarray], span: slice, index: int
) -> list[float]:
    """Of a plane, a square with all that is ever there, and some air around it."""
    left, bottom, right, top = (float(x) for x in scene["bounds"])
    if scene["ground"] != "plane" or not {"look/x", "look/y", "look/shown"} <= arrays.keys():
        return [left, bottom, right, top]
    there = arrays["look/shown"][span, index].astype(bool)
    x, y = (arrays[f"look/{axis}"][span, index][there] for axis in "xy")
    if not len(x) or not np.isfinite([x, y]).all():
        return [left, bottom, right, top]
    air = 6 * max(thing["radius"] for thing in scene["things"])
    side = max(float(np.ptp(x)) + air, float(np.ptp(y)) + air, (right - left) / 3)
    middle = [float(values.min() + values.max()) / 2 for values in (x, y)]
    return [round(m + sign * side / 2, 3) for sign in (-1, 1) for m in middle]


def numbers(array: np.ndarray, digits: int = 4) -> Any:
    """Nested lists; so many significant digits; 0 and 1 for bools; null where it is not finite."""
    if array.dtype.kind == "b":
        return array.astype(int).tolist()
    if array.dtype.kind in "iu":
        return array.tolist()
    with np.errstate(all="ignore"):
        size = np.floor(np.log10(np.abs(array, dtype=float)))
        size = np.where(np.isfinite(size), size, 0.0)
        factor = 10.0 ** (digits - 1 - size)
        short = np.round(array.astype(float) * factor) / factor
    fine = np.isfinite(array)
    if fine.all():
        return _shortest(short.tolist())
    return _shortest(np.where(fine, short, np.nan).tolist())


def _shortest(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortest(x) for x in value]
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")


def _picture(frame: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def stage(run: ReadRun, record: Record) -> dict[str, Any]:
    """What all episodes of a record share."""
    return {
        "agents": record.facts["agents"],
        "n_actions": record.facts["n_actions"],
        "action_meanings": _meanings(record.facts),
        "on_policy": method(run.config.algo).on_policy,
        "scene": record.facts["scene"],
    }


def _meanings(facts: dict[str, Any]) -> Any:
    """As the environment said when it was recorded."""
    said = facts.get("action_meanings")
    if not isinstance(said, list) or not all(isinstance(row, list) for row in said):
        return ()
    if [len(row) for row in said] != facts["n_actions"]:
        return ()
    return said if all(isinstance(x, str) for row in said for x in row) else ()

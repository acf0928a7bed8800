"""What a play says of an environment in Python, for its user to look at; a part of ``check``."""

from __future__ import annotations

from typing import Any

from qtot.envs.check_record import played_facts
from qtot.envs.host.check_play import Played, Player
from qtot.shapes import ObsShape, array_shape, is_named


def host_facts(player: Player, record: Played) -> dict[str, Any]:
    """What is said of every environment, and besides what adapters, masks and the clock say."""
    spec, facts = player.spec, {}
    if spec.about:
        facts["about"] = spec.about
    if spec.obs_shape:
        facts["obs_shape"] = _written(spec.obs_shape)
    facts |= played_facts(spec, record)
    if spec.masks == "environment":
        choices = record.seen.avail_actions.sum(-1)[record.seen.alive & record.valid[..., None]]
        facts["mean_legal"] = float(choices.mean()) if len(choices) else None
    taken = facts["transitions"]
    facts["steps_per_second"] = round(taken / player.seconds) if player.seconds else None
    return facts


def _written(shape: ObsShape) -> str:
    if is_named(shape):
        return ", ".join(f"{name} {_written(part) or 1}" for name, part in shape)
    return " x ".join(map(str, array_shape(shape)))

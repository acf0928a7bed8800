"""Pictures that environments in Python draw of themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qtot.envs.host.base import ERRORS, HostEnv
from qtot.envs.host.config import HostConfig

MODE = "rgb_array"
DRAW = ("pettingzoo/", "gym/")
"""families whose environments take ``render_mode``"""
WIDEST = 256
"""pixels of a side; larger pictures are thinned out"""


def drawing(name: str, config: HostConfig) -> HostConfig:
    """The same, asked to draw, where that can be asked for."""
    given = any(arg.partition("=")[0].strip() == "render_mode" for arg in config.args)
    if given or not name.startswith(DRAW):
        return config
    return replace(config, args=(*config.args, f"render_mode={MODE}"))


def frame(env: HostEnv | None) -> np.ndarray | None:
    """``[H, W, 3]`` uint8; None where the environment draws nothing, or no such thing."""
    world: Any = getattr(env, "_env", env)
    if getattr(world, "render_mode", None) != MODE:
        return None
    try:
        picture = np.asarray(world.render())
    except ERRORS:
        return None
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] not in (3, 4):
        return None
    step = -(-max(picture.shape[:2]) // WIDEST)
    return np.ascontiguousarray(picture[::step, ::step, :3])

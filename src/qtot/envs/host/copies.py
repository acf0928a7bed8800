"""From one environment of the user's own to as many as are needed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle

from qtot.envs.host.config import HostConfig
from qtot.envs.host.own import is_factory, open_env
from qtot.errors import QtotError


def maker(target: Any, config: HostConfig) -> Callable[[], Any]:
    """Makes an environment: with a factory, by calling it; of an object, by copying it, so that
    neither closing a copy nor playing it touches the user's.

    Raises:
        QtotError: the object cannot be copied.
    """
    if is_factory(target):
        return partial(open_env, target, config)
    try:
        return partial(_copy, cloudpickle.dumps(target), config)
    except Exception as error:
        raise QtotError(
            f"this {type(target).__name__} cannot be copied, and training needs several "
            f"({type(error).__name__}: {error}); give a function that makes one in its place"
        ) from None


def _copy(pickled: bytes, config: HostConfig) -> Any:
    return open_env(pickle.loads(pickled), config)

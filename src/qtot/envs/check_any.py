"""Checking any environment: made or by name, written in JAX or in Python.

JAX is not imported for one that is written in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from qtot.envs import make_env
from qtot.envs.host.base import ERRORS, is_host
from qtot.envs.host.config import HostConfig
from qtot.envs.host.copies import maker
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError

if TYPE_CHECKING:
    from qtot.envs.report import Report


def check_any(
    target: Any,
    *,
    steps: int | None = None,
    seed: int = 0,
    config: HostConfig | None = None,
    **of_jax: Any,
) -> Report:
    """What is to be said of an environment, a name or a factory.

    Args:
        target: one of these.
        steps: slots played in each copy (JAX), or transitions in all (Python); None: enough.
        seed: of episodes and actions.
        config: how to make an environment in Python.
        **of_jax: for ``qtot.envs.check.check_env``.

    Raises:
        QtotError: there is no such environment, or a number is out of range.
    """
    for name, number, least in (("steps", steps, 1), ("seed", seed, 0)):
        if number is not None and not least <= number < 2**31:
            raise QtotError(f"{name} must be from {least} to 2**31 - 1, got {number}")
    env: Any = target
    again: Callable[[], Any] | None = None  # the same once more; a HostEnv if env is one
    if not isinstance(getattr(target, "spec", None), EnvSpec) or isinstance(target, type):
        config = config or HostConfig()
        named = isinstance(target, str)
        again = partial(make_env, target, config) if named else maker(target, config)
        env = again()
    if not is_host(env):
        from qtot.envs.check import check_env

        return check_env(env, steps=steps, seed=seed, **of_jax)
    from qtot.envs.host.check import check_host

    report = check_host(env, **({} if steps is None else {"steps": steps}), seed=seed, again=again)
    if env is not target:
        with suppress(*ERRORS):  # the report is what was asked for
            env.close()
    return report

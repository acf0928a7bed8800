"""What all adapters state of an environment: spec, episode limit, whether it takes a seed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qtot.envs.host.config import HostConfig
from qtot.envs.host.places import Place
from qtot.envs.host.spaces import pixels, shared_shape
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError

NO_LIMIT = 1000
LIMITS = (  # attributes by which environments declare a limit
    "max_cycles",
    "max_steps",
    "max_episode_steps",
    "_max_episode_steps",
    "max_episode_length",
    "episode_limit",
)
INNER = ("env", "aec_env", "par_env", "unwrapped")


def spec_of(
    env: Any,
    name: str,
    places: Sequence[Place],
    config: HostConfig,
    *,
    limit: int,
    masks: bool,
    about: str,
    state: np.ndarray | None = None,
) -> EnvSpec:
    """The facts of a world whose agents have spaces of their own.

    Args:
        env: the world itself, which may have words for its actions.
        name: its own.
        places: of all agents.
        config: how rewards are added up, and what is reported.
        limit: of an episode.
        masks: whether the world says which actions are legal.
        about: one line.
        state: the world's, as it was first; None where all observations in a row are the state.
    """
    sizes = tuple(place.size for place in places)
    return EnvSpec(
        name=name,
        agents=tuple(place.name for place in places),
        n_actions=tuple(place.n_actions for place in places),
        obs_sizes=sizes,
        state_size=sum(sizes) if state is None else state.size,
        episode_limit=limit,
        obs_shape=shared_shape(spaces := [place.space for place in places]),
        pixels=pixels(spaces),
        action_meanings=meanings(env, places),
        team_reward="sum" if config.team_reward == "auto" else config.team_reward,
        state_source="concatenated observations" if state is None else "environment",
        masks="environment" if masks else "all legal",
        info=config.info,
        about=about,
    )


def meanings(env: Any, places: Sequence[Place]) -> tuple[tuple[str, ...], ...]:
    """``EnvSpec.action_meanings`` of a world that says ``action_meanings``, words for all agents or
    for each by its name, or ``get_action_meanings()``; () where it does not, or not for all.
    """
    for layer in layers(env):
        said = _attribute(layer, "action_meanings")
        if said is None and callable(ask := _attribute(layer, "get_action_meanings")):
            with contextlib.suppress(Exception):  # whatever it raises, it does not say
                said = ask()
        if said is None:
            continue
        each = [said.get(p.name) if isinstance(said, Mapping) else said for p in places]
        words = tuple(_words(one, p.n_actions) for one, p in zip(each, places, strict=True))
        return words if all(words) else ()
    return ()


def _words(said: Any, n: int) -> tuple[str, ...]:
    try:
        words = tuple(str(word) for word in said)
    except TypeError:
        return ()
    return words if len(words) == n else ()


def about(n: int, api: str, limit: str, *, seeded: bool) -> str:
    """One line: so many agents, what they are reached by, and what the environment leaves open."""
    said = (f"{n} agents, {api}", limit, "" if seeded else "its reset takes no seed")
    return "; ".join(part for part in said if part)


def layers(env: Any) -> Iterator[Any]:
    """An environment, what it wraps, what that wraps, ..."""
    todo, seen = [env], []
    while todo:
        layer = todo.pop(0)
        if layer is None or any(layer is other for other in seen):
            continue
        seen.append(layer)
        yield layer
        todo += [_attribute(layer, name) for name in INNER]


def _attribute(env: Any, name: str) -> Any:
    try:
        return getattr(env, name, None)
    except Exception:  # a property may raise whatever it likes
        return None


def limit_of(env: Any, config: HostConfig, declared: Any = None) -> tuple[int, str]:
    """The episode limit, and what to say of it: the user's, else the smallest that the environment
    or what it wraps declares, else one of our own.
    """
    if config.episode_limit < 0:
        raise QtotError(f"episode_limit must be 0 or more, got {config.episode_limit}")
    if config.episode_limit:
        return config.episode_limit, ""
    found = [declared, *(_attribute(layer, name) for layer in layers(env) for name in LIMITS)]
    limits = [int(x) for x in found if isinstance(x, int | np.integer) and not isinstance(x, bool)]
    limits = [limit for limit in limits if limit > 0]
    if limits:
        return min(limits), ""
    return NO_LIMIT, f"no limit declared: cut at {NO_LIMIT}"


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether it can be called with the keyword ``name``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C: nobody knows
        return True
    return any(
        p.kind is p.VAR_KEYWORD or (p.name == name and p.kind is not p.POSITIONAL_ONLY)
        for p in parameters
    )

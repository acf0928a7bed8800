"""Does an environment written in Python keep the contract? Says what is broken, and the remedy.

    print(check_host(env, again=lambda: make()))

It is played with random legal actions. An *error* breaks training or makes it silently wrong; a
*notice* is right only if it is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from qtot.envs.check_record import (
    ending_problems,
    mask_problems,
    observed_problems,
    played_notices,
)
from qtot.envs.check_spec import spec_problems
from qtot.envs.host.base import ERRORS, HostEnv
from qtot.envs.host.check_facts import host_facts
from qtot.envs.host.check_found import Found, summary
from qtot.envs.host.check_play import Played, Player
from qtot.envs.host.check_repeat import alike, departing, inverted
from qtot.envs.host.check_rewards import reward_problems
from qtot.envs.report import Problem, Report, problem
from qtot.envs.spec import EnvSpec

Again = Callable[[], HostEnv]


def check_host(
    env: HostEnv,
    *,
    steps: int = 4_000,
    seed: int = 0,
    again: Again | None = None,
    wall_s: float = 30.0,
) -> Report:
    """Checks the environment against the contract of ``qtot.envs.host.base``.

    Adapters may offer two things more: ``agent_rewards``, the agents' own rewards ``[N]`` of the
    last step, and ``outside() -> str | None``, what is outside of the declared space.

    Args:
        env: the environment; it is left open.
        steps: transitions played, all episodes together.
        seed: of the first episode, those after it count on; also decides the actions.
        again: makes the environment once more, in which episodes are repeated; otherwise they
            are repeated in ``env``.
        wall_s: seconds after which playing stops, wherever it is.
    """
    name = type(env).__name__
    spec, broken = _facts_of(env, name)
    if spec is None or broken:
        return Report(spec.name if spec else name, {}, broken)
    player = Player(env, spec, steps=steps, seed=seed, wall_s=wall_s)
    record = player.play()
    found = player.found
    if record is None:
        return Report(spec.name, {}, list(found))
    other = _fresh(again, spec, found) or env
    try:
        same_starts = list(alike(player, record, other, wall_s / 4))
        departures = list(departing(player, record, other, wall_s / 4))
        wrong_way = list(inverted(player, other))
    finally:
        if other is not env:
            with suppress(*ERRORS):  # whether it can be closed is not what was asked
                other.close()
    with np.errstate(all="ignore"):  # what is not finite has been told by name
        facts = host_facts(player, record)
        problems = [
            *wrong_way,
            *(told for told in found if not (wrong_way and told.kind == "step_raised")),
            *observed_problems(spec, record),
            *mask_problems(spec, record),
            *_endings(player, record),
            *departures,
            *same_starts,
            *_noticed(spec, record),
            *reward_problems(player, record, facts["return_mean"]),
            *_assumed_limit(player, record),
        ]
    facts["deterministic"] = not departures
    if player.cut:
        facts["stopped_after"] = player.cut
    return Report(spec.name, facts, problems)


def _facts_of(env: Any, name: str) -> tuple[EnvSpec | None, list[Problem]]:
    lacks = [part for part in ("reset", "step", "close") if not _has(env, part)]
    try:
        spec = env.spec
    except ERRORS as error:
        spec, lacks = None, ["spec: " + summary(error), *lacks]
    contract = "the contract is qtot.envs.host.base.HostEnv"
    if lacks:
        got = f"no {', no '.join(lacks)}"
        return None, [problem("interface", name, "a HostEnv", got, f"add them; {contract}")]
    if not isinstance(spec, EnvSpec):
        remedy = f"return a qtot.envs.spec.EnvSpec; {contract}"
        return None, [problem("interface", "spec", "an EnvSpec", type(spec).__name__, remedy)]
    try:
        kinds: dict[str, type] = dict.fromkeys(("name", "about"), str)
        kinds |= dict.fromkeys(("state_size", "episode_limit", "shortest_episode"), int)
        lists = {"agents": str, "n_actions": int, "obs_sizes": int, "info": str}
        wrong = [f for f, kind in kinds.items() if not isinstance(getattr(spec, f), kind)]
        for f, kind in lists.items():
            entries = getattr(spec, f)
            if not (isinstance(entries, tuple) and all(isinstance(e, kind) for e in entries)):
                wrong.append(f)
        if wrong:
            raise TypeError(f"{wrong[0]}={getattr(spec, wrong[0])!r}")
        return spec, list(spec_problems(spec))
    except ERRORS as error:
        remedy = "give every field the type that EnvSpec declares"
        return None, [problem("spec", "spec", "an EnvSpec", summary(error), remedy)]


def _has(env: Any, part: str) -> bool:
    try:
        return callable(getattr(env, part))
    except ERRORS:
        return False


def _fresh(again: Again | None, spec: EnvSpec, found: Found) -> HostEnv | None:
    """A second environment; None if there is none to be had."""
    if again is None:
        return None
    try:
        other = again()
        same = other.spec == spec
    except ERRORS as error:
        found.raised("again_raised", "a second instance", error, "the environment once more")
        return None
    if not same:
        remedy = "make the facts depend on the arguments only"
        found.tell("spec", "spec", "a second instance", "the same facts", "others", remedy)
    return other


def _endings(player: Player, record: Played) -> Iterator[Problem]:
    """Where the play was cut, more steps would not show an end."""
    for told in ending_problems(player.spec, record):
        if told.kind != "no_end_seen" or not player.cut:
            yield told
        elif not player.cut.endswith("failures"):
            yield problem(
                "no_end_seen",
                "episodes",
                "an end",
                f"none in {int(record.valid.sum())} steps, which took {player.cut}",
                "shorter episodes, or quicker steps, show how they end",
                severity="notice",
            )


def _noticed(spec: EnvSpec, record: Played) -> Iterator[Problem]:
    """Where nothing moved, that the state did not says nothing."""
    for told in played_notices(spec, record):
        if told.kind != "constant_state" or record.valid.any():
            yield told


def _assumed_limit(player: Player, record: Played) -> Iterator[Problem]:
    """Adapters say by ``limit_assumed`` that nobody declared a limit."""
    if not getattr(player.env, "limit_assumed", False) or record.result.terminated.any():
        return
    limit = player.spec.episode_limit
    if not (record.result.truncated & (record.time + 1 < limit)).any():
        yield problem(
            "no_limit",
            "episodes",
            "an end, or a limit declared",
            f"neither in {int(record.valid.sum())} steps",
            f"they are cut after {limit} transitions; --host.episode-limit says when instead",
            severity="notice",
        )

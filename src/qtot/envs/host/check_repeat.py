"""What is played a second time: whether seeds repeat episodes and make a difference to how they
begin, and whether a mask is the wrong way round; a part of ``check``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from qtot.envs.check_record import RESETS_COMPARED, alike_problems, real_entries
from qtot.envs.host.base import ERRORS, HostEnv, Seen, Stepped
from qtot.envs.host.check_found import summary
from qtot.envs.host.check_play import Episode, Played, Player
from qtot.envs.host.check_read import cast, described
from qtot.envs.report import Problem, problem

REPEATED_STEPS = 1_000
"""at most, to see whether a seed repeats an episode"""


def alike(player: Player, record: Played, other: HostEnv, wall_s: float) -> Iterator[Problem]:
    """Whether all episodes begin alike; resets a few times more where few were played."""
    first = record.time[:, 0] == 0
    starts = [record.seen.obs[first, 0], record.seen.state[first, 0]]
    until, beyond = time.perf_counter() + wall_s, player.episodes[-1].seed + 1
    with suppress(*ERRORS), np.errstate(all="ignore"):  # resets that raise were told of
        while len(starts[0]) < RESETS_COMPARED and time.perf_counter() < until:
            seen = other.reset(beyond)
            starts = [
                np.concatenate([all_, np.asarray(new, np.float32)[None]])
                for all_, new in zip(starts, (seen.obs, seen.state), strict=True)
            ]
            beyond += 1
    yield from alike_problems(starts, "seed")


def departing(player: Player, record: Played, other: HostEnv, wall_s: float) -> Iterator[Problem]:
    """Where seeds and actions do not repeat what was seen."""
    until, left = time.perf_counter() + wall_s, REPEATED_STEPS
    # The last one first: what was left over from the episodes before it is then not there.
    for index in (len(player.episodes) - 1, *range(len(player.episodes) - 1)):
        episode = player.episodes[index]
        try:
            for step, (seen, stepped) in enumerate(_retrace(other, episode, episode.actions)):
                told = _difference(seen, stepped, record, episode.first_slot + step)
                if told:
                    yield _nondeterministic(f"step {step} of episode {index}", *told)
                    return
                left -= 1
                if left <= 0 or time.perf_counter() > until:
                    return
        except ERRORS as error:
            yield _nondeterministic(f"episode {index}", "play", f"an answer and {summary(error)}")
            return


def _nondeterministic(where: str, field: str, got: str) -> Problem:
    return problem(
        "nondeterministic",
        f"{field} at {where}, repeated",
        "the same from the same seed and actions",
        got,
        "draw every random number from what reset(seed) seeds and keep nothing from episode to "
        "episode; otherwise runs cannot be repeated, and two with the same seed differ",
        severity="notice",
    )


def inverted(player: Player, other: HostEnv) -> Iterator[Problem]:
    """Where legal actions raised, whether illegal ones do not."""
    if player.stumble is None:
        return
    episode, actions, legal = player.stumble
    illegal = ~legal & real_entries(player.spec.n_actions)
    if not illegal.any():
        return
    forbidden = np.where(illegal.any(-1), illegal.argmax(-1), np.array(actions)).tolist()

    def raises(joint: list[int]) -> bool:
        try:
            for _ in _retrace(other, episode, [*episode.actions, joint]):
                pass
        except ERRORS:
            return True
        return False

    # only the last step can tell: the ones before it went well when they were played
    if raises(actions) and not raises(forbidden):
        yield problem(
            "mask_inverted",
            f"step {len(episode.actions)} after reset({episode.seed})",
            "True = legal",
            f"an exception from the legal actions {actions}, and none from illegal ones",
            "the mask looks inverted: return ~mask, with False for padding",
        )


def _retrace(
    env: HostEnv, episode: Episode, actions: Sequence[list[int]]
) -> Iterator[tuple[Any, Stepped | None]]:
    """What is seen, and what was answered, from the reset on. Raises what the environment does."""
    yield env.reset(episode.seed), None
    for joint in actions:
        stepped = env.step(list(joint))
        yield stepped.seen, stepped


def _difference(
    seen: Any, stepped: Stepped | None, record: Played, slot: int
) -> tuple[str, str] | None:
    """The first field in which a repeated slot departs from the record, and both its values."""
    pairs: list[tuple[str, Any, Any]] = []
    if stepped is not None:
        pairs += [
            (name, getattr(stepped, name), getattr(record.result, name)[slot - 1, 0])
            for name in record.result._fields
        ]
    pairs += [
        (name, getattr(seen, name), getattr(record.seen, name)[slot, 0]) for name in Seen._fields
    ]
    for name, got, kept in pairs:
        new = cast(got, kept.dtype)
        if new is None or new.shape != kept.shape:
            return name, f"{kept.shape} and {described(got)}"
        differs = np.argwhere((new != kept) & ~(np.isnan(new) & np.isnan(kept)))
        if len(differs):
            place = tuple(differs[0])
            return name, f"{kept[place]} and {new[place]}"
    return None

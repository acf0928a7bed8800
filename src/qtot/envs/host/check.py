"""Does an environment written in Python keep the contract? Says what is broken, and the remedy.

    print(check_host(env, again=lambda: make()))

It is played with random legal actions. An *error* breaks training or makes it silently wrong; a
*notice* is right only if it is meant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from qtot.envs.check_record import (
    RESETS_COMPARED,
    alike_problems,
    ending_problems,
    mask_problems,
    observed_problems,
    played_facts,
    played_notices,
)
from qtot.envs.check_spec import spec_problems
from qtot.envs.host.base import HostEnv
from qtot.envs.host.check_play import (
    Found,
    Played,
    Player,
    Stumble,
    difference,
    retrace,
    summary,
)
from qtot.envs.report import Problem, Report, problem
from qtot.envs.spec import EnvSpec

Again = Callable[[], HostEnv]

REPEATED_STEPS = 1_000
"""at most, to see whether a seed repeats an episode"""
HUGE_RETURN = 1e4
RIVALRY = -0.5
"""agents' rewards that correlate less are those of opponents"""
ENOUGH_REWARDS = 20


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
        seeds_matter = list(_alike(player, record, other, wall_s / 4))
        repeats, differs = _repeat(player, record, other, wall_s / 4)
        inverted = list(_inverted(player.stumble, other)) if player.stumble else []
    finally:
        if other is not env:
            with suppress(Exception):  # whether it can be closed is not what was asked
                other.close()
    with np.errstate(all="ignore"):  # what is not finite has been told by name
        problems = [
            *inverted,
            *_without(found, "step_raised" if inverted else ""),
            *observed_problems(spec, record),
            *mask_problems(spec, record),
            *_endings(player, record),
            *_rivals(player),
            *differs,
            *seeds_matter,
            *played_notices(spec, record),
            *_rewards(record),
            *_assumed_limit(player, record),
        ]
        facts = played_facts(spec, record)
    taken = facts["transitions"]
    facts["steps_per_second"] = round(taken / player.seconds) if player.seconds else None
    facts["deterministic"] = repeats
    if player.cut:
        facts["stopped_after"] = player.cut
    huge = facts["return_mean"]
    if huge is not None and abs(huge) > HUGE_RETURN:
        problems.append(_huge(huge))
    return Report(spec.name, facts, problems)


def _facts_of(env: Any, name: str) -> tuple[EnvSpec | None, list[Problem]]:
    lacks = [part for part in ("reset", "step", "close") if not _has(env, part)]
    try:
        spec = env.spec
    except Exception as error:
        spec, lacks = None, ["spec: " + summary(error), *lacks]
    contract = "the contract is qtot.envs.host.base.HostEnv"
    if lacks:
        got = f"no {', no '.join(lacks)}"
        return None, [problem("interface", name, "a HostEnv", got, f"add them; {contract}")]
    if not isinstance(spec, EnvSpec):
        remedy = f"return a qtot.envs.spec.EnvSpec; {contract}"
        return None, [problem("interface", "spec", "an EnvSpec", type(spec).__name__, remedy)]
    try:
        kinds = {"name": str, "state_size": int, "episode_limit": int, "shortest_episode": int}
        lists = {"agents": str, "n_actions": int, "obs_sizes": int, "info": str}
        wrong = [f for f, kind in kinds.items() if not isinstance(getattr(spec, f), kind)]
        for f, kind in lists.items():
            entries = getattr(spec, f)
            if not (isinstance(entries, tuple) and all(isinstance(e, kind) for e in entries)):
                wrong.append(f)
        if wrong:
            raise TypeError(f"{wrong[0]}={getattr(spec, wrong[0])!r}")
        return spec, list(spec_problems(spec))
    except Exception as error:
        remedy = "give every field the type that EnvSpec declares"
        return None, [problem("spec", "spec", "an EnvSpec", summary(error), remedy)]


def _has(env: Any, part: str) -> bool:
    try:
        return callable(getattr(env, part))
    except Exception:
        return False


def _without(found: Found, kind: str) -> Iterator[Problem]:
    return (problem for problem in found if problem.kind != kind)


def _fresh(again: Again | None, spec: EnvSpec, found: Found) -> HostEnv | None:
    """A second environment; None if there is none to be had."""
    if again is None:
        return None
    try:
        other = again()
        same = other.spec == spec
    except Exception as error:
        found.raised("again_raised", "a second instance", error, "the environment once more")
        return None
    if not same:
        remedy = "make the facts depend on the arguments only"
        found.tell("spec", "spec", "a second instance", "the same facts", "others", remedy)
    return other


def _alike(player: Player, record: Played, other: HostEnv, wall_s: float) -> Iterator[Problem]:
    """Whether all episodes begin alike; resets a few times more where few were played."""
    first = record.time[:, 0] == 0
    starts = [record.seen.obs[first, 0], record.seen.state[first, 0]]
    until, beyond = time.perf_counter() + wall_s, player.episodes[-1].seed + 1
    with suppress(Exception), np.errstate(all="ignore"):  # resets that raise were told of
        while len(starts[0]) < RESETS_COMPARED and time.perf_counter() < until:
            seen = other.reset(beyond)
            starts = [
                np.concatenate([all_, np.asarray(new, np.float32)[None]])
                for all_, new in zip(starts, (seen.obs, seen.state), strict=True)
            ]
            beyond += 1
    if len({len(start) for start in starts}) == 1:
        yield from alike_problems(starts, "seed")


def _repeat(
    player: Player, record: Played, other: HostEnv, wall_s: float
) -> tuple[bool | None, list[Problem]]:
    """Whether seeds and actions repeat what was seen; None where nothing could be repeated."""
    until, left = time.perf_counter() + wall_s, REPEATED_STEPS
    # The last one first: what was left over from the episodes before it is then not there.
    for index in (len(player.episodes) - 1, *range(len(player.episodes) - 1)):
        episode = player.episodes[index]
        try:
            for step, (seen, stepped) in enumerate(retrace(other, episode, episode.actions)):
                told = difference(seen, stepped, record, episode.first_slot + step)
                if told:
                    return False, [_nondeterministic(index, step, *told)]
                left -= 1
                if left <= 0 or time.perf_counter() > until:
                    return True, []
        except Exception as error:
            return False, [
                _nondeterministic(index, None, "play", f"an answer and {summary(error)}")
            ]
    return True, []


def _nondeterministic(episode: int, step: int | None, field: str, got: str) -> Problem:
    where = f"episode {episode}" if step is None else f"step {step} of episode {episode}"
    return problem(
        "nondeterministic",
        f"{field} at {where}, repeated",
        "the same from the same seed and actions",
        got,
        "draw every random number from what reset(seed) seeds and keep nothing from episode to "
        "episode; otherwise runs cannot be repeated, and two with the same seed differ",
        severity="notice",
    )


def _inverted(stumble: Stumble, other: HostEnv) -> Iterator[Problem]:
    """Where legal actions raise, whether illegal ones do not."""
    spec, (episode, actions, legal) = other.spec, stumble
    sizes = np.array(spec.n_actions)
    illegal = ~legal & (np.arange(spec.max_actions) < sizes[:, None])
    if not illegal.any():
        return
    forbidden = np.where(illegal.any(-1), illegal.argmax(-1), np.array(actions))

    def raises(joint: list[int]) -> bool:
        try:
            for _ in retrace(other, episode, [*episode.actions, joint]):
                pass
        except Exception:
            return True
        return False

    # only the last step can tell: the ones before it went well when they were played
    if raises(actions) and not raises([int(a) for a in forbidden]):
        yield problem(
            "mask_inverted",
            f"step {len(episode.actions)} after reset({episode.seed})",
            "True = legal",
            f"an exception from the legal actions {actions}, and none from illegal ones",
            "the mask looks inverted: return ~mask, with False for padding",
        )


def _endings(player: Player, record: Played) -> Iterator[Problem]:
    """Where the play came to grief, that no end was seen says nothing."""
    for told in ending_problems(player.spec, record):
        if told.kind != "no_end_seen" or not player.cut.endswith("failures"):
            yield told


def _rivals(player: Player) -> Iterator[Problem]:
    """Whether the agents are a team at all."""
    own = np.array(player.agent_rewards)
    own = own[np.isfinite(own).all(-1)] if len(own) else own
    if player.spec.n_agents == 1 or not own.any():
        return
    scale = np.abs(own).max()
    if (np.abs(own.sum(-1)) <= 1e-6 * scale).all():
        yield problem(
            "zero_sum",
            "rewards",
            "a team that gains and loses together",
            f"agents' rewards whose sum is 0 in all of {len(own)} steps",
            "opponents have nothing to learn as a team: train one side only and make the other a "
            "part of the environment",
        )
        return
    moves = np.flatnonzero(own.std(0) > 1e-9 * scale)
    if len(own) < ENOUGH_REWARDS or len(moves) < 2:
        return
    likeness = np.corrcoef(own[:, moves].T)
    one, other = np.unravel_index(likeness.argmin(), likeness.shape)
    if likeness[one, other] < RIVALRY:
        names = [player.spec.agents[moves[i]] for i in sorted((int(one), int(other)))]
        yield problem(
            "competitive",
            "rewards",
            "agents that gain together",
            f"a correlation of {likeness[one, other]:.2f} between {names[0]!r} and {names[1]!r}",
            "if they are opponents there is no team; otherwise make the reward a common one",
            severity="notice",
        )


def _rewards(record: Played) -> Iterator[Problem]:
    rewards = record.result.reward[record.valid]
    if len(rewards) and not rewards.any():
        yield problem(
            "no_reward",
            "reward",
            "a reward now and then",
            f"0 in all of {len(rewards)} steps",
            "random play cannot find any, or it is missing; a sparse one needs long exploration",
            severity="notice",
        )


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


def _huge(mean: float) -> Problem:
    scale = 10.0 ** -np.floor(np.log10(abs(mean)))
    return problem(
        "reward_scale",
        "reward",
        f"returns of at most {HUGE_RETURN:g}",
        f"a mean of {mean:.4g}",
        f"values so large are learned slowly or not at all: --scaling.reward-scale {scale:g}",
        severity="notice",
    )

"""What a play with random legal actions tells; a part of both checkers. Free of JAX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qtot.envs.report import Problem, Severity, problem
from qtot.envs.spec import EnvSpec


class Record(NamedTuple):
    """What T slots of E copies showed: every leaf is ``[T, E, ...]``. An episode's final
    observation is a slot of its own, and the reset follows on the next.
    """

    seen: Any
    """``obs``, ``state``, ``avail_actions`` and ``alive``"""
    result: Any
    """``reward``, ``terminated`` and ``truncated``; not meant where ``valid`` is False"""
    time: Any
    """transitions since the reset"""
    valid: Any
    """False on a final observation"""

    def place(self, slot: int, copy: int) -> str:
        """Where that is, for a reader."""
        return f"slot {slot} of copy {copy}"


def real_entries(sizes: tuple[int, ...]) -> np.ndarray:
    """``[N, X]``: what is no padding."""
    return np.arange(max(sizes)) < np.array(sizes)[:, None]


def _first(
    spec: EnvSpec,
    record: Record,
    kind: str,
    bad: ArrayLike,
    axes: tuple[str, ...],
    *,
    expected: str,
    got: str,
    remedy: str,
    values: ArrayLike | None = None,
    severity: Severity = "error",
) -> Iterator[Problem]:
    """The first place where ``bad``, if any; ``axes`` names what follows slot and copy."""
    places = np.argwhere(bad)
    if not len(places):
        return
    slot, copy, *rest = places[0]
    names = [
        f"agent {spec.agents[i]!r}" if axis == "agent" else f"{axis} {i}"
        for axis, i in zip(axes, rest, strict=True)
    ]
    where = ", ".join([*names, f"{record.place(slot, copy)} (first of {len(places)})"])
    value = None if values is None else np.asarray(values)[tuple(places[0])]
    yield problem(kind, where, expected, got.format(value), remedy, severity=severity)


def observed_problems(spec: EnvSpec, record: Record) -> Iterator[Problem]:
    """Numbers, padding, masks and deaths."""
    seen, reward, tell = record.seen, record.result.reward, partial(_first, spec, record)
    for kind, bad, array, axes in (
        ("obs_not_finite", ~np.isfinite(seen.obs), seen.obs, ("agent", "feature")),
        ("state_not_finite", ~np.isfinite(seen.state), seen.state, ("state feature",)),
        ("reward_not_finite", ~np.isfinite(reward) & record.valid, reward, ()),
    ):
        yield from tell(
            kind,
            bad,
            axes,
            expected="a finite number",
            got="{}",
            remedy="look for a division by zero, an overflow or an entry never set",
            values=array,
        )
    yield from tell(
        "obs_padding",
        (seen.obs != 0) & ~real_entries(spec.obs_sizes),
        ("agent", "feature"),
        expected="0 above the agent's entry in spec.obs_sizes",
        got="{}",
        remedy="zero-pad the observation, or count the feature in spec.obs_sizes",
        values=seen.obs,
    )
    if spec.state_source == "concatenated observations":
        whole = [seen.obs[..., i, :size] for i, size in enumerate(spec.obs_sizes)]
        yield from tell(
            "state_not_concatenated",
            ~np.isclose(seen.state, np.concatenate(whole, -1), 1e-5, 1e-6, equal_nan=True),
            ("state feature",),
            expected="the agents' observations side by side, as spec.state_source says",
            got="{}",
            remedy="the replay then stores no state: set state_source to 'environment'",
            values=seen.state,
        )
    yield from tell(
        "nobody_alive",
        record.valid & ~seen.alive.any(-1),
        (),
        expected="the episode to end once no agent is alive",
        got="another transition",
        remedy="set terminated on the step that killed the last agent",
        severity="notice",
    )


def mask_problems(spec: EnvSpec, record: Record) -> Iterator[Problem]:
    """Whether True means legal, and every agent always has a choice that is."""
    seen, tell = record.seen, partial(_first, spec, record)
    # A final observation that is bootstrapped needs a legal action as much as a choice does.
    bootstraps = np.roll(~record.result.terminated, 1, axis=0)
    needed = (record.valid | bootstraps)[..., None]
    real = real_entries(spec.n_actions)
    choices = (seen.avail_actions & real).sum(-1)
    padding = seen.avail_actions & ~real
    inverted = (choices == 0) & padding.any(-1)
    yield from tell(
        "mask_inverted",
        inverted,
        ("agent",),
        expected="True = legal",
        got="every action of the agent illegal and its padding legal",
        remedy="the mask looks inverted: return ~mask, with False for padding",
    )
    yield from tell(
        "mask_padding",
        padding & ~inverted[..., None],
        ("agent", "action"),
        expected="False above the agent's entry in spec.n_actions",
        got="True",
        remedy="pad avail_actions with False, or count the action in spec.n_actions",
    )
    yield from tell(
        "no_legal_action",
        (choices == 0) & ~inverted & needed,
        ("agent",),
        expected="a legal action wherever a choice or a bootstrap follows",
        got="none",
        remedy="leave a dead or idle agent one no-op; if True means forbidden here, return ~mask",
    )
    if spec.masks == "all legal":
        yield from tell(
            "mask_undeclared",
            ~seen.avail_actions & real & needed[..., None],
            ("agent", "action"),
            expected="True, since spec.masks is 'all legal'",
            got="False",
            remedy="set spec.masks to 'environment', or return every action as legal",
        )
    yield from tell(
        "dead_agent_chooses",
        (choices > 1) & ~seen.alive & needed,
        ("agent",),
        expected="one legal action (a no-op) for a dead agent",
        got="{}",
        remedy="leave the dead one action, so that nothing is learned from their choices",
        values=choices,
        severity="notice",
    )


def ending_problems(spec: EnvSpec, record: Record) -> Iterator[Problem]:
    """How episodes end."""
    result, valid, tell = record.result, record.valid, partial(_first, spec, record)
    yield from tell(
        "both_ends",
        valid & result.terminated & result.truncated,
        (),
        expected="terminated or truncated",
        got="both",
        remedy="an end that falls on the time limit is a true end: truncated & ~terminated",
    )
    ended = valid & (result.terminated | result.truncated)
    yield from tell(
        "short_episode",
        ended & (record.time + 1 < spec.shortest_episode),
        (),
        expected=f"no end before spec.shortest_episode = {spec.shortest_episode} transitions",
        got="one after {}",
        remedy="streams prepare too few resets for that; 1 is always right",
        values=record.time + 1,
    )
    overdue = valid & ~ended & (record.time + 1 == spec.episode_limit)
    yield from tell(
        "no_end",
        overdue,
        (),
        expected=f"an end within spec.episode_limit = {spec.episode_limit} transitions",
        got="neither terminated nor truncated",
        remedy="set truncated on the step that reaches the limit, or raise spec.episode_limit",
    )
    if not ended.any() and not overdue.any():
        yield problem(
            "no_end_seen",
            spec.name,
            "an end of an episode",
            f"none in {len(valid)} slots",
            f"play {2 * spec.episode_limit} steps (--steps) to see how episodes end",
            severity="notice",
        )


def played_notices(spec: EnvSpec, record: Record) -> Iterator[Problem]:
    """What is right only if it is meant."""
    if spec.n_agents == 1:
        remedy = "there is no team to mix; any mixer then acts on one value"
        yield problem(
            "single_agent", "spec.agents", "a team", "one agent", remedy, severity="notice"
        )
    state, valid = record.seen.state, record.valid
    if not ((state[1:] != state[:-1]).any(-1) & valid[:-1]).any():
        yield problem(
            "constant_state",
            "state",
            "a state that changes within an episode",
            "the same from first to last",
            "return what changes, unless the game is a repeated one",
            severity="notice",
        )


RESETS_COMPARED = 8
"""fewer may be alike by chance, where there are few ways to begin"""


def alike_problems(starts: Sequence[np.ndarray], chance: str) -> Iterator[Problem]:
    """Whether what ``chance`` names, a key or a seed, makes a difference to how episodes begin.

    Every array of ``starts`` has one entry for each reset.
    """
    count = len(starts[0])
    if count >= RESETS_COMPARED and all((start == start[0]).all() for start in starts):
        got = f"the same one from all of {count}"
        remedy = f"use the {chance} of reset, unless every episode is meant to begin alike"
        expected = f"different {chance}s to give different first observations"
        yield problem(f"reset_ignores_{chance}", "reset", expected, got, remedy, severity="notice")


def played_facts(spec: EnvSpec, record: Record) -> dict[str, Any]:
    """What was seen in play."""
    terminated, truncated = (
        record.valid & end for end in (record.result.terminated, record.result.truncated)
    )
    ended = terminated | truncated
    lengths = (record.time + 1)[ended]
    rewards = record.result.reward[record.valid].astype(np.float64)
    returns = _returns(record)[ended]
    return {
        "agents": spec.agents,
        "n_actions": spec.n_actions,
        "obs_sizes": spec.obs_sizes,
        "state_size": spec.state_size,
        "state_source": spec.state_source,
        "masks": spec.masks,
        "team_reward": spec.team_reward,
        "episode_limit": spec.episode_limit,
        "transitions": int(record.valid.sum()),
        "episodes": len(lengths),
        "mean_length": float(lengths.mean()) if len(lengths) else None,
        "shortest": int(lengths.min()) if len(lengths) else None,
        "longest": int(lengths.max()) if len(lengths) else None,
        "terminated": int(terminated.sum()),
        "truncated": int(truncated.sum()),
        "reward_min": float(rewards.min()) if len(rewards) else None,
        "reward_mean": float(rewards.mean()) if len(rewards) else None,
        "reward_max": float(rewards.max()) if len(rewards) else None,
        "return_mean": float(returns.mean()) if len(returns) else None,
        "return_std": float(returns.std()) if len(returns) else None,
    }


def _returns(record: Record) -> np.ndarray:
    """``[T, E]``: the rewards since the reset, this one included."""
    total = np.zeros(record.valid.shape[1])
    sums = np.zeros(record.valid.shape)
    rewards = np.where(record.valid, record.result.reward, 0).astype(np.float64)
    for slot, reward in enumerate(rewards):
        total = np.where(record.time[slot] == 0, 0, total) + reward
        sums[slot] = total
    return sums

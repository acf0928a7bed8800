"""What shows when an environment is played with random legal actions; a part of ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from jaxtyping import Key as Keys
from numpy.typing import ArrayLike

from qtot.envs.base import JaxEnv
from qtot.envs.check_static import Problem, Severity, problem
from qtot.envs.spec import EnvSpec
from qtot.types import Observation, PyTree, StepResult


class Record(NamedTuple):
    """What T slots of E copies showed: every leaf is ``[T, E, ...]``. An episode's final
    observation is a slot of its own, and the reset follows on the next.
    """

    seen: Observation
    result: StepResult
    """not meant where ``valid`` is False"""
    time: Int[Array, "T E"]
    """transitions since the reset"""
    valid: Bool[Array, "T E"]
    """False on a final observation"""


def play(env: JaxEnv, keys: Keys[Array, "T E 2"], luck: Float[Array, "T E N A"]) -> Record:
    """T slots of E copies, taking the luckiest legal actions. Can be jitted.

    The two keys of a slot are to reset with and to step with.
    """

    def slot(
        carry: PyTree, chance: tuple[Keys[Array, "2"], Float[Array, "N A"]]
    ) -> tuple[PyTree, Record]:
        (state, time, valid), (key, luck) = carry, chance
        seen = env.observe(state)
        legal = seen.avail_actions & jnp.asarray(_real(env.spec.n_actions))
        action = jnp.argmax(jnp.where(legal, luck, -jnp.inf), axis=-1)
        stepped, result = env.step(key[1], state, action.astype(jnp.int32))
        after = jax.tree.map(partial(jnp.where, valid), stepped, env.reset(key[0]))
        ended = valid & (result.terminated | result.truncated)
        carry = after, jnp.where(valid, time + 1, 0), ~ended
        return carry, Record(seen, result, time, valid)

    def stream(keys: Keys[Array, "T 2"], luck: Float[Array, "T N A"]) -> Record:
        start = env.reset(keys[0, 0]), jnp.int32(0), jnp.array(True)
        return jax.lax.scan(slot, start, (keys, luck))[1]

    return jax.vmap(stream, in_axes=1, out_axes=1)(keys, luck)


def _real(sizes: tuple[int, ...]) -> Bool[np.ndarray, "N X"]:
    return np.arange(max(sizes)) < np.array(sizes)[:, None]


def _first(
    spec: EnvSpec,
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
    where = ", ".join([*names, f"slot {slot} of copy {copy} (first of {len(places)})"])
    value = None if values is None else np.asarray(values)[tuple(places[0])]
    yield problem(kind, where, expected, got.format(value), remedy, severity=severity)


def observed_problems(spec: EnvSpec, record: Record) -> Iterator[Problem]:
    """Numbers, padding, masks and deaths."""
    seen, reward = record.seen, record.result.reward
    for kind, bad, array, axes in (
        ("obs_not_finite", ~np.isfinite(seen.obs), seen.obs, ("agent", "feature")),
        ("state_not_finite", ~np.isfinite(seen.state), seen.state, ("state feature",)),
        ("reward_not_finite", ~np.isfinite(reward) & record.valid, reward, ()),
    ):
        yield from _first(
            spec,
            kind,
            bad,
            axes,
            expected="a finite number",
            got="{}",
            remedy="look for a division by zero, an overflow or an entry never set",
            values=array,
        )
    yield from _first(
        spec,
        "obs_padding",
        (seen.obs != 0) & ~_real(spec.obs_sizes),
        ("agent", "feature"),
        expected="0 above the agent's entry in spec.obs_sizes",
        got="{}",
        remedy="zero-pad the observation, or count the feature in spec.obs_sizes",
        values=seen.obs,
    )
    if spec.state_source == "concatenated observations":
        whole = [seen.obs[..., i, :size] for i, size in enumerate(spec.obs_sizes)]
        yield from _first(
            spec,
            "state_not_concatenated",
            ~np.isclose(seen.state, np.concatenate(whole, -1), 1e-5, 1e-6, equal_nan=True),
            ("state feature",),
            expected="the agents' observations side by side, as spec.state_source says",
            got="{}",
            remedy="the replay then stores no state: set state_source to 'environment'",
            values=seen.state,
        )
    yield from _first(
        spec,
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
    seen, tell = record.seen, partial(_first, spec)
    # A final observation that is bootstrapped needs a legal action as much as a choice does.
    bootstraps = np.roll(~record.result.terminated, 1, axis=0)
    needed = (record.valid | bootstraps)[..., None]
    real = _real(spec.n_actions)
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
    result, valid, tell = record.result, record.valid, partial(_first, spec)
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
            f"pass steps={2 * spec.episode_limit} to see how episodes end",
            severity="notice",
        )

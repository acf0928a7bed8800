"""Does an environment keep the contract? Says what is broken, where, and what to do about it.

    print(check_env(env))

The environment is traced (shapes, dtypes, jit, vmap), then played with random legal actions
through several episodes. An *error* breaks training or makes it silently wrong; a *notice* is
right only if it is meant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from qtot.envs.base import JaxEnv
from qtot.envs.check_play import play
from qtot.envs.check_record import (
    Record,
    alike_problems,
    ending_problems,
    mask_problems,
    observed_problems,
    played_facts,
    played_notices,
)
from qtot.envs.check_spec import spec_problems
from qtot.envs.check_static import BrokenEnvError, attempt, traced_problems
from qtot.envs.report import Problem, Report, problem


def check_env(env: JaxEnv, *, steps: int | None = None, envs: int = 8, seed: int = 0) -> Report:
    """Checks the environment against the contract of ``qtot.envs.base``.

    Holds ``2 * steps * envs`` observations in memory.

    Args:
        env: the environment.
        steps: slots played in each copy. Default: two episodes' worth, from 128 to 4096.
        envs: copies played side by side.
        seed: of the keys and of the random legal actions.
    """
    lacks = [part for part in ("spec", "reset", "step", "observe") if not hasattr(env, part)]
    if lacks:
        name, got = type(env).__name__, f"no {', no '.join(lacks)}"
        remedy = "add what is missing; the contract is qtot.envs.base.JaxEnv"
        return Report(name, {}, [problem("interface", name, "a JaxEnv", got, remedy)])
    spec = env.spec
    if broken := list(spec_problems(spec)):
        return Report(spec.name, {}, broken)
    steps = steps or min(max(2 * spec.episode_limit + 2, 128), 4096)
    try:
        if broken := list(traced_problems(env, envs)):
            return Report(spec.name, {}, broken)
        record, again, seconds = _play_twice(env, steps, envs, seed)
    except BrokenEnvError as stop:
        return Report(spec.name, {}, list(stop.args))
    problems = [
        *observed_problems(spec, record),
        *mask_problems(spec, record),
        *ending_problems(spec, record),
        *_nondeterminism(record, again),
        *played_notices(spec, record),
        *_alike(record),
    ]
    facts = played_facts(spec, record) | {"steps_per_second": round(steps * envs / seconds)}
    return Report(spec.name, facts, problems)


def _play_twice(env: JaxEnv, steps: int, envs: int, seed: int) -> tuple[Record, Record, float]:
    """The same play by two programs, and the seconds that the second took."""
    keys = jax.random.split(jax.random.key(seed), (steps, envs, 2))
    shape = steps, envs, env.spec.n_agents, env.spec.max_actions
    luck = np.random.default_rng(seed).random(shape, dtype=np.float32)
    # What Python draws or keeps while tracing is frozen into a program: two traces show it.
    one, two = (
        attempt("not_jittable", "an episode", jax.jit(partial(play, env)).lower, keys, luck)
        for _ in range(2)
    )
    program = one.compile()
    other = program if one.as_text() == two.as_text() else two.compile()
    record = jax.block_until_ready(program(keys, luck))
    began = time.perf_counter()
    again = jax.block_until_ready(other(keys, luck))
    seconds = time.perf_counter() - began
    return jax.tree.map(np.asarray, record), jax.tree.map(np.asarray, again), seconds


def _nondeterminism(record: Record, again: Record) -> Iterator[Problem]:
    leaves = jax.tree_util.tree_leaves_with_path(record)
    found = []
    for (path, one), other in zip(leaves, jax.tree.leaves(again), strict=True):
        differs = np.argwhere((one != other) & ~(np.isnan(one) & np.isnan(other)))
        if len(differs):
            place = tuple(differs[0])
            field = jax.tree_util.keystr(path).rpartition(".")[2]
            found.append((place[:2], field, one[place], other[place]))
    if found:
        (slot, copy), field, one, other = min(found)
        yield problem(
            "nondeterministic",
            f"{field} at slot {slot} of copy {copy}",
            "the same from the same key and actions",
            f"{one} and {other}",
            "draw every random number from the key given, and keep nothing in Python attributes",
        )


def _alike(record: Record) -> Iterator[Problem]:
    first = record.time == 0
    starts = [seen[first] for seen in (record.seen.obs, record.seen.state)]
    yield from alike_problems(starts, "key")

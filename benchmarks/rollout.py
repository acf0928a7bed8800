"""Stepping environments: random legal actions, ours against JaxMARL's own ``vmap(env.step)``.

    python benchmarks/rollout.py            all tasks, 16 to 1024 environments
    python benchmarks/rollout.py --short    smax/3m and mpe/simple_spread, 64 environments

Both play in a jitted scan and keep what a learner needs of every slot: observations, state, masks,
actions, rewards, ends. Theirs is on one device, as the package is used, with its own auto-reset,
and draws its keys by one split per slot; ours is on one device and, its environments shared out,
on two. All are measured in turn, in one process; figures are medians of steps per second.
JaxMARL counts every slot as a step; of ours, final observations are slots without a step and are
not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from qtot.envs import jax_env
from qtot.envs.jaxmarl import stacked
from qtot.envs.stream import chances, draw, draws_at, open_stream, play, see

SLOTS = 32
SETTINGS = {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
Rollout = Callable[[Any, Array], tuple[Any, Any, Array]]


def pick(luck: Array, avail: Array) -> Array:
    """The legal action that a uniform number stands for."""
    legal = jnp.cumsum(avail.astype(jnp.int32), axis=-1)
    k = jnp.floor(luck * legal[..., -1]).astype(jnp.int32)
    return jnp.argmax(legal > k[..., None], axis=-1).astype(jnp.int32)


def bare(name: str, envs: int) -> tuple[Any, Rollout]:
    """The package as it is: ``vmap(env.step)``, which resets and observes by itself."""
    env: Any = jax_env(name)
    raw, agents = env._env, env.spec.agents
    masked = name.startswith("smax")

    def masks(state: Any) -> Array:
        return stacked(agents, raw.get_avail_actions(state)) if masked else env._legal

    def rollout(state: Any, key: Array) -> tuple[Any, Any, Array]:
        def slot(carry: Any, key: Array) -> tuple[Any, Any]:
            state, obs = carry
            act_key, env_key = jax.random.split(key)
            avail = jax.vmap(masks)(state)
            action = pick(jax.random.uniform(act_key, (envs, len(agents))), avail)
            played = {a: action[:, i] for i, a in enumerate(agents)}
            keys = jax.random.split(env_key, envs)
            after, state, rewards, dones, _ = jax.vmap(raw.step)(keys, state, played)
            kept = obs, avail, action, rewards[agents[0]], dones["__all__"]
            return (state, after), kept

        state, kept = jax.lax.scan(slot, state, jax.random.split(key, SLOTS))
        return state, kept, jnp.array([envs * SLOTS])

    obs, state = jax.jit(jax.vmap(raw.reset))(jax.random.split(jax.random.key(0), envs))
    return (state, obs), rollout


def ours(name: str, envs: int, devices: int) -> tuple[Any, Rollout]:
    """Streams, shared out evenly; a device never waits for another."""
    env = jax_env(name)
    n = envs // devices
    mesh = Mesh(jax.devices()[:devices], ("devices",))

    def rollout(stream: Any, keys: Array) -> tuple[Any, Any, Array]:
        env_key, act_key = jax.random.split(keys[0])
        many = chances(env, SLOTS, restart=True)
        draws = draw(env, jax.random.split(env_key, (many, n)), SLOTS)
        luck = jax.random.uniform(act_key, (SLOTS, n, env.spec.n_agents))

        def slot(stream: Any, t: Array) -> tuple[Any, Any]:
            seen = see(env, stream)
            action = pick(luck[t], seen.avail_actions)
            after, outcome = play(env, draws_at(env, draws, t), stream, action)
            return after, (seen, action, stream.first, outcome)

        stream, kept = jax.lax.scan(slot, stream, jnp.arange(SLOTS))
        return stream, kept, jnp.sum(kept[3].valid)[None]

    def opened(keys: Array) -> Any:
        return open_stream(env, jax.random.split(keys[0], n))

    here = PartitionSpec("devices")
    kept_here = PartitionSpec(None, "devices")
    shared = jax.shard_map(
        rollout,
        mesh=mesh,
        in_specs=(here, here),
        out_specs=(here, kept_here, here),
        check_vma=False,
    )
    opening = jax.shard_map(opened, mesh=mesh, in_specs=here, out_specs=here, check_vma=False)
    stream = jax.jit(opening)(jax.random.split(jax.random.key(0), devices))

    def play_on(stream: Any, key: Array) -> tuple[Any, Any, Array]:
        return shared(stream, jax.random.split(key, devices))

    return stream, play_on


def measure(name: str, envs: int, seconds: float) -> dict[str, Any]:
    """Steps per second of all three, in turn."""
    entries = {
        "bare": bare(name, envs),
        "ours": ours(name, envs, 1),
        "ours_2_devices": ours(name, envs, 2),
    }
    states, compiled, compile_s = {}, {}, {}
    key = jax.random.key(1)
    for label, (state, rollout) in entries.items():
        began = time.perf_counter()
        compiled[label] = jax.jit(rollout).lower(state, key).compile()
        compile_s[label] = round(time.perf_counter() - began, 1)
        states[label] = jax.block_until_ready(compiled[label](state, key))[0]
    rates: dict[str, list[float]] = {label: [] for label in entries}
    began, turn = time.perf_counter(), 0
    while turn < 7 or time.perf_counter() - began < seconds:
        turn += 1
        for label in entries:
            start = time.perf_counter()
            out = jax.block_until_ready(
                compiled[label](states[label], jax.random.fold_in(key, turn))
            )
            spent = time.perf_counter() - start
            states[label] = out[0]
            rates[label].append(float(out[2].sum()) / spent)
    medians = {label: statistics.median(r) for label, r in rates.items()}
    ratios = {
        label: round(statistics.median(x / y for x, y in zip(r, rates["bare"], strict=True)), 2)
        for label, r in rates.items()
    }
    return {
        "env": name,
        "envs": envs,
        "steps_per_s": {label: round(m) for label, m in medians.items()},
        "times_bare": ratios,
        "compile_s": compile_s,
        "turns": turn,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two tasks, 64 environments")
    parser.add_argument("--tasks", nargs="*", default=["smax/3m", "smax/2s3z", "mpe/simple_spread"])
    parser.add_argument("--envs", nargs="*", type=int, default=[16, 64, 128, 1024])
    parser.add_argument("--seconds", type=float, default=3.0, help="least time per comparison")
    args = parser.parse_args()
    if os.environ.get("QTOT_ROLLOUT") != "set":  # the C library reads them as a process starts
        environment = {**os.environ, **SETTINGS, "QTOT_ROLLOUT": "set"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    tasks = ["smax/3m", "mpe/simple_spread"] if args.short else args.tasks
    envs = [64] if args.short else args.envs
    results = [measure(task, n, args.seconds) for task in tasks for n in envs]
    facts = {"jax": jax.__version__, "devices": len(jax.devices()), "cores": os.cpu_count()}
    print(json.dumps({**facts, "slots": SLOTS, "results": results}, indent=2))


if __name__ == "__main__":
    main()

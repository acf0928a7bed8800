"""Records of a run's greedy episodes: what was seen and done, and what the networks say of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from qtot.config import products
from qtot.envs import make_env
from qtot.envs.host.frames import drawing
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.evaluation.episodes import FRESH
from qtot.evaluation.insight import certify, insights
from qtot.evaluation.witness import Asked, Witnessed, witness_in_graph, witness_on_host
from qtot.runs import Run
from qtot.store.records import Certificate
from qtot.training.world import World

CERTIFIED = 32
"""episodes in whose states the mixer is looked at, at least, where the environment is quick"""


class Recorded(NamedTuple):
    """What came of it, of one seed."""

    seed: int
    episodes: int
    certificate: Certificate


def record_run(
    run: Run,
    episodes: int,
    *,
    env: Any = None,
    index: int = 0,
    seeds: Sequence[int] | None = None,
) -> list[Recorded]:
    """The first episodes that ``evaluate`` plays, of every seed or some, into the run folder.

    Raises:
        QtotError: the environment is not to be had, or the records cannot be written.
    """
    target = run.world_of(env)
    world = run.world(target)
    out = []
    for seed in run.seeds if seeds is None else seeds:
        asked = Asked(run.learner, run.config, run.params(seed), (seed, FRESH + index), episodes)
        if world.make is None:
            many = asked._replace(episodes=max(episodes, CERTIFIED))
            seen = witness_in_graph(world.in_graph, many)
        else:
            # Elsewhere than in the first episode of a place, others would be played than by eval.
            few = asked._replace(episodes=min(episodes, run.config.collect.envs))
            seen = _on_host(run, target, world, few)
        out.append(_written(run, world.spec, asked, seen))
    return out


def _on_host(run: Run, target: Any, world: World, asked: Asked) -> Witnessed:
    """With pictures, if the environment can be made so that it draws."""
    host = run.config.host_here
    drawn = drawing(target, host) if isinstance(target, str) else host
    if drawn != host:
        draws: Any = partial(make_env, target, drawn)
        try:
            draws().close()
            return witness_on_host(draws, world.spec, drawn, asked)
        except QtotError:  # it takes no render_mode
            pass
    assert world.make is not None
    return witness_on_host(world.make, world.spec, host, asked)


def _written(run: Run, spec: EnvSpec, asked: Asked, seen: Witnessed) -> Recorded:
    learner, params, seed = asked.learner, asked.params, asked.start[0]
    ask = jax.default_matmul_precision(products(run.config))(
        partial(insights, learner, table=seen.scene is not None and seen.scene.ground == "table")
    )
    slots = seen.slots
    said = {name: np.asarray(x) for name, x in jax.jit(ask)(params, slots).items()}
    certificate = certify(learner, params, slots, said)
    kept = min(asked.episodes, len(seen.lengths))
    last = int(seen.lengths[:kept].max()) + 1

    def cut(x: Any) -> np.ndarray:
        x = np.asarray(x)[:last, :kept]
        return x.astype(np.float32) if x.dtype == np.float64 else x

    arrays = {f"slots/{name}": cut(x) for name, x in slots._asdict().items() if name != "state"}
    arrays |= {f"said/{name}": cut(x) for name, x in said.items()}
    arrays |= {f"look/{name}": cut(x) for name, x in seen.looks.items()}
    arrays["lengths"], arrays["returns"] = seen.lengths[:kept], seen.returns[:kept]
    arrays |= {f"info/{name}": np.asarray(x)[:kept] for name, x in seen.info.items()}
    if seen.frames is not None:
        arrays["frames"] = seen.frames[:last]
    scene = seen.scene
    facts = {
        "seed": seed,
        "which": run.which,
        "params": run.digest(seed),
        "agents": spec.agents,
        "n_actions": spec.n_actions,
        "action_meanings": spec.action_meanings,
        "scene": None
        if scene is None
        else {
            "ground": scene.ground,
            "bounds": scene.bounds,
            "things": [thing._asdict() for thing in scene.things],
        },
        "certificate": certificate._asdict(),
    }
    run.record(seed, facts, arrays)
    return Recorded(seed, kept, certificate)

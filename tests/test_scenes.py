"""What is drawn of an environment is what is there."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from extras import needs
from qtot.envs import jax_env
from qtot.envs.scenes import LOOKS, Scene, scene_of

JUMANJI = needs("jumanji")
TASKS = [
    "smax/smacv2_5_units",
    "mpe/simple_spread",
    "mpe/simple_reference",
    "predator_prey/small-p2",
    pytest.param("lbf/8x8-2p-2f-coop", marks=JUMANJI),
    pytest.param("rware/tiny-2ag", marks=JUMANJI),
    "matrix/climbing",
    "matrix/random-3x4-7",
]


@functools.cache
def played(task: str, steps: int = 40) -> tuple[Any, Scene, list[Any], list[Any]]:
    """States on the way, and the joint actions between them, of random legal play."""
    env = jax_env(task)
    scene = scene_of(env)
    assert scene is not None
    step, observe = jax.jit(env.step), jax.jit(env.observe)
    state, rng = jax.jit(env.reset)(jax.random.key(1)), np.random.default_rng(1)
    states, actions = [state], []
    for key in jax.random.split(jax.random.key(2), steps):
        legal = np.asarray(observe(state).avail_actions)
        actions.append([int(rng.choice(np.flatnonzero(row))) for row in legal])
        state, result = step(key, state, np.array(actions[-1]))
        states.append(state)
        if result.terminated or result.truncated:
            break
    return env, scene, states, actions


def looks(task: str) -> list[dict[str, np.ndarray]]:
    """In every state."""
    _, scene, states, _ = played(task)
    look = jax.jit(scene.look)
    return [{name: np.asarray(x) for name, x in look(state).items()} for state in states]


@pytest.mark.parametrize("task", TASKS)
def test_everything_has_a_place(task: str):
    env, scene, _, _ = played(task)
    left, bottom, right, top = scene.bounds
    assert [thing.kind for thing in scene.things[: env.spec.n_agents]] == (
        ["agent"] * env.spec.n_agents if scene.ground != "table" else []
    )
    for look in looks(task):
        assert look.keys() <= LOOKS.keys()
        if scene.ground == "table":
            continue
        assert all(x.shape == (len(scene.things),) for x in look.values())
        there = look["shown"].astype(bool)
        x, y = look["x"][there], look["y"][there]
        if scene.ground == "grid":
            assert (left < x).all()
            assert (x < right).all()
            assert (top < y).all()
            assert (y < bottom).all()
        for name in ("health", "wait"):
            if name in look:
                assert (look[name] >= 0).all()
                assert (look[name] <= 1).all()
        if "target" in look:
            assert (look["target"] < len(scene.things)).all()


def test_hunters_and_prey_stand_where_the_state_has_them():
    env, _, states, _ = played("predator_prey/small-p2")
    n = env.spec.n_agents
    for state, look in zip(states, looks("predator_prey/small-p2"), strict=True):
        grid = np.asarray(env.observe(state).state).reshape(6, 6, 2)
        drawn = np.zeros_like(grid)
        for k in np.flatnonzero(look["shown"]):
            drawn[look["y"][k], look["x"][k], int(k >= n)] = 1
        np.testing.assert_array_equal(drawn, grid)


def test_units_aim_at_whom_they_attacked():
    """An ally's action ``attack_i`` is drawn as a line to enemy i in the state that it led to."""
    task = "smax/smacv2_5_units"
    aimed = 0
    for look, chosen in zip(looks(task)[1:], played(task)[3], strict=True):
        for i, u in enumerate(chosen):
            if look["shown"][i]:
                assert look["target"][i] == (u if u >= 5 else -1)  # the first enemy is thing 5
                aimed += u >= 5
        for k in range(5, 10):  # an enemy attacks allies
            assert look["target"][k] in (-1, 0, 1, 2, 3, 4)
    assert aimed > 2


def test_units_stand_where_they_are_and_as_healthy():
    task, hits = "smax/smacv2_5_units", 0
    states, looked = played(task)[2], looks(task)
    for state, look in zip(states, looked, strict=True):
        places = np.stack([look["x"], look["y"]], 1)
        np.testing.assert_array_equal(places, state.state.unit_positions)
    for before, look in itertools.pairwise(looked):
        if (before["shown"] == look["shown"]).all():  # the dead aim no more
            hurt = np.flatnonzero(before["health"] - look["health"] > 1e-6)
            assert set(hurt) <= set(look["target"])
            hits += len(hurt)
    assert hits > 5


def test_particles_stand_where_the_world_has_them():
    task = "mpe/simple_spread"
    _, _, states, _ = played(task)
    for state, look in zip(states, looks(task), strict=True):
        np.testing.assert_array_equal(np.stack([look["x"], look["y"]], 1), state.p_pos)


@JUMANJI
def test_foragers_and_food_are_where_they_see_themselves():
    env, _, states, _ = played("lbf/8x8-2p-2f-coop")
    for state, look in zip(states, looks("lbf/8x8-2p-2f-coop"), strict=True):
        seen = np.asarray(env.observe(state).obs)[0].reshape(-1, 3)  # food, oneself, the other
        for row, k in zip(seen, (2, 3, 0, 1), strict=True):
            if look["shown"][k]:
                assert (look["y"][k], look["x"][k], look["level"][k]) == tuple(row)


@pytest.mark.long
@JUMANJI
def test_robots_and_shelves_are_where_the_warehouse_has_them():
    env, scene, states, actions = played("rware/tiny-2ag")
    looked = looks("rware/tiny-2ag")
    kinds = [thing.kind for thing in scene.things]
    for before, was, now, chosen in zip(states, looked, looked[1:], actions, strict=False):
        obs = np.asarray(env.observe(before).obs)
        for i in range(env.spec.n_agents):
            # Its own place comes first in what a robot sees: row and column, as the package has it.
            assert {was["x"][i], was["y"][i]} == set(obs[i][:2].astype(int))
            moved = np.array([now["x"][i] - was["x"][i], was["y"][i] - now["y"][i]])
            if chosen[i] == 1 and moved.any():
                heading = was["heading"][i]
                np.testing.assert_allclose(moved, [np.cos(heading), np.sin(heading)], atol=1e-6)
        assert now["marked"][[k for k, kind in enumerate(kinds) if kind == "shelf"]].sum() == 2


def test_words_and_goals_are_drawn():
    task = "mpe/simple_speaker_listener"
    for look, chosen in zip(looks(task)[1:], played(task)[3], strict=True):
        assert look["says"][0] == chosen[0]
        assert look["marked"].sum() == 1
        assert look["marked"][2:].any()


def test_payoffs_are_those_of_the_game():
    env, _, states, _ = played("matrix/two_step")
    for state, look in zip(states[:2], looks("matrix/two_step"), strict=False):
        np.testing.assert_array_equal(
            look["payoffs"], np.asarray(env.payoffs)[state.position].ravel()
        )


def test_what_has_no_scene_is_shown_otherwise():
    class Own:
        spec = jax_env("matrix/two_step").spec  # one's own, which is called as one of ours

    assert scene_of(Own()) is None
    assert scene_of(jax_env("probe/memory")) is None
    assert scene_of(jax_env("matrix/random-8x5-0")) is None  # too many payoffs

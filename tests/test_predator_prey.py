"""The hunt beside a plain loop of its rules, in situations with known outcomes, and played."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtot.envs import make_env, predator_prey
from qtot.envs.base import JaxEnv
from qtot.envs.check import check_env
from qtot.errors import QtotError

RIGHT, DOWN, LEFT, UP, STAY, CATCH = range(6)
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
ROWS, COLUMNS, N, P, LIMIT = 5, 7, 4, 3, 40
COPIES = 48  # one program serves most tests
ENV = predator_prey.make(f"{ROWS}x{COLUMNS}-{N}v{P}-p1.5-t{LIMIT}")

Place = tuple[int, int] | None  # row and column; None for the removed


def keys(seed: int, n: int = COPIES) -> Any:
    return jax.random.split(jax.random.key(seed), n)


@functools.cache
def programs() -> tuple[Any, Any, Any]:
    """``reset``, ``observe``, and ``step`` with its draws, of many copies."""

    def step(key: Any, state: Any, actions: Any) -> Any:
        after, result = ENV.step(key, state, actions)
        return ENV.draw(key), after, result, ENV.observe(after)

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        some, acts = keys(0), jnp.zeros((COPIES, N), jnp.int32)
        reset = jax.jit(jax.vmap(ENV.reset)).lower(some).compile()
        states = reset(some)
        observe = jax.jit(jax.vmap(ENV.observe)).lower(states).compile()
        return reset, observe, jax.jit(jax.vmap(step)).lower(some, states, acts).compile()
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def cell(place: Place, columns: int = COLUMNS) -> int:
    """Its number on the grid with a border two wide."""
    return 0 if place is None else (place[0] + 2) * (columns + 4) + place[1] + 2


def places(cells: Any, columns: int = COLUMNS) -> list[Place]:
    both = (divmod(int(number), columns + 4) for number in cells)
    return [None if (r, c) == (0, 0) else (r - 2, c - 2) for r, c in both]


def beside(place: Place) -> list[Place]:
    return [] if place is None else [(place[0] + r, place[1] + c) for r, c in STEPS]


# The rules, one being after another ----------------------------------------------------------


class World:
    """Rows and columns, lists and loops."""

    def __init__(self, agents: list[Place], prey: list[Place], time: int = 0):
        self.agents, self.prey, self.time, self.missed = list(agents), list(prey), time, 0

    def free(self, place: Place) -> bool:
        return self.inside(place) and place not in self.agents and place not in self.prey

    @staticmethod
    def inside(place: Place) -> bool:
        return place is not None and 0 <= place[0] < ROWS and 0 <= place[1] < COLUMNS

    def step(self, actions: Any, draws: Any) -> float:
        reward = 0.0
        for i in draws.agent_order:
            if self.agents[i] is not None and actions[i] < STAY:
                to = beside(self.agents[i])[actions[i]]
                if self.free(to):
                    self.agents[i] = to
        for j in draws.prey_order:
            around = beside(self.prey[j])
            who = [i for i in range(N) if actions[i] == CATCH and self.agents[i] in around]
            if len(who) >= 2:
                reward += 10
                self.prey[j] = None
                for i in who:
                    self.agents[i] = None
                continue
            if len(who) == 1:
                reward -= 1.5
                self.missed += 1
            if free := [u for u, place in enumerate(around) if self.free(place)]:
                self.prey[j] = around[max(free, key=lambda u, j=j: draws.wish[j][u])]
        self.time += 1
        return reward

    def view(self, i: int) -> np.ndarray:
        seen = np.zeros((5, 5, 2))
        if self.agents[i] is not None:
            for channel, beings in enumerate((self.agents, self.prey)):
                for being in filter(None, beings):
                    r, c = (being[k] - self.agents[i][k] + 2 for k in (0, 1))
                    if 0 <= r < 5 and 0 <= c < 5:
                        seen[r, c, channel] = 1
        return seen

    def grid(self) -> np.ndarray:
        grid = np.zeros((ROWS, COLUMNS, 2))
        for channel, beings in enumerate((self.agents, self.prey)):
            for being in filter(None, beings):
                grid[(*being, channel)] = 1
        return grid

    def mask(self, i: int) -> list[bool]:
        around = beside(self.agents[i]) or [None] * 4
        can_catch = any(place in around for place in self.prey if place)
        return [*(self.inside(place) for place in around), True, can_catch]


def shows(seen: Any, world: World, e: int) -> None:
    """What copy ``e`` shows is what the slow world says."""
    views = np.stack([world.view(i) for i in range(N)])
    np.testing.assert_array_equal(seen.obs[e], views.reshape(N, -1))
    np.testing.assert_array_equal(seen.state[e], world.grid().ravel())
    np.testing.assert_array_equal(seen.avail_actions[e], [world.mask(i) for i in range(N)])
    np.testing.assert_array_equal(seen.alive[e], [place is not None for place in world.agents])


def test_it_plays_as_a_plain_loop_of_the_rules_does():
    reset, observe, step = programs()
    rng = np.random.default_rng(0)
    state = reset(keys(1))
    seen = jax.tree.map(np.asarray, observe(state))
    worlds = [World(places(a), places(p)) for a, p in zip(state.agents, state.prey, strict=True)]
    for e, world in enumerate(worlds):
        shows(seen, world, e)
    counts = dict.fromkeys(("captures", "misses", "all_gone", "truncated"), 0)
    for t in range(LIMIT):
        wish = rng.random(seen.avail_actions.shape)
        wish[..., CATCH] += 0.8
        # Every tenth may be illegal: nothing then happens.
        legal = seen.avail_actions | (rng.random((COPIES, N, 1)) < 0.1)
        actions = np.argmax(wish * legal, axis=-1).astype(np.int32)
        out = step(keys(2 + t), state, actions)
        state = out[1]
        draws, after, result, seen = jax.tree.map(np.asarray, out)
        for e, world in enumerate(worlds):
            reward = world.step(actions[e], jax.tree.map(lambda x, e=e: x[e], draws))
            assert places(after.agents[e]) == world.agents
            assert places(after.prey[e]) == world.prey
            assert result.reward[e] == reward
            extinct, all_gone = not any(world.prey), not any(world.agents)
            assert result.terminated[e] == (extinct or all_gone)
            late = world.time >= LIMIT
            assert result.truncated[e] == (late and not extinct and not all_gone)
            assert result.info["captures"][e] == world.prey.count(None)
            assert result.info["miscaptures"][e] == world.missed
            shows(seen, world, e)
            counts["all_gone"] += all_gone
        counts["truncated"] += result.truncated.sum()
    counts["captures"] = result.info["captures"].sum()
    counts["misses"] = result.info["miscaptures"].sum()
    assert min(counts.values()) > 0, counts


# Situations with known outcomes --------------------------------------------------------------


class After(NamedTuple):
    """One step later, in each copy: the same situation, other draws."""

    agents: list[list[Place]]
    prey: list[list[Place]]
    result: Any


def act(
    agents: list[Place], prey: list[Place], actions: list[int], *, time: int = 0, seed: int = 0
) -> After:
    """One step; who is not listed was removed, and stays."""
    state = predator_prey.Hunt(
        jnp.tile(jnp.array([cell(p) for p in (agents + [None] * N)[:N]], jnp.int32), (COPIES, 1)),
        jnp.tile(jnp.array([cell(p) for p in (prey + [None] * P)[:P]], jnp.int32), (COPIES, 1)),
        jnp.zeros(COPIES, jnp.int32),
        jnp.full(COPIES, time, jnp.int32),
    )
    joint = np.tile(np.array((actions + [STAY] * N)[:N], np.int32), (COPIES, 1))
    _, after, result, _ = programs()[2](keys(seed), state, joint)
    return After(
        [places(cells) for cells in after.agents],
        [places(cells) for cells in after.prey],
        jax.tree.map(np.asarray, result),
    )


FAR = (4, 6)  # a corner in which an agent does not disturb


@pytest.mark.parametrize(
    ("agents", "prey", "actions", "reward", "left"),
    [
        # two capture, and are removed with the prey; who does not catch is not
        ([(1, 1), (1, 3), FAR], [(1, 2), (3, 3)], [CATCH, CATCH, STAY], 10, (1, 1)),
        ([(0, 2), (2, 2), FAR], [(1, 2), (3, 5)], [CATCH, CATCH, STAY], 10, (1, 1)),
        ([(1, 1), (1, 3), (0, 2)], [(1, 2), (3, 3)], [CATCH, CATCH, STAY], 10, (1, 1)),
        ([(1, 1), (1, 3), (0, 2)], [(1, 2), (3, 5)], [CATCH] * 3, 10, (0, 1)),
        ([(1, 1), (1, 3), (0, 2), (2, 2)], [(1, 2), (3, 5)], [CATCH] * 4, 10, (0, 1)),
        # one does not
        ([(1, 1), (1, 3), FAR], [(1, 2)], [CATCH, STAY, STAY], -1.5, (3, 1)),
        ([(1, 1), FAR], [(1, 2)], [CATCH, CATCH], -1.5, (2, 1)),  # far away
        ([(1, 1), (0, 3)], [(1, 2)], [CATCH, CATCH], -1.5, (2, 1)),  # across a corner
        ([(0, 1), (0, 3)], [(1, 2)], [CATCH, CATCH], 0, (2, 1)),
        ([(1, 0), (1, 4)], [(1, 2)], [CATCH, CATCH], 0, (2, 1)),  # a cell between
        ([(1, 6), (2, 0)], [(2, 6)], [CATCH, CATCH], -1.5, (2, 1)),  # rows do not join
        # one beside two prey loses twice
        ([(1, 1), FAR], [(1, 2), (1, 0)], [CATCH, STAY], -3, (2, 2)),
        # two pairs
        ([(1, 1), (1, 3), (3, 3), (3, 5)], [(1, 2), (3, 4), (4, 0)], [CATCH] * 4, 20, (0, 1)),
        ([(0, 0), (0, 2), (4, 4), (4, 6)], [(0, 1), (4, 5)], [CATCH] * 4, 20, (0, 0)),
        # a prey is captured where it was seen: those who walk there come too late
        ([(1, 1), (1, 4)], [(1, 2)], [CATCH, LEFT], -1.5, (2, 1)),
        ([(1, 1), (1, 3)], [(1, 2)], [STAY, STAY], 0, (2, 1)),
    ],
)
def test_what_is_paid_and_who_is_removed(agents, prey, actions, reward, left):
    after = act(agents, prey, actions)
    assert (after.result.reward == reward).all()
    for now_agents, now_prey in zip(after.agents, after.prey, strict=True):
        assert (N - now_agents.count(None), P - now_prey.count(None)) == left
    assert (after.result.terminated == (0 in left)).all()
    assert not after.result.truncated.any()
    assert (after.result.info["captures"] == P - left[1]).all()
    assert (after.result.info["miscaptures"] == max(-reward, 0) / 1.5).all()


def test_the_first_of_two_prey_takes_the_agent_that_is_beside_both():
    # Agents 0 and 1 are beside the first prey, agent 1 alone beside the second.
    after = act([(1, 1), (1, 3)], [(1, 2), (1, 4)], [CATCH, CATCH])
    assert {float(r) for r in after.result.reward} == {10.0, 8.5}


def test_ends():
    on = act([(0, 0)], [(2, 2)], [STAY])  # one agent left cannot capture, and plays on
    assert not on.result.terminated.any() and not on.result.truncated.any()
    late = act([(0, 0)], [(2, 2)], [STAY], time=LIMIT - 1)
    assert late.result.truncated.all() and not late.result.terminated.any()
    almost = act([(0, 0)], [(2, 2)], [STAY], time=LIMIT - 2)
    assert not almost.result.truncated.any()
    # A capture of the last prey on the last step is a true end.
    won = act([(1, 1), (1, 3), FAR], [(1, 2)], [CATCH, CATCH], time=LIMIT - 1)
    assert won.result.terminated.all() and not won.result.truncated.any()
    assert (won.result.info["captures"] == P).all()


def test_a_taken_cell_is_not_entered():
    walls = act([(0, 0), (4, 6), (0, 6), (4, 0)], [(2, 3)], [UP, DOWN, RIGHT, LEFT])
    assert all(agents == [(0, 0), (4, 6), (0, 6), (4, 0)] for agents in walls.agents)
    blocked = act([(0, 1), (0, 2)], [(1, 1)], [RIGHT, STAY])
    onto_prey = act([(0, 1), (0, 2)], [(1, 1)], [DOWN, STAY])
    swap = act([(0, 1), (0, 2)], [(4, 1)], [RIGHT, LEFT])
    for after in (blocked, onto_prey, swap):
        assert all(agents[:2] == [(0, 1), (0, 2)] for agents in after.agents)
    moved = act([(0, 1), (0, 2)], [(4, 1)], [DOWN, RIGHT])
    assert all(agents[:2] == [(1, 1), (0, 3)] for agents in moved.agents)


def test_agents_move_one_after_another_in_a_random_order():
    same = act([(0, 1), (0, 3)], [(4, 1)], [RIGHT, LEFT])
    first = sum(agents[:2] == [(0, 2), (0, 3)] for agents in same.agents)
    second = sum(agents[:2] == [(0, 1), (0, 2)] for agents in same.agents)
    assert first + second == COPIES and min(first, second) > COPIES // 4
    # Who follows gets in only if the one ahead went first.
    follow = act([(0, 1), (0, 2)], [(4, 1)], [RIGHT, RIGHT], seed=1)
    got = {tuple(agents[:2]) for agents in follow.agents}
    assert got == {((0, 2), (0, 3)), ((0, 1), (0, 3))}


def test_prey_move_to_a_free_neighbour_and_rest_only_without_one():
    alone = act([FAR], [(2, 2)], [STAY])
    assert {prey[0] for prey in alone.prey} == {(2, 3), (3, 2), (2, 1), (1, 2)}
    corner = act([FAR], [(0, 0)], [STAY])
    assert {prey[0] for prey in corner.prey} == {(0, 1), (1, 0)}
    held = act([(0, 1), FAR], [(0, 0)], [STAY, STAY])
    assert {prey[0] for prey in held.prey} == {(1, 0)}
    boxed = act([(0, 1), (1, 0), FAR], [(0, 0)], [STAY] * 3)
    assert {prey[0] for prey in boxed.prey} == {(0, 0)}
    # A prey is an obstacle to a prey: the cornered one leaves only after the other has.
    pair = act([(1, 0)], [(0, 0), (0, 1)], [STAY])
    assert {prey[0] for prey in pair.prey} == {(0, 0), (0, 1)}


# Chance --------------------------------------------------------------------------------------


def even(counts: np.ndarray) -> bool:
    """Whether counts in equally likely bins are so (five standard errors)."""
    mean = counts.mean()
    return bool((np.abs(counts - mean) < 5 * np.sqrt(mean)).all())


def test_draws_are_fair():
    draws = jax.tree.map(np.asarray, jax.jit(jax.vmap(ENV.draw))(keys(0, 6000)))
    for order, n in ((draws.agent_order, N), (draws.prey_order, P)):
        orders, counts = np.unique(order, axis=0, return_counts=True)
        assert (np.sort(orders, axis=1) == np.arange(n)).all()
        assert len(counts) == np.prod(np.arange(1, n + 1)) and even(counts)
    for j in range(P):
        assert even(np.bincount(draws.wish[:, j].argmax(-1), minlength=4))
        assert even(np.bincount(draws.wish[:, j, 1:3].argmax(-1), minlength=2))
    # Neither order says anything about the other, or about where a prey goes.
    pairs = draws.agent_order[:, 0] * P + draws.prey_order[:, 0]
    assert even(np.bincount(pairs, minlength=N * P))
    goes = draws.prey_order[:, 0] * 4 + draws.wish[:, 0].argmax(-1)
    assert even(np.bincount(goes, minlength=4 * P))


def test_equal_luck_still_makes_an_order():
    order = predator_prey._order(jnp.array([0.5, 0.1, 0.5, 0.1]))
    np.testing.assert_array_equal(order, [1, 3, 0, 2])


def test_episodes_begin_on_different_cells_all_as_likely():
    state = jax.jit(jax.vmap(ENV.reset))(keys(0, 6000))
    cells = np.concatenate([state.agents, state.prey], axis=1)
    assert (np.diff(np.sort(cells, axis=1)) > 0).all()
    grid = [cell((r, c)) for r in range(ROWS) for c in range(COLUMNS)]
    for being in range(N + P):
        places, counts = np.unique(cells[:, being], return_counts=True)
        assert places.tolist() == grid and even(counts)
    assert not np.asarray(state.time).any() and not np.asarray(state.miscaptures).any()


# Played --------------------------------------------------------------------------------------


def hunters(agents: list[Place], prey: list[Place], rng: np.random.Generator) -> list[int]:
    """A team that sees everything. The two agents and the prey that are closest together, then
    the next, and so on: both walk to the prey, and catch once both are beside it.
    """
    actions = [STAY] * len(agents)
    taken = {place for place in (*agents, *prey) if place}
    away = {
        (i, j): abs(a[0] - p[0]) + abs(a[1] - p[1])
        for i, a in enumerate(agents)
        for j, p in enumerate(prey)
        if a and p
    }
    while away:
        nearest = {j: sorted((d, i) for (i, k), d in away.items() if k == j)[:2] for _, j in away}
        j, pair = min(nearest.items(), key=lambda item: sum(d for d, _ in item[1]))
        if len(pair) < 2:
            break
        for d, i in pair:
            closer = [
                u
                for u, to in enumerate(beside(agents[i]))
                if to not in taken and abs(to[0] - prey[j][0]) + abs(to[1] - prey[j][1]) < d
            ]
            if all(d == 1 for d, _ in pair):
                actions[i] = CATCH
            elif closer:
                actions[i] = int(rng.choice(closer))
        busy = {i for _, i in pair}
        away = {(i, k): d for (i, k), d in away.items() if k != j and i not in busy}
    return actions


@functools.cache
def returns(task: str, team: str, copies: int) -> np.ndarray:
    """Of one episode in each copy."""
    env, rng = predator_prey.make(task), np.random.default_rng(0)
    columns = int(task.partition("-")[0].partition("x")[2])

    @jax.jit
    @jax.vmap
    def step(key: Any, state: Any, actions: Any) -> Any:
        after, result = env.step(key, state, actions)
        return after, result.reward, result.terminated, env.observe(after).avail_actions

    state = jax.vmap(env.reset)(keys(0, copies))
    mask = np.asarray(jax.vmap(env.observe)(state).avail_actions)
    total, over = np.zeros(copies), np.zeros(copies, bool)
    for t in range(env.spec.episode_limit):
        if team == "random":
            actions = np.argmax(mask * rng.random(mask.shape), axis=-1)
        else:
            actions = np.array(
                [
                    hunters(places(a, columns), places(p, columns), rng)
                    for a, p in zip(np.asarray(state.agents), np.asarray(state.prey), strict=True)
                ]
            )
            assert np.take_along_axis(mask, actions[..., None], -1).all()
        state, reward, ended, mask = step(keys(1 + t, copies), state, actions.astype(np.int32))
        total += np.where(over, 0, reward)
        over, mask = over | ended, np.asarray(mask)
    return total


def test_a_team_that_sees_everything_captures_and_a_random_one_pays():
    task = "10x10-8v8-p2-t200"
    hunt, chance = returns(task, "hunters", 8), returns(task, "random", 8)
    assert hunt.max() == 40 and hunt.mean() > 36
    assert -150 < chance.mean() < -50


@pytest.mark.parametrize(("task", "steps"), [("p2", 202), ("small-p2", 102)])
def test_the_contract_is_kept(task: str, steps: int, quick_compile: None):
    report = check_env(make_env(f"predator_prey/{task}"), steps=steps, envs=4)
    assert report.ok and not report.problems, str(report)
    assert report.facts["truncated"] > 0


# Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "agents", "prey", "penalty", "limit"),
    [
        *((f"p{k:g}", 10, 8, 8, k, 200) for k in (0, 0.5, 1, 1.5, 2)),
        ("small-p2", 6, 4, 4, 2, 50),
        ("small-p0.25", 6, 4, 4, 0.25, 50),
        ("9x9-3v2-p12-t7", 9, 3, 2, 12, 7),
    ],
)
def test_facts(task: str, rows: int, agents: int, prey: int, penalty: float, limit: int):
    env = make_env(f"predator_prey/{task}")
    assert isinstance(env, JaxEnv) and isinstance(env, predator_prey.PredatorPrey)
    assert env.penalty == penalty and env.cells.size == rows * rows
    spec = env.spec
    assert spec.name == f"predator_prey/{task}"
    assert spec.agents == tuple(f"agent_{i}" for i in range(agents))
    assert spec.n_actions == (6,) * agents
    assert spec.obs_sizes == (50,) * agents and spec.obs_shape == (5, 5, 2)
    assert spec.state_size == 2 * rows * rows
    assert spec.episode_limit == limit
    assert (spec.team_reward, spec.state_source, spec.masks) == (
        "given",
        "environment",
        "environment",
    )
    assert spec.info == ("captures", "miscaptures")
    for fact in (f"{agents} agents", f"{prey} prey", f"{rows}x{rows}", f"loses {penalty:g}"):
        assert fact in spec.about
    state = jax.eval_shape(env.reset, jax.random.key(0))
    assert state.prey.shape == (prey,)


def test_listed_tasks_can_be_made():
    assert predator_prey.tasks() == ("p0", "p0.5", "p1", "p1.5", "p2", "small-p2")
    for task in predator_prey.tasks():
        assert predator_prey.make(task).spec.name == f"predator_prey/{task}"


@pytest.mark.parametrize("task", ["", "p", "p-2", "p2 ", "px", "small", "small-2", "big-p2", "2"])
def test_an_unknown_task(task: str):
    with pytest.raises(QtotError if task[:1].isdigit() else KeyError):
        predator_prey.make(task)


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("10x10", "expected ROWSxCOLUMNS-AGENTSvPREY-pPENALTY-tSTEPS"),
        ("10x10-8v8-p2", "such as '10x10-8v8-p2-t200'"),
        ("100x10-8v8-p2-t200", "at most 99x99"),
        ("10x10-1v8-p2-t200", "2 agents or more.*got 1 agents"),
        ("10x10-8v0-p2-t200", "got 8 agents and 0 prey"),
        ("3x3-5v5-p2-t200", "a cell for everyone; got 5 agents and 5 prey on 9 cells"),
        ("10x10-8v8-p2-t0", "for 0 steps"),
    ],
)
def test_a_malformed_or_impossible_task_says_what_was_expected(task: str, hint: str):
    with pytest.raises(QtotError, match=hint):
        make_env(f"predator_prey/{task}")


def test_a_misspelt_task_gets_the_nearest_name():
    with pytest.raises(QtotError, match="did you mean 'small-p2'"):
        make_env("predator_prey/smal-p2")

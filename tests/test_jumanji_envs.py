"""LBF and RWARE beside the package they come from: same keys, same actions, same numbers."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from extras import needs
from qtot.envs import lbf, make_env, rware, tasks
from qtot.envs.base import JaxEnv
from qtot.envs.check import check_env
from qtot.envs.jumanji import jumanji_module
from qtot.errors import QtotError

pytestmark = needs("jumanji")

COPIES = 12  # one program serves all tests of an environment
FORAGING, WAREHOUSE = "lbf/2s-10x10-3p-3f", "rware/tiny-2ag"
NOOP, UP, DOWN, LEFT, RIGHT, LOAD = range(6)  # lbf
FORWARD, TURN = 1, 3  # rware
NORTH, EAST, SOUTH, WEST = range(4)


def raw_lbf() -> Any:
    """The package's own, with the numbers in the name."""
    make = jumanji_module("lbf.generator").RandomGenerator
    generator = make(grid_size=10, num_agents=3, num_food=3, fov=2, force_coop=False)
    return jumanji_module("lbf").LevelBasedForaging(generator, time_limit=50)


def raw_rware() -> Any:
    """The package's own, with rware's numbers for a tiny warehouse."""
    make = jumanji_module("robot_warehouse.generator").RandomGenerator
    generator = make(1, 3, 8, num_agents=2, sensor_range=1, request_queue_size=2)
    return jumanji_module("robot_warehouse").RobotWarehouse(generator, time_limit=500)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def strong(x: Any) -> Any:
    """Not weakly typed, as what NumPy has touched; else the step is compiled twice."""
    return x.astype(x.dtype)


@functools.cache
def beside(name: str) -> tuple[JaxEnv, Any, Any]:
    """Our environment, a ``reset`` and a ``step`` of many copies which do both, compiled."""
    ours, raw = make_env(name), {FORAGING: raw_lbf, WAREHOUSE: raw_rware}[name]()

    def step(key: Any, state: Any, actions: Any) -> Any:
        after, result = ours.step(key, state, actions)
        # Our warehouse draws from the key it is given, the package's from the one in the state.
        before = state.replace(key=key) if name == WAREHOUSE else state
        return after, result, ours.observe(after), raw.step(before, actions)

    def reset(key: Any) -> Any:
        state = jax.tree.map(strong, ours.reset(key))
        return state, ours.observe(state), raw.reset(key)

    return ours, jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step))


def keys(seed: int) -> Any:
    return jax.random.split(jax.random.key(seed), COPIES)


def legal_actions(rng: np.random.Generator, mask: Any) -> np.ndarray:
    return np.argmax(np.asarray(mask) * rng.random(mask.shape), axis=-1).astype(np.int32)


def plain(x: Any) -> np.ndarray:
    keyed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if keyed else x)


def same(seen: Any, state: Any, raw_state: Any, timestep: Any) -> None:
    """What is seen, and the state behind it, is the package's."""
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(raw_state), strict=True):
        np.testing.assert_array_equal(plain(a), plain(b))
    np.testing.assert_array_equal(seen.obs, timestep.observation.agents_view)
    np.testing.assert_array_equal(seen.state, np.reshape(seen.obs, (COPIES, -1)))
    np.testing.assert_array_equal(seen.avail_actions, timestep.observation.action_mask)
    assert seen.alive.all()


@pytest.mark.parametrize("name", [FORAGING, WAREHOUSE])
def test_it_shows_pays_and_ends_as_the_package_does(name: str):
    _, reset, step = beside(name)
    rng = np.random.default_rng(0)
    state, seen, (raw_state, timestep) = reset(keys(0))
    paid = ended = 0
    for t in range(60):
        same(seen, state, raw_state, timestep)
        actions = legal_actions(rng, seen.avail_actions)
        if name == FORAGING:  # let them eat
            actions[np.asarray(seen.avail_actions)[..., LOAD]] = LOAD
        state, result, seen, (raw_state, timestep) = step(keys(1 + t), state, actions)
        reward = np.asarray(timestep.reward, np.float64)
        np.testing.assert_allclose(result.reward, reward.reshape(COPIES, -1).sum(-1), rtol=1e-6)
        np.testing.assert_array_equal(result.terminated | result.truncated, timestep.last())
        paid, ended = paid + np.sum(result.reward), ended + np.sum(timestep.last())
    assert ended
    assert paid or name == WAREHOUSE  # robots at random deliver nothing


@pytest.mark.parametrize(("name", "steps"), [(FORAGING, 110), (WAREHOUSE, 510)])
def test_the_contract_is_kept(name: str, steps: int):
    report = check_env(make_env(name), steps=steps, envs=4)
    assert report.ok and not report.problems, str(report)
    assert report.facts["truncated"] > 0


# Level-Based Foraging -----------------------------------------------------------------------


def forage(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every case one step later: state, result, what is seen, and what the package says. Levels of
    the agents are 1, 2 and 2, those of the food 3, 1 and 4.
    """
    _, reset, step = beside(FORAGING)
    assert len(changes) <= COPIES
    state, *_ = reset(keys(5))
    agents, food = state.agents, state.food_items
    at = np.tile([[0, 0], [0, 9], [9, 0]], (COPIES, 1, 1)).astype(np.int32)
    eaten, time = np.zeros((COPIES, 3), bool), np.zeros(COPIES, np.int32)
    actions = np.zeros((COPIES, 3), np.int32)
    for i, case in enumerate(changes.values()):
        for agent, place in case.get("at", {}).items():
            at[i, agent] = place
        eaten[i, list(case.get("eaten", ()))] = True
        time[i] = case.get("time", 0)
        for agent, action in case.get("play", {}).items():
            actions[i, agent] = action
    state = state.replace(
        agents=agents.replace(
            position=at, level=np.tile(np.array([1, 2, 2], np.int32), (COPIES, 1))
        ),
        food_items=food.replace(
            position=np.tile(np.array([[2, 2], [5, 5], [7, 2]], np.int32), (COPIES, 1, 1)),
            level=np.tile(np.array([3, 1, 4], np.int32), (COPIES, 1)),
            eaten=eaten,
        ),
        step_count=time,
    )
    after = step(keys(6), state, actions)
    return {name: jax.tree.map(lambda x, i=i: x[i], after) for i, name in enumerate(changes)}


BESIDE_0 = {0: (1, 2), 1: (3, 2)}  # levels 1 and 2 beside a food of 3
LAST = {"at": {0: (5, 4)}, "play": {0: LOAD}, "eaten": (0, 2)}
# What is played, and what follows: reward in eighths, terminated, truncated.
FORAGED: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "nothing": ({}, (0, 0, 0)),
    "together": ({"at": BESIDE_0, "play": {0: LOAD, 1: LOAD}}, (3, 0, 0)),
    "too_weak": ({"at": BESIDE_0, "play": {1: LOAD}}, (0, 0, 0)),
    "not_beside": ({"at": {0: (1, 2), 1: (3, 3)}, "play": {0: LOAD, 1: LOAD}}, (0, 0, 0)),
    "alone": ({"at": {2: (5, 6)}, "play": {2: LOAD}}, (1, 0, 0)),
    "eaten_already": ({"at": {2: (5, 6)}, "play": {2: LOAD}, "eaten": (1,)}, (0, 0, 0)),
    "two_foods": (
        {"at": {0: (5, 4), 1: (6, 2), 2: (7, 1)}, "play": {0: LOAD, 1: LOAD, 2: LOAD}},
        (5, 0, 0),
    ),
    "the_last": (LAST, (1, 1, 0)),
    "the_last_in_time": (LAST | {"time": 49}, (1, 1, 0)),
    "almost_in_time": ({"time": 48}, (0, 0, 0)),
    "time": ({"time": 49}, (0, 0, 1)),
    "all_but_one_in_time": (LAST | {"eaten": (0,), "time": 49}, (1, 0, 1)),
}


@pytest.fixture(scope="module")
def foraged() -> dict[str, Any]:
    return forage({name: changes for name, (changes, _) in FORAGED.items()})


@pytest.mark.parametrize("case", FORAGED)
def test_what_is_eaten_is_paid_by_its_share_of_all_levels(foraged: dict[str, Any], case: str):
    _, result, _, (_, timestep) = foraged[case]
    reward, terminated, truncated = FORAGED[case][1]
    np.testing.assert_allclose(result.reward, reward / 8, rtol=1e-6)
    assert (result.terminated, result.truncated) == (terminated, truncated)
    assert result.info == {"won": terminated}
    # The package tells the two apart by the discount.
    assert terminated == (timestep.last() and not timestep.discount.any())
    assert truncated == (timestep.last() and timestep.discount.all())


def test_what_foragers_see():
    """Row, column and level, counted from the first cell seen; -1, -1, 0 for what is not seen."""
    cases = {"close": {"at": {0: (3, 3), 1: (1, 1), 2: (6, 3)}, "eaten": (1,)}}
    seen = forage(cases)["close"][2]
    nothing = [-1, -1, 0]
    # Agent 0 sees rows and columns 1 to 5: the food at (2, 2) and agent 1, both at (1, 1) less.
    np.testing.assert_array_equal(
        seen.obs[0], [*(1, 1, 3), *nothing, *nothing, *(2, 2, 1), *(0, 0, 2), *nothing]
    )
    # Agent 1, in a corner, sees rows and columns 0 to 3.
    np.testing.assert_array_equal(
        seen.obs[1], [*(2, 2, 3), *nothing, *nothing, *(1, 1, 2), *(3, 3, 1), *nothing]
    )
    # Agent 2 sees rows 4 to 8: one food of two, for the other has been eaten.
    np.testing.assert_array_equal(
        seen.obs[2], [*nothing, *nothing, *(3, 1, 4), *(2, 2, 2), *nothing, *nothing]
    )


def test_foragers_may_not_walk_into_anything_and_load_only_beside_food():
    cases = {
        "food": {"at": {0: (1, 2), 1: (0, 2)}},  # between another agent and food
        "eaten": {"at": {0: (1, 2)}, "eaten": (0,)},
    }
    masks = {name: after[2].avail_actions[0] for name, after in forage(cases).items()}
    assert np.flatnonzero(masks["food"]).tolist() == [NOOP, LEFT, RIGHT, LOAD]
    assert np.flatnonzero(masks["eaten"]).tolist() == [NOOP, UP, DOWN, LEFT, RIGHT]


def test_food_and_foragers_never_begin_in_one_place():
    """With as many agents as a name may ask for."""
    state = jax.jit(jax.vmap(lbf.make("10x10-20p-8f").reset))(keys(0))
    both = np.concatenate([state.agents.position, state.food_items.position], axis=1)
    assert both.shape == (COPIES, 28, 2)
    assert all(len({*map(tuple, places)}) == 28 for places in both)


@pytest.mark.parametrize(
    ("task", "agents", "food", "about"),
    [
        ("8x8-2p-2f-coop", 2, 2, "2 agents, 2 food on 8x8, eaten only together"),
        ("2s-8x8-2p-2f-coop", 2, 2, "2 agents, 2 food on 8x8, seen 2 cells far, eaten only to"),
        ("10x10-3p-3f", 3, 3, "3 agents, 3 food on 10x10"),
        ("15x15-4p-5f", 4, 5, "4 agents, 5 food on 15x15"),
        ("12x12-5p-4f", 5, 4, "5 agents, 4 food on 12x12"),
    ],
)
def test_foraging_facts(task: str, agents: int, food: int, about: str):
    env = lbf.make(task)
    assert env.spec.name == f"lbf/{task}" and env.spec.about.startswith(about)
    assert env.spec.n_agents == agents and env.spec.n_actions == (6,) * agents
    assert env.spec.obs_sizes == (3 * (agents + food),) * agents
    assert env.spec.state_size == 3 * (agents + food) * agents
    assert env.spec.episode_limit == 50 and env.spec.info == ("won",)
    assert env.spec.team_reward == "sum"
    assert env.spec.state_source == "concatenated observations"
    size = int(task.removeprefix("2s-").partition("x")[0])
    generator = env._env._generator
    assert (generator.grid_size, generator.num_agents, generator.num_food) == (size, agents, food)
    assert generator.fov == (2 if task.startswith("2s-") else size)
    assert generator.force_coop == task.endswith("-coop")
    assert generator.max_agent_level == 2


# Robot warehouse ----------------------------------------------------------------------------


def drive(changes: dict[str, dict[str, Any]], seed: int = 6) -> dict[str, Any]:
    """Every case one step later: state, result, what is seen, and what the package says. Robots
    stand where a case says and play what it says; ``load`` names shelves they carry.
    """
    _, reset, step = beside(WAREHOUSE)
    assert len(changes) <= COPIES
    state, *_ = reset(keys(5))
    key, state = state.key, jax.tree.map(np.array, state.replace(key=0))
    actions = np.zeros((COPIES, 2), np.int32)
    state.grid[:, 1] = 0
    for i, case in enumerate(changes.values()):
        state.step_count[i] = case.get("time", 0)
        for robot, (row, column, direction, action) in enumerate(case["robots"]):
            state.agents.position.x[i, robot] = row
            state.agents.position.y[i, robot] = column
            state.agents.direction[i, robot] = direction
            state.grid[i, 1, row, column] = robot + 1
            actions[i, robot] = action
        if "load" in case:  # robot 0 carries a shelf: the last one requested, or not requested
            requested = state.shelves.is_requested[i].astype(bool)
            shelf = np.flatnonzero(requested if case["load"] == "requested" else ~requested)[-1]
            x, y = state.shelves.position.x, state.shelves.position.y
            state.grid[i, 0, x[i, shelf], y[i, shelf]] = 0
            x[i, shelf], y[i, shelf] = case["robots"][0][:2]
            state.grid[i, 0, x[i, shelf], y[i, shelf]] = shelf + 1
            state.agents.is_carrying[i, 0] = 1
    state.action_mask[:] = True
    after = step(keys(seed), state.replace(key=key), actions)
    return {name: jax.tree.map(lambda x, i=i: x[i], after) for i, name in enumerate(changes)}


AWAY = (0, 9, NORTH, NOOP)
DELIVERY = {"robots": ((9, 4, SOUTH, FORWARD), AWAY)}  # the goals are the middle of row 10
HEAD_ON = {"robots": ((0, 2, EAST, FORWARD), (0, 4, WEST, FORWARD))}
# What is played, and what follows: reward, terminated, truncated.
DRIVEN: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "apart": ({"robots": ((0, 2, EAST, FORWARD), AWAY)}, (0, 0, 0)),
    "delivery": (DELIVERY | {"load": "requested"}, (1, 0, 0)),
    "delivery_in_time": (DELIVERY | {"load": "requested", "time": 499}, (1, 0, 1)),
    "not_requested": (DELIVERY | {"load": "another"}, (0, 0, 0)),
    "nothing_carried": (DELIVERY, (0, 0, 0)),
    "head_on": (HEAD_ON, (0, 1, 0)),
    "head_on_in_time": (HEAD_ON | {"time": 499}, (0, 1, 0)),
    "into_one_that_stands": ({"robots": ((0, 2, EAST, FORWARD), (0, 3, EAST, NOOP))}, (0, 1, 0)),
    # Moved one after the other: a gap behind an earlier robot is free, behind a later one not yet.
    "behind_an_earlier": ({"robots": ((0, 3, EAST, FORWARD), (0, 2, EAST, FORWARD))}, (0, 0, 0)),
    "behind_a_later": ({"robots": ((0, 2, EAST, FORWARD), (0, 3, EAST, FORWARD))}, (0, 1, 0)),
    "almost_in_time": ({"robots": ((0, 2, EAST, FORWARD), AWAY), "time": 498}, (0, 0, 0)),
    "time": ({"robots": ((0, 2, EAST, FORWARD), AWAY), "time": 499}, (0, 0, 1)),
}


@pytest.fixture(scope="module")
def driven() -> dict[str, Any]:
    return drive({name: changes for name, (changes, _) in DRIVEN.items()})


@pytest.mark.parametrize("case", DRIVEN)
def test_a_collision_is_a_true_end_and_the_limit_is_not(driven: dict[str, Any], case: str):
    _, result, _, (_, timestep) = driven[case]
    reward, terminated, truncated = DRIVEN[case][1]
    assert result.reward == timestep.reward == reward
    assert (result.terminated, result.truncated) == (terminated, truncated)
    assert result.info == {"collided": terminated}
    assert timestep.last() == (terminated or truncated)  # the package folds them together


def test_the_key_of_a_step_draws_the_next_request():
    deliveries = {f"{i}": DELIVERY | {"load": "requested"} for i in range(COPIES)}

    def queues(seed: int) -> np.ndarray:
        return np.array([after[0].request_queue for after in drive(deliveries, seed).values()])

    once, again, other = queues(6), queues(6), queues(7)
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_a_loaded_robot_may_not_drive_into_a_shelf():
    cases = {
        # Turning, to where the shelves begin at row 1, column 1.
        "loaded": {"robots": ((0, 1, EAST, TURN), AWAY), "load": "another"},
        "empty": {"robots": ((0, 1, EAST, TURN), AWAY)},
    }
    after = drive(cases)
    masks = {name: case[2].avail_actions[0].tolist() for name, case in after.items()}
    assert after["loaded"][0].grid[0, 1, 1] > 0, "no shelf there"
    assert masks == {"loaded": [True, False, True, True, True], "empty": [True] * 5}


WAREHOUSES = {  # agents, shelves, requests
    "tiny-2ag": (2, 32, 2),
    "tiny-2ag-hard": (2, 32, 1),
    "tiny-4ag": (4, 32, 4),
    "tiny-4ag-easy": (4, 32, 8),
    "tiny-4ag-hard": (4, 32, 2),
    "small-4ag": (4, 80, 4),
    "small-4ag-hard": (4, 80, 2),
    "medium-4ag": (4, 144, 4),
    "large-4ag": (4, 224, 4),
}


def test_warehouse_facts():
    assert tasks("rware") == tuple(WAREHOUSES)
    for task, (agents, shelves, requests) in WAREHOUSES.items():
        env = rware.make(task)
        spec, package = env.spec, env._env
        assert spec.name == f"rware/{task}"
        assert spec.about == f"{agents} robots, {shelves} shelves, {requests} of them requested"
        assert (package.num_agents, len(package.shelf_ids)) == (agents, shelves)
        assert package.request_queue_size == requests
        assert (spec.n_agents, spec.n_actions) == (agents, (5,) * agents)
        # Oneself 8, the 8 cells around 5 for a robot, all 9 of them 2 for a shelf.
        assert (spec.obs_sizes, spec.state_size) == ((66,) * agents, 66 * agents)
        assert (spec.episode_limit, spec.info) == (500, ("collided",))
        assert (spec.team_reward, spec.state_source) == ("given", "concatenated observations")


# Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lbf/8x8-2p-2fcoop", "did you mean '8x8-2p-2f-coop'"),
        ("lbf/Foraging-8x8-2p-3f-v3", "did you mean '8x8-2p-3f'"),
        ("lbf/08x08-2p-3f", "did you mean '8x8-2p-3f'"),
        ("lbf/8x9-2p-2f", "must be a square; choose 8x8 or 9x9"),
        ("lbf/4x4-2p-1f", "a 4x4 grid is too small; choose 5x5 or larger"),
        ("lbf/9s-8x8-2p-2f", "a sight of 9 reaches beyond the grid; leave out '9s-'"),
        ("lbf/8x8-1p-2f", "1p is too few or too many; choose 2p to 16p on this grid"),
        ("lbf/20x20-41p-2f", "41p is too few or too many; choose 2p to 40p on this grid"),
        ("lbf/8x8-2p-7f", "7 food may not fit beside 2 agents; choose at most 6f or a larger grid"),
        ("lbf/5x5-9p-1f", "1 food may not fit beside 9 agents; choose a larger grid"),
        ("rware/tiny-4", "did you mean 'tiny-4ag'"),
        ("rware/huge-4ag", "unknown task of rware/ 'huge-4ag'"),
        ("rware/tiny-1ag-hard", "it requests 0 shelves at a time.*choose more agents"),
        ("rware/tiny-16ag-easy", "takes 1 to 31; choose fewer agents or a larger warehouse"),
    ],
)
def test_an_impossible_task_is_told_what_is_possible(name: str, message: str):
    with pytest.raises(QtotError, match=message):
        make_env(name)


@pytest.mark.parametrize(("size", "agents", "most"), [(8, 2, 6), (10, 4, 11)])
def test_the_most_food_that_is_promised_is_what_the_package_takes(
    size: int, agents: int, most: int
):
    generator = jumanji_module("lbf.generator").RandomGenerator
    lbf.make(f"{size}x{size}-{agents}p-{most}f")
    with pytest.raises(QtotError, match=f"choose at most {most}f or a larger grid"):
        lbf.make(f"{size}x{size}-{agents}p-{most + 1}f")
    with pytest.raises(AssertionError):
        generator(grid_size=size, num_agents=agents, num_food=most + 1, fov=size)


@pytest.mark.parametrize(("make", "task"), [(lbf.Lbf, "8x8-2p-3f"), (rware.Rware, "tiny-2ag")])
def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Any], task: str
):
    def refuse(name: str) -> None:
        assert name.startswith("jumanji")
        raise ModuleNotFoundError("No module named 'jumanji'")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(QtotError, match=r"needs the package 'jumanji'.*pip install 'qtot\[jumanji"):
        make(task)

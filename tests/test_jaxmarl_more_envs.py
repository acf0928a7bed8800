"""Overcooked, Hanabi and the switch riddle beside the package they come from: same keys, same
actions, same numbers. Where random play shows nothing, a script whose rewards follow from the
rules.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtot.envs import hanabi, make_env, overcooked, overcooked_v2, riddle, tasks
from qtot.envs.base import JaxEnv
from qtot.envs.check import check_env
from qtot.envs.check_spec import spec_problems
from qtot.envs.jaxmarl import jaxmarl_module
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError

COPIES = 24  # one program serves all tests of an environment
INNER = {"overcooked": "kitchen", "overcooked_v2": "kitchen", "hanabi": "now"}
V2 = "overcooked_v2/grounded_coord_simple-shaped"


@pytest.fixture(scope="module", autouse=True)
def _quick_compile() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def raw_overcooked(task: str) -> Any:
    module = jaxmarl_module("overcooked")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module.Overcooked(layout=module.overcooked_layouts[task])


def raw_overcooked_v2(task: str) -> Any:
    """The package's own, with the settings of its baseline."""
    return jaxmarl_module("overcooked_v2").OvercookedV2(
        task,
        agent_view_size=2,
        negative_rewards=True,
        sample_recipe_on_delivery=True,
        random_agent_positions=True,
    )


def raw_hanabi(task: str) -> Any:
    players, small = int(task[0]), task.endswith("-small")
    rules = {"num_colors": 2, "hand_size": 2, "max_info_tokens": 3, "max_life_tokens": 1}
    return jaxmarl_module("hanabi").Hanabi(num_agents=players, **(rules if small else {}))


def raw_riddle(task: str) -> Any:
    return jaxmarl_module("switch_riddle").SwitchRiddle(num_agents=int(task.partition("-")[2]))


RAW: dict[str, Callable[[str], Any]] = {
    "overcooked": raw_overcooked,
    "overcooked_v2": raw_overcooked_v2,
    "hanabi": raw_hanabi,
    "riddle": raw_riddle,
}


def inner(family: str, state: Any) -> Any:
    """The package's state, in ours."""
    return getattr(state, INNER[family]) if family in INNER else state


def strong(tree: Any) -> Any:
    """Without JAX's weak types, for which a program would be compiled anew."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.asarray(x).dtype), tree)


@functools.cache
def beside(name: str) -> tuple[JaxEnv, Any, Any]:
    """Our environment, a ``reset`` and a ``step`` of many copies which do both, compiled."""
    family, _, task = name.partition("/")
    ours, raw = make_env(name), RAW[family](task.removesuffix("-shaped"))

    def step(key: Any, state: Any, actions: Any) -> Any:
        named = dict(zip(raw.agents, actions, strict=True))
        after, result = ours.step(key, state, actions)
        theirs = raw.step_env(key, inner(family, state), named)
        return strong((after, result, ours.observe(after), theirs))

    def reset(key: Any) -> Any:
        state = ours.reset(key)
        return strong((state, ours.observe(state), raw.reset(key)))

    return ours, jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step))


def keys(seed: int) -> Any:
    return jax.random.split(jax.random.key(seed), COPIES)


def legal_actions(rng: np.random.Generator, mask: Any) -> np.ndarray:
    return np.argmax(np.asarray(mask) * rng.random(mask.shape), axis=-1).astype(np.int32)


def same_state(ours: Any, raw: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(raw)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(raw), strict=True):
        np.testing.assert_array_equal(a, b)


def same_obs(spec: EnvSpec, obs: Any, raw_obs: Any) -> None:
    for i, name in enumerate(spec.agents):
        np.testing.assert_array_equal(obs[:, i], np.reshape(raw_obs[name], (COPIES, -1)))


def image(spec: EnvSpec, features: Any) -> np.ndarray:
    return np.reshape(features, (*features.shape[:-1], *spec.obs_shape))


# Overcooked ---------------------------------------------------------------------------------

UP, DOWN, RIGHT, LEFT, STAY, TAKE = range(6)
# Cramped room: the first cook begins at row 1, column 1; onions on its left, the pot at row 0,
# column 2, plates at row 3, column 1, the counter to serve at row 3, column 3.
ONION = [(LEFT, 0), (TAKE, 0), (RIGHT, 0), (UP, 0), (TAKE, 3)]
SOUP = [
    *ONION * 3,
    *((action, 0) for action in (LEFT, DOWN, DOWN)),
    (TAKE, 3),  # a plate, while a pot cooks
    *((action, 0) for action in (UP, RIGHT, UP)),
    *[(TAKE, 0)] * 12,  # the soup cooks for 20 steps, of which 7 went by
    (TAKE, 5),
    *((action, 0) for action in (DOWN, RIGHT, DOWN)),
    (TAKE, 20),
]


def test_a_soup_is_cooked_served_and_paid():
    env, reset, step = beside("overcooked/cramped_room-shaped")
    plain, spec = make_env("overcooked/cramped_room"), env.spec
    rng, total = np.random.default_rng(0), 0.0
    state, seen, (raw_obs, raw_state) = reset(keys(0))
    same_state(state.kitchen, raw_state)
    for t, (action, paid) in enumerate(SOUP):
        same_obs(spec, seen.obs, raw_obs)
        assert seen.avail_actions.all() and seen.alive.all()
        # The second cook waits, looking elsewhere now and then.
        actions = np.stack([np.full(COPIES, action), rng.choice([STAY, UP], COPIES)], axis=-1)
        state, result, seen, (raw_obs, raw_state, rewards, dones, info) = step(
            keys(1 + t), state, actions
        )
        same_state(state.kitchen, raw_state)
        sparse = 20 * (paid == 20)
        total += sparse
        np.testing.assert_array_equal(result.reward, paid)
        np.testing.assert_array_equal(result.info["sparse_return"], total)
        for name in spec.agents:  # both receive the same
            np.testing.assert_array_equal(rewards[name], sparse)
        np.testing.assert_array_equal(sum(info["shaped_reward"].values()), paid - sparse)
        assert not dones["__all__"].any() and not result.terminated.any()
    assert total == 20
    # Once more the last step, without shaping: a soup in hand before the counter.
    one = jax.tree.map(lambda x: x[0], state)
    held = one.kitchen.replace(agent_inv=one.kitchen.agent_inv.at[0].set(9))
    one = one._replace(kitchen=held)
    _, result = jax.jit(plain.step)(jax.random.key(0), one, jnp.array([TAKE, STAY]))
    assert result.reward == 20 and result.info == {}


def test_what_both_cooks_earn_is_summed():
    """One puts an onion into the pot, the other takes a plate in time."""
    _, reset, step = beside("overcooked/cramped_room-shaped")
    state, *_ = reset(keys(3))
    kitchen = state.kitchen

    def everywhere(like: Any, value: Any) -> Any:
        return jnp.broadcast_to(jnp.array(value, like.dtype), like.shape)

    kitchen = kitchen.replace(
        agent_pos=everywhere(kitchen.agent_pos, [[2, 1], [1, 2]]),  # columns and rows
        agent_dir=everywhere(kitchen.agent_dir, [[0, -1], [0, 1]]),
        agent_inv=everywhere(kitchen.agent_inv, [3, 1]),  # an onion, nothing
    )
    both = np.full((COPIES, 2), TAKE)
    _, result, _, (*_, info) = step(keys(4), state._replace(kitchen=kitchen), both)
    for paid in info["shaped_reward"].values():
        np.testing.assert_array_equal(paid, 3)
    np.testing.assert_array_equal(result.reward, 6)
    assert not result.info["sparse_return"].any()


def test_an_image_has_rows_first_and_the_state_is_all_of_it():
    env, reset, step = beside("overcooked/cramped_room-shaped")
    spec, rng = env.spec, np.random.default_rng(1)
    assert spec.obs_shape == (4, 5, 26)
    state, seen, _ = reset(keys(5))
    for t in range(20):
        images, copies = image(spec, seen.obs), np.arange(COPIES)
        place = np.asarray(state.kitchen.agent_pos)
        for i in (0, 1):  # channel 0 is one's own place, channel 1 the other's
            for j in (0, 1):
                column, row = place[:, j].T
                at = images[:, i, :, :, 0 if i == j else 1]
                assert (at.sum((1, 2)) == 1).all() and at[copies, row, column].all()
        # What the second cook sees differs by the order of channels alone.
        swapped = [1, 0, *range(6, 10), *range(2, 6), *range(10, 26)]
        np.testing.assert_array_equal(image(spec, seen.state), images[:, 0])
        np.testing.assert_array_equal(images[:, 0], images[:, 1][..., swapped])
        actions = legal_actions(rng, seen.avail_actions)
        state, _, seen, _ = step(keys(6 + t), state, actions)
    assert len(np.unique(np.asarray(seen.state), axis=0)) > COPIES // 2


@pytest.mark.parametrize("name", ["overcooked/cramped_room-shaped", V2])
def test_only_time_ends_it_and_after_400_transitions(name: str):
    env, reset, step = beside(name)
    state, *_ = reset(keys(7))
    # The clock of every copy: from 380 to 403.
    clock = 380 + jnp.arange(COPIES)
    state = state._replace(kitchen=state.kitchen.replace(step=clock))
    _, result, _, (_, _, _, dones, _) = step(keys(8), state, np.full((COPIES, 2), STAY))
    np.testing.assert_array_equal(result.truncated, clock + 1 >= 400)
    np.testing.assert_array_equal(result.truncated, dones["__all__"])
    assert not result.terminated.any() and env.spec.episode_limit == 400


# Overcooked V2 ------------------------------------------------------------------------------


def test_v2_shows_and_pays_what_the_package_does():
    env, reset, step = beside(V2)
    spec, rng = env.spec, np.random.default_rng(2)
    rows, columns, channels = 5, 8, 40
    assert spec.obs_shape == (5, 5, channels)
    state, seen, (raw_obs, raw_state) = reset(keys(9))
    same_state(state.kitchen, raw_state)
    total, shaped = np.zeros(COPIES), 0.0
    for t in range(60):
        same_obs(spec, seen.obs, raw_obs)
        # A cook sees two cells of the state in every direction, and nothing beyond the kitchen.
        whole = np.reshape(seen.state, (COPIES, rows, columns, channels))
        padded = np.pad(whole, ((0, 0), (2, 2), (2, 2), (0, 0)))
        cook = jax.tree.map(np.asarray, state.kitchen.agents.pos)
        for copy in range(COPIES):
            row, column = cook.y[copy, 0], cook.x[copy, 0]
            near = padded[copy, row : row + 5, column : column + 5]
            np.testing.assert_array_equal(image(spec, seen.obs[copy, 0]), near)
            assert near[2, 2, 0] == 1
        # Half of the time to do something with what is in front.
        actions = legal_actions(rng, seen.avail_actions)
        actions[rng.random(actions.shape) < 0.5] = 5
        state, result, seen, (raw_obs, raw_state, rewards, _, info) = step(
            keys(10 + t), state, actions
        )
        same_state(state.kitchen, raw_state)
        total += np.asarray(rewards["agent_0"])
        np.testing.assert_array_equal(rewards["agent_0"], rewards["agent_1"])
        more = np.asarray(sum(info["shaped_reward"].values()))
        np.testing.assert_array_equal(result.reward, rewards["agent_0"] + more)
        np.testing.assert_array_equal(result.info["sparse_return"], total)
        shaped += more.sum()
    assert shaped > 0 and (total < 0).any()  # buttons were pressed


def test_v2_pays_right_soups_punishes_wrong_ones_and_sells_the_recipe():
    env, reset, step = beside(V2)
    state, *_ = reset(keys(80))
    kitchen, recipe = state.kitchen, np.asarray(state.kitchen.recipe)
    # Three onions (0) or three of the other (1), each two bits from the third on; 3: on a plate,
    # cooked. The other soup is the one of the recipes that is not wanted.
    soups = np.array([3 << 2, 3 << 4])
    wanted = np.where(recipe == soups[0], *soups) | 3
    other = np.where(recipe == soups[0], *soups[::-1]) | 3
    case = np.arange(COPIES) % 3
    held = np.zeros((COPIES, 2), np.int32)
    held[:, 1] = np.choose(case, [wanted, other, 0])
    # The first cook before the button, the second before the counter; both look to the right.
    agents = kitchen.agents.replace(
        pos=kitchen.agents.pos.replace(
            x=jnp.tile(jnp.array([2, 6]), (COPIES, 1)), y=jnp.full((COPIES, 2), 2, jnp.int32)
        ),
        dir=jnp.full((COPIES, 2), 2, jnp.int32),
        inventory=jnp.array(held),
    )
    state = state._replace(kitchen=kitchen.replace(agents=agents))
    actions = np.full((COPIES, 2), 4)
    actions[:, 1] = 5
    actions[case == 2, 0] = 5
    after, result, *_ = step(keys(81), state, actions)
    np.testing.assert_array_equal(result.reward, np.choose(case, [20, -20, -5]))
    new = np.asarray(after.kitchen.recipe)
    assert (new[case == 0] != recipe[case == 0]).any()  # drawn anew once it was served
    assert (new[case != 0] == recipe[case != 0]).all()
    assert len(set(recipe.tolist())) == 2 and env.spec.team_reward == "given"


def test_v2_begins_anywhere_in_a_cooks_own_room():
    _, reset, _ = beside(V2)
    state, *_ = reset(keys(82))
    columns = np.asarray(state.kitchen.agents.pos.x)
    assert set(columns[:, 0].tolist()) == {1, 2} and set(columns[:, 1].tolist()) == {5, 6}


# Hanabi -------------------------------------------------------------------------------------

SMALL = "hanabi/2p-small"
# Two players, two cards each: discard (0, 1), play (2, 3), hint a colour (2) or a rank (5), wait.
DISCARD, PLAY, HINT, WAIT = range(2), range(2, 4), range(4, 11), 11


def knowing(mask: np.ndarray, hand: np.ndarray, fireworks: np.ndarray) -> int:
    """Plays a card that fits, though the player cannot see it; else hints, else discards."""
    for action, card in zip(PLAY, hand, strict=True):
        if card.any() and fireworks[card.any(1)].sum() == card.any(0).argmax():
            return action
    return patient(mask)


def patient(mask: np.ndarray) -> int:
    """Makes the game last: hints while there are tokens, discards if not."""
    return next(action for action in (*HINT, *DISCARD, *PLAY) if mask[action])


@pytest.fixture(scope="module")
def games() -> dict[str, np.ndarray]:
    """Whole games, a third by each way of choosing; compared with the package step by step."""
    env, reset, step = beside(SMALL)
    spec, raw, rng = env.spec, raw_hanabi("2p-small"), np.random.default_rng(3)
    state, seen, (raw_obs, raw_state) = reset(keys(20))
    same_state(state.now, raw_state)
    masks = jax.jit(jax.vmap(raw.get_legal_moves))
    way, over = np.arange(COPIES) % 3, np.zeros(COPIES, bool)
    length, total = np.zeros(COPIES, int), np.zeros(COPIES)
    score, fireworks = np.zeros(COPIES), np.zeros(COPIES)
    told_apart = 0
    for t in range(spec.episode_limit):
        same_obs(spec, seen.obs, raw_obs)
        legal = masks(state.now)
        for i, name in enumerate(spec.agents):
            np.testing.assert_array_equal(seen.avail_actions[:, i], legal[name])
        # Who is not to move may only wait.
        mover, mask = t % 2, np.asarray(seen.avail_actions)
        np.testing.assert_array_equal(mask[:, 1 - mover], np.tile(np.arange(12) == WAIT, (24, 1)))
        assert not mask[:, mover, WAIT].any() and mask[~over, mover].any(-1).all()
        # The state: what player 0 sees, and its hand, which is what player 1 sees first of all.
        size = spec.obs_size
        np.testing.assert_array_equal(seen.state[:, :size], seen.obs[:, 0])
        np.testing.assert_array_equal(seen.state[:, size:], seen.obs[:, 1, : 2 * 10])
        assert seen.alive.all()

        actions = legal_actions(rng, seen.avail_actions)
        hands, built = np.asarray(state.now.player_hands), np.asarray(state.now.fireworks)
        for copy in np.flatnonzero(~over):
            mine = mask[copy, mover]
            if way[copy] == 0:
                actions[copy, mover] = knowing(mine, hands[copy, mover], built[copy])
            elif way[copy] == 1:
                actions[copy, mover] = patient(mine)
        before = seen
        state, result, seen, (raw_obs, raw_state, rewards, dones, _) = step(
            keys(21 + t), state, actions
        )
        same_state(state.now, raw_state)
        told_apart += int((np.asarray(before.obs) != np.asarray(seen.obs)).any())
        for name in spec.agents:  # everyone receives the same
            np.testing.assert_array_equal(result.reward, rewards[name])
        np.testing.assert_array_equal(result.terminated, dones["__all__"])
        assert not result.truncated.any()
        length += ~over
        total += np.where(over, 0, result.reward)
        ended = ~over & np.asarray(result.terminated)
        score = np.where(ended, result.info["score"], score)
        fireworks = np.where(ended, np.asarray(state.now.fireworks).sum((1, 2)), fireworks)
        lives = np.asarray(state.now.life_tokens).sum(1)
        fireworks = np.where(ended & (lives == 0), 0, fireworks)
        over |= ended
    assert over.all() and told_apart == spec.episode_limit
    return {"way": way, "length": length, "return": total, "score": score, "built": fireworks}


def test_the_longest_game_is_the_declared_limit(games: dict[str, np.ndarray]):
    limit = make_env(SMALL).spec.episode_limit
    # 20 cards less 4 dealt: 16 draws, a hint for each of 3 tokens and of all gained but the last,
    # and the last round.
    assert limit == 16 + 3 + 15 + 2
    assert (games["length"][games["way"] == 1] == limit).all()
    assert (games["length"][games["way"] != 1] < limit).any()


def test_the_return_is_the_score(games: dict[str, np.ndarray]):
    np.testing.assert_array_equal(games["return"], games["score"])
    np.testing.assert_array_equal(games["score"], games["built"])
    known, luck = games["score"][games["way"] == 0], games["score"][games["way"] == 2]
    assert (known >= 6).all() and known.max() <= 10 and (luck == 0).any()


# Switch riddle ------------------------------------------------------------------------------


def test_the_riddle_by_hand_and_beside_the_package():
    """A third tells once it is true, a third never, a third at random."""
    env, reset, step = beside("riddle/switch-3")
    spec, rng = env.spec, np.random.default_rng(4)
    state, seen, (raw_obs, raw_state) = reset(keys(40))
    same_state(state, raw_state)
    light, been = np.zeros(COPIES, bool), np.zeros((COPIES, 3), bool)
    way, over, endings = np.arange(COPIES) % 3, np.zeros(COPIES, bool), set()
    for t in range(6):
        same_obs(spec, seen.obs, raw_obs)
        inside = np.asarray(state.agent_in_room)[:, None] == np.arange(3)
        np.testing.assert_array_equal(seen.obs, np.stack([inside, inside & light[:, None]], -1))
        np.testing.assert_array_equal(seen.state, np.c_[light, inside, been])
        been |= inside
        actions = rng.integers(0, 3, (COPIES, 3))
        actions[way == 1] = rng.integers(0, 2, ((way == 1).sum(), 3))
        actions[way == 0] = np.where(been.all(1), 2, 1)[way == 0, None]
        chosen = actions[inside]
        state, result, seen, (raw_obs, raw_state, rewards, dones, _) = step(
            keys(41 + t), state, actions
        )
        same_state(state, raw_state)
        told = chosen == 2
        light ^= chosen == 1
        reward = np.where(told, np.where(been.all(1), 1, -1), 0)
        np.testing.assert_array_equal(result.reward, reward)
        np.testing.assert_array_equal(result.info["won"], reward == 1)
        for name in spec.agents:
            np.testing.assert_array_equal(rewards[name], reward)
        np.testing.assert_array_equal(result.terminated, told)
        np.testing.assert_array_equal(result.truncated, ~told & (t == 5))
        np.testing.assert_array_equal(dones["__all__"], result.terminated | result.truncated)
        endings |= set(zip(told[~over].tolist(), reward[~over].tolist(), strict=True))
        over |= told
    assert endings == {(False, 0), (True, 1), (True, -1)}
    assert over.any() and not over[way == 1].any()


# All ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "ended"),
    [
        ("overcooked/asymm_advantages", 402, "truncated"),
        pytest.param("overcooked_v2/cramped_room_v2", 402, "truncated", marks=pytest.mark.long),
        pytest.param("hanabi/3p-small", 40, "terminated", marks=pytest.mark.long),
        ("riddle/switch-4", 30, "terminated"),
    ],
)
def test_the_contract_is_kept(name: str, steps: int, ended: str):
    report = check_env(make_env(name), steps=steps, envs=4)
    assert report.ok and not report.problems, str(report)
    assert report.facts[ended] > 0


def test_the_layouts_are_the_packages():
    packaged = jaxmarl_module("overcooked_v2").overcooked_v2_layouts
    teams = {name for name, layout in packaged.items() if len(layout.agent_positions) > 1}
    assert set(tasks("overcooked_v2")) == teams == set(packaged) - {"long_room"}
    assert set(tasks("overcooked")) == set(jaxmarl_module("overcooked").overcooked_layouts)


GRIDS = {
    "overcooked/cramped_room": (4, 5, 26),
    "overcooked/asymm_advantages": (5, 9, 26),
    "overcooked/coord_ring": (5, 5, 26),
    "overcooked/forced_coord": (5, 5, 26),
    "overcooked/counter_circuit": (5, 8, 26),
    "overcooked_v2/cramped_room_v2-shaped": (5, 5, 35),
    "overcooked_v2/two_rooms": (5, 5, 35),
    "overcooked_v2/grounded_coord_ring": (5, 5, 40),
    "overcooked_v2/demo_cook_wide": (5, 5, 45),
}


@pytest.mark.parametrize("name", GRIDS)
def test_kitchen_facts(name: str):
    spec = make_env(name).spec
    assert spec.name == name and spec.obs_shape == GRIDS[name]
    assert spec.agents == ("agent_0", "agent_1") and spec.n_actions == (6, 6)
    assert spec.obs_sizes == (np.prod(GRIDS[name]),) * 2
    assert (spec.state_source, spec.masks) == ("environment", "all legal")
    assert spec.info == (("sparse_return",) if name.endswith("-shaped") else ())
    assert not list(spec_problems(spec))


# Actions, observation features, state features and the longest game.
GAMES = {
    "2p": (21, 658, 658 + 5 * 25, 8 + 39 + 40 + 2),
    "3p": (31, 956, 956 + 5 * 25, 8 + 34 + 35 + 3),
    "4p": (39, 1041, 1041 + 4 * 25, 8 + 33 + 34 + 4),
    "5p": (49, 1280, 1280 + 4 * 25, 8 + 29 + 30 + 5),
    "2p-small": (12, 171, 191, 36),
    "3p-small": (19, 226, 246, 33),
    "4p-small": (26, 281, 301, 30),
    "5p-small": (33, 336, 356, 27),
}


def test_hanabi_facts():
    assert tasks("hanabi") == tuple(GAMES)
    for task, (actions, obs, state, limit) in GAMES.items():
        spec, n = hanabi.make(task).spec, int(task[0])
        assert spec.name == f"hanabi/{task}" and spec.n_agents == n
        assert (spec.n_actions, spec.obs_sizes) == ((actions,) * n, (obs,) * n)
        assert (spec.state_size, spec.episode_limit) == (state, limit)
        assert (spec.team_reward, spec.state_source) == ("given", "environment")
        assert (spec.masks, spec.info) == ("environment", ("score",))


def test_riddle_facts():
    assert tasks("riddle") == ("switch-3", "switch-4", "switch-5")
    for n in (3, 5, 12):
        spec = riddle.make(f"switch-{n}").spec
        assert (spec.name, spec.n_agents) == (f"riddle/switch-{n}", n)
        assert (spec.n_actions, spec.obs_sizes) == ((3,) * n, (2,) * n)
        assert (spec.state_size, spec.episode_limit) == (2 * n + 1, 4 * n - 6)
        assert (spec.masks, spec.info, spec.obs_shape) == ("all legal", ("won",), ())


def test_an_image_that_is_not_the_observation_is_a_problem():
    spec = make_env("overcooked/cramped_room").spec
    (found,) = spec_problems(dataclasses.replace(spec, obs_shape=(4, 5, 25)))
    assert found.message == (
        "spec.obs_shape: expected rows, columns and channels whose product is every agent's "
        "entry in obs_sizes, got (4, 5, 25), 500 in all, beside (520, 520); flatten the whole "
        "image into the observation; () where it is no image"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("overcooked/cramped", "unknown task of overcooked/ 'cramped'; did you mean"),
        ("overcooked/cramped_room-shape", "did you mean 'cramped_room'"),
        ("overcooked_v2/long_room", "unknown task of overcooked_v2/ 'long_room'"),
        ("overcooked_v2/two_room", "did you mean 'two_rooms'"),
        ("hanabi/6p", "unknown task of hanabi/ '6p'; did you mean"),
        ("hanabi/2p-smal", "did you mean '2p-small'"),
        ("riddle/switch", "unknown task of riddle/ 'switch'; did you mean 'switch-"),
        ("riddle/switch-x", "unknown task of riddle/ 'switch-x'; did you mean 'switch-"),
        ("riddle/switch-2", "riddle/switch-N needs 3 agents or more, got N = 2"),
    ],
)
def test_a_wrong_task_gets_a_clear_word(name: str, message: str):
    with pytest.raises(QtotError) as error:
        make_env(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "task"),
    [
        (overcooked.make, "coord_ring-shaped"),
        (overcooked_v2.make, "test_time_wide"),
        (hanabi.Hanabi, "4p"),
        (riddle.make, "switch-7"),
    ],
)
def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Any], task: str
):
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(QtotError, match=r"needs the package 'jaxmarl'.*pip install 'jaxmarl"):
        make(task)

"""SMAX and MPE beside the package they come from: same keys, same actions, same numbers."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
from qtot.envs import make_env, mpe, smax, tasks
from qtot.envs.base import JaxEnv
from qtot.envs.check import check_env
from qtot.envs.dice import hashed
from qtot.envs.jaxmarl import jaxmarl_module
from qtot.envs.packages import package_module
from qtot.errors import QtotError

COPIES = 11  # one program serves all tests of an environment
MPE = ("simple_spread", "simple_speaker_listener", "simple_reference")
STOP = 4  # SMAX: four moves, stop, then one attack per enemy


def raw_smax(task: str) -> Any:
    """The package's own, with the settings published for QMIX."""
    module = jaxmarl_module("smax")
    return module.HeuristicEnemySMAX(
        scenario=module.map_name_to_scenario(task),
        see_enemy_actions=True,
        walls_cause_death=True,
        attack_mode="closest",
    )


def raw_mpe(task: str) -> Any:
    name = "".join(word.title() for word in task.split("_")) + "MPE"
    return getattr(jaxmarl_module("mpe"), name)()


@pytest.fixture(scope="module", autouse=True)
def _quick_compile() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


RAW: dict[str, Callable[[str], Any]] = {"smax": raw_smax, "mpe": raw_mpe}


@functools.cache
def beside(name: str) -> tuple[JaxEnv, Any, Any]:
    """Our environment, a ``reset`` and a ``step`` of many copies which do both, compiled."""
    family, _, task = name.partition("/")
    ours, raw = make_env(name), RAW[family](task)

    def step(key: Any, state: Any, actions: Any) -> Any:
        by_agent = dict(zip(raw.agents, actions, strict=True))
        after, result = ours.step(key, state, actions)
        return after, result, ours.observe(after), raw.step_env(hashed(key), state, by_agent)

    def reset(key: Any) -> Any:
        state = ours.reset(key)
        return state, ours.observe(state), raw.reset(hashed(key))

    return ours, jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step))


def keys(seed: int) -> Any:
    return jax.random.split(jax.random.key(seed), COPIES)


def legal_actions(rng: np.random.Generator, mask: Any) -> np.ndarray:
    return np.argmax(np.asarray(mask) * rng.random(mask.shape), axis=-1).astype(np.int32)


def same_state(ours: Any, raw: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(raw)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(raw), strict=True):
        np.testing.assert_array_equal(a, b)


# SMAX ---------------------------------------------------------------------------------------


def test_smax_shows_and_pays_what_the_package_does():
    env, reset, step = beside("smax/3m")
    rng, agents = np.random.default_rng(0), env.spec.agents
    state, seen, (raw_obs, raw_state) = reset(keys(0))
    same_state(state, raw_state)
    shot = paid = False
    for t in range(40):
        for i, name in enumerate(agents):
            np.testing.assert_array_equal(seen.obs[:, i], raw_obs[name])
        np.testing.assert_array_equal(seen.state, raw_obs["world_state"])
        shot |= bool(seen.avail_actions[..., STOP + 1 :].any())
        # Advance on the enemy, who comes from the right; then fight.
        actions = legal_actions(rng, seen.avail_actions)
        if t < 10:
            actions[:] = 1
        state, result, seen, (raw_obs, raw_state, rewards, _, _) = step(keys(1 + t), state, actions)
        same_state(state, raw_state)
        for name in agents:  # the whole team receives the same
            np.testing.assert_array_equal(result.reward, rewards[name])
        paid |= bool((np.asarray(result.reward) > 0).any())
    assert shot and paid


def test_smax_masks_are_the_packages_masks():
    env, reset, _ = beside("smax/3m")
    raw, (state, *_) = raw_smax("3m"), reset(keys(3))
    state = jax.tree.map(lambda x: x[0], state)
    across = state.state.unit_positions.at[:, 0].set(jnp.arange(14.0, 20.0))
    alive = state.state.unit_alive.at[jnp.array([1, 4])].set(False)
    state = state.replace(
        state=state.state.replace(unit_positions=across.at[:, 1].set(16.0), unit_alive=alive)
    )
    ours, masks = jax.jit(lambda s: (env.observe(s).avail_actions, raw.get_avail_actions(s)))(state)
    assert ours.dtype == bool
    np.testing.assert_array_equal(ours, np.stack([masks[a] for a in env.spec.agents]).astype(bool))
    # Allies at 14, 15 (dead), 16; enemies at 17, 18 (dead), 19; a marine shoots less than 5 far.
    np.testing.assert_array_equal(ours[:, STOP + 1 :], [[1, 0, 0], [0, 0, 0], [1, 0, 1]])


# Two teams of three at full strength (or units dead on the next step; or another time on the
# clock), and what follows: terminated, truncated, won.
ENDS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "fight": ({}, (0, 0, 0)),
    "win": ({"dead": (3, 4, 5)}, (1, 0, 1)),
    "win_with_losses": ({"dead": (0, 1, 3, 4, 5)}, (1, 0, 1)),
    "defeat": ({"dead": (0, 1, 2)}, (1, 0, 0)),
    "both": ({"dead": (0, 1, 2, 3, 4, 5)}, (1, 0, 0)),
    "one_dead": ({"dead": (1,)}, (0, 0, 0)),
    "one_left": ({"dead": (0, 2, 3, 4)}, (0, 0, 0)),
    "almost_in_time": ({"step": 98}, (0, 0, 0)),
    "time": ({"step": 99}, (0, 1, 0)),
    "win_in_time": ({"step": 99, "dead": (3, 4, 5)}, (1, 0, 1)),
    "defeat_in_time": ({"step": 99, "dead": (0, 1, 2)}, (1, 0, 0)),
}


@pytest.fixture(scope="module")
def after_surgery() -> dict[str, Any]:
    """Every case one step later: state, result, what is seen, and what the package says."""
    env, reset, step = beside("smax/3m")
    assert len(ENDS) == COPIES
    state, *_ = reset(keys(5))
    health, time = np.array(state.state.unit_health), np.array(state.state.step)
    for i, (changes, _) in enumerate(ENDS.values()):
        health[i, list(changes.get("dead", ()))] = 0.0
        time[i] = changes.get("step", 0)
    state = state.replace(
        state=state.state.replace(unit_health=jnp.array(health), step=jnp.array(time))
    )
    stop = np.full((COPIES, env.spec.n_agents), STOP, np.int32)
    after = jax.tree.map(np.asarray, step(keys(6), state, stop))
    return {name: jax.tree.map(lambda x, i=i: x[i], after) for i, name in enumerate(ENDS)}


@pytest.mark.parametrize("case", ENDS)
def test_smax_ends(after_surgery: dict[str, Any], case: str):
    _, result, seen, (_, _, rewards, dones, _) = after_surgery[case]
    changes, (terminated, truncated, won) = ENDS[case]
    assert (result.terminated, result.truncated) == (terminated, truncated)
    assert result.info == {"won": won}
    # The package, which tests its counter before it counts, would play one step more than the
    # limit that it states.
    assert dones["__all__"] == result.terminated
    assert result.reward == rewards["ally_0"] == won  # 1 for a victory, nothing for a draw
    alive = np.isin(np.arange(3), changes.get("dead", ()), invert=True)
    np.testing.assert_array_equal(seen.alive, alive)


def test_smax_dead_units_may_only_stop(after_surgery: dict[str, Any]):
    only_stop = np.arange(8) == STOP
    for case in ENDS:
        seen = after_surgery[case][2]
        for mask, alive in zip(seen.avail_actions, seen.alive, strict=True):
            assert mask[STOP]
            assert (mask[:STOP] == alive).all()
            assert alive or (mask == only_stop).all()


# The units of every map, as SMAC and the JaxMARL paper list them.
UNITS = {
    "3m": (3, 3),
    "8m": (8, 8),
    "25m": (25, 25),
    "2s3z": (5, 5),
    "3s5z": (8, 8),
    "5m_vs_6m": (5, 6),
    "10m_vs_11m": (10, 11),
    "27m_vs_30m": (27, 30),
    "3s5z_vs_3s6z": (8, 9),
    "3s_vs_5z": (3, 5),
    "6h_vs_8z": (6, 8),
    "smacv2_5_units": (5, 5),
    "smacv2_10_units": (10, 10),
    "smacv2_20_units": (20, 20),
}


def test_smax_has_all_maps_of_the_package():
    jaxmarl_module("smax")
    scenarios = sys.modules["jaxmarl.environments.smax.smax_env"].MAP_NAME_TO_SCENARIO
    assert set(tasks("smax")) == set(scenarios) == set(UNITS)


@pytest.mark.parametrize("task", UNITS)
def test_smax_facts(task: str):
    spec, (allies, enemies) = smax.make(task).spec, UNITS[task]
    scenario = jaxmarl_module("smax").map_name_to_scenario(task)
    assert (scenario.num_allies, scenario.num_enemies) == (allies, enemies)
    assert spec.name == f"smax/{task}"
    assert spec.agents == tuple(f"ally_{i}" for i in range(allies))
    assert spec.n_actions == (STOP + 1 + enemies,) * allies
    # 13 features of every other unit, 10 of one's own; 6 type bits in both.
    assert spec.obs_sizes == (13 * (allies + enemies - 1) + 10,) * allies
    assert spec.state_size == 12 * (allies + enemies)
    assert spec.episode_limit == 100
    assert (spec.team_reward, spec.state_source, spec.masks) == (
        "given",
        "environment",
        "environment",
    )
    assert spec.info == ("won",)
    assert f"{allies} allies against {enemies} enemies" in spec.about


# MPE ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MPE)
def test_mpe_shows_and_pays_what_the_package_does_for_26_steps(task: str):
    env, reset, step = beside(f"mpe/{task}")
    spec, rng = env.spec, np.random.default_rng(0)
    state, seen, (raw_obs, raw_state) = reset(keys(0))
    same_state(state, raw_state)
    for t in range(26):
        for i, name in enumerate(spec.agents):
            size = spec.obs_sizes[i]
            np.testing.assert_array_equal(seen.obs[:, i, :size], raw_obs[name])
            assert not seen.obs[:, i, size:].any()
        side_by_side = np.concatenate([raw_obs[name] for name in spec.agents], axis=-1)
        np.testing.assert_array_equal(seen.state, side_by_side)
        assert seen.alive.all()
        legal = np.arange(spec.max_actions) < np.array(spec.n_actions)[:, None]
        assert (seen.avail_actions == legal).all()
        state, result, seen, (raw_obs, raw_state, rewards, dones, _) = step(
            keys(1 + t), state, legal_actions(rng, seen.avail_actions)
        )
        same_state(state, raw_state)
        total = sum(np.asarray(rewards[name], np.float64) for name in spec.agents)
        np.testing.assert_allclose(result.reward, total, rtol=1e-6)
        np.testing.assert_array_equal(result.truncated, dones["__all__"])
        assert not result.terminated.any()
        assert result.truncated.all() == result.truncated.any() == (t == 25)
    assert spec.episode_limit == 26
    assert (spec.team_reward, spec.state_source) == ("sum", "concatenated observations")
    assert spec.masks == "all legal" and spec.info == ()


def test_speaker_and_listener_have_observations_and_actions_of_their_own():
    env, reset, _ = beside("mpe/simple_speaker_listener")
    spec, (_, seen, _) = env.spec, reset(keys(9))
    assert spec.agents == ("speaker_0", "listener_0")
    assert spec.obs_sizes == (3, 11) and spec.n_actions == (3, 5)
    assert seen.obs.shape == (COPIES, 2, 11) and seen.state.shape == (COPIES, 14)
    assert seen.obs[:, 0, :3].all() and not seen.obs[:, 0, 3:].any()
    np.testing.assert_array_equal(seen.avail_actions[0], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    # Nothing of the padding reaches the state.
    np.testing.assert_array_equal(
        seen.state, np.concatenate([seen.obs[:, 0, :3], seen.obs[:, 1]], -1)
    )


def test_mpe_facts():
    facts = {task: mpe.make(task).spec for task in MPE}
    assert tasks("mpe") == MPE
    assert {t: (s.n_agents, s.n_actions, s.obs_sizes) for t, s in facts.items()} == {
        "simple_spread": (3, (5,) * 3, (18,) * 3),
        "simple_speaker_listener": (2, (3, 5), (3, 11)),
        "simple_reference": (2, (50,) * 2, (21,) * 2),
    }


# Both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("smax/3m", 110), *((f"mpe/{t}", 56) for t in MPE)])
def test_the_contract_is_kept(name: str, steps: int):
    report = check_env(make_env(name), steps=steps, envs=4)
    assert report.ok and not report.problems, str(report)
    ended = "truncated" if name.startswith("mpe") else "terminated"
    assert report.facts[ended] > 0


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smax/3mm", "did you mean '3m'"),
        ("smax/5m_vs_6", "did you mean '5m_vs_6m'"),
        ("mpe/simple_sprea", "did you mean 'simple_spread'"),
        ("mpe/tag", "choose one of: simple_spread, simple_speaker_listener, simple_reference"),
    ],
)
def test_an_unknown_task_names_the_nearest(name: str, hint: str):
    family, _, task = name.partition("/")
    with pytest.raises(QtotError, match=f"unknown task of {family}/ '{task}'; {hint}"):
        make_env(name)


@pytest.mark.parametrize(
    ("make", "task", "module"), [(smax.Smax, "8m", "smax"), (mpe.Mpe, "simple_spread", "mpe")]
)
def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Any], task: str, module: str
):
    for name in ("jaxmarl", f"jaxmarl.environments.{module}"):
        monkeypatch.setitem(sys.modules, name, None)  # as Python marks what is not to be found
    with pytest.raises(QtotError, match=r"needs the package 'jaxmarl'.*pip install 'jaxmarl"):
        make(task)


def test_a_broken_package_is_named_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    package = tmp_path / "qtot_broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "games.py").write_text("from math import no_such_function")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(QtotError, match=r"no_such_function.*pip install 'broken>=1'"):
        package_module("qtot_broken_package.games", "broken>=1")
    with pytest.raises(QtotError, match=r"'no_such_package', which does not import.*pip install"):
        package_module("no_such_package.games.chess", "no_such_package")


def test_importing_the_package_prints_nothing_and_leaves_the_streams_alone():
    """As in a notebook: its streams stand in for the interpreter's."""
    program = """
        import io, sys
        names = ("stdout", "stderr", "__stdout__", "__stderr__")
        terminal, sys.stdout = sys.stdout, io.StringIO()
        before = [getattr(sys, name) for name in names]
        import qtot
        qtot.make_env("smax/3m"), qtot.make_env("mpe/simple_spread")
        assert "jaxmarl" in sys.modules
        assert all(getattr(sys, name) is stream for name, stream in zip(names, before))
        print(repr(sys.stdout.getvalue()), file=terminal)
    """
    src = Path(qtot.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(src), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "''\n", "")

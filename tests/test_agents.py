"""Agents that share networks by groups, that look through a CNN or a module of the user's own."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import builders
import oracle
import qtot
from builders import SIZES, agent_config, random_batch
from losses import close, unroll_of
from qtot.core.agent import Agent
from qtot.core.config import AgentConfig
from qtot.core.eyes import CNN
from qtot.core.learner import Learner
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.evaluation.policy import Policy
from qtot.objects import import_object

pytestmark = pytest.mark.usefixtures("quick_compile")

TEAM = SIZES._replace(T=3, N=3)
IMAGE = (3, 2, 2)


def agent_of(
    config: AgentConfig,
    sizes: builders.Sizes = TEAM,
    obs_shape: tuple[int, ...] = (),
    seed: int = 0,
) -> Agent:
    """With random numbers in every array."""
    sizes = sizes._replace(O=int(np.prod(obs_shape))) if obs_shape else sizes

    def build(key: jax.Array) -> Agent:
        return Agent(
            key,
            n_agents=sizes.N,
            obs_size=sizes.O,
            obs_shape=obs_shape,
            n_actions=sizes.A,
            config=config,
        )

    rng = np.random.default_rng(seed)
    return builders.randomised(rng, jax.eval_shape(build, jax.random.key(0)))


# Groups ---------------------------------------------------------------------------------------


def groups(*numbers: int, **changes: Any) -> AgentConfig:
    return agent_config(TEAM, sharing="groups", groups=numbers, **changes)


def alike(batch: Any) -> Any:
    """Every agent sees, does and remembers what agent 0 does."""

    def first(x: np.ndarray, axis: int) -> np.ndarray:
        return np.repeat(np.take(x, [0], axis=axis), TEAM.N, axis=axis)

    slots = batch.slots
    slots = slots._replace(obs=first(slots.obs, 2), action=first(slots.action, 2))
    return batch._replace(slots=slots, start=jax.tree.map(lambda x: first(x, 1), batch.start))


def test_agents_of_a_group_are_alike_and_groups_are_not():
    agent = agent_of(groups(0, 1, 0, agent_id=False))
    q, hidden = unroll_of(agent, alike(random_batch(0, TEAM)))
    for x in (q, hidden):
        np.testing.assert_allclose(x[:, :, 0], x[:, :, 2], rtol=1e-6, atol=1e-6)
        assert not np.allclose(x[:, :, 0], x[:, :, 1], atol=1e-3)
    told_apart, _ = unroll_of(agent_of(groups(0, 1, 0)), alike(random_batch(0, TEAM)))
    assert not np.allclose(told_apart[:, :, 0], told_apart[:, :, 2], atol=1e-3)  # by their ids


def test_a_group_is_trained_by_its_own_agents_only():
    agent, batch = agent_of(groups(1, 0, 1, memory="none")), random_batch(0, TEAM, memory=0)
    slots, (memory, previous) = batch.slots, batch.start
    previous = np.concatenate([previous[None], slots.action[:-1]])

    def total(agent: Agent, who: jax.Array, *args: jax.Array) -> jax.Array:
        return jnp.sum(who * agent.unroll(*args)[0])

    gradient = jax.jit(jax.grad(total))
    for mine, group in (([1, 0, 1], 1), ([1, 0, 0], 1), ([0, 1, 0], 0)):
        who = np.array(mine, np.float32)[:, None]
        grads = gradient(agent, who, slots.obs, previous, slots.first, memory)
        for g in jax.tree.leaves(grads):
            assert len(g) == 2  # networks, not agents
            assert (np.asarray(g[1 - group]) == 0).all()
            assert (np.asarray(g[group]) != 0).any()


def with_leaves(agent: Agent, leaves: list[Any]) -> Agent:
    return jax.tree.unflatten(jax.tree.structure(agent), leaves)


def test_a_group_each_is_no_sharing_and_one_group_is_sharing_by_all():
    batch, own = random_batch(0, TEAM), agent_of(agent_config(TEAM, sharing="none"))
    same = with_leaves(agent_of(groups(0, 1, 2)), jax.tree.leaves(own))
    close(unroll_of(same, batch), unroll_of(own, batch), rtol=1e-6, atol=1e-6)

    shared = agent_of(agent_config(TEAM))
    one = with_leaves(agent_of(groups(0, 0, 0)), [x[None] for x in jax.tree.leaves(shared)])
    close(unroll_of(one, batch), unroll_of(shared, batch), rtol=1e-5, atol=1e-6)


def test_groups_begin_differently():
    config = AgentConfig(encoder=(), hidden=4, sharing="groups", groups=(0, 1, 1), init="torch")
    build = jax.jit(lambda key: Agent(key, n_agents=3, obs_size=4, n_actions=2, config=config))
    for x in jax.tree.leaves(build(jax.random.key(0))):
        assert len(x) == 2
        assert not np.array_equal(x[0], x[1])


@pytest.mark.parametrize("named", [(0,), (0, 1), (0, 1, 1, 0)])
def test_groups_of_another_team_are_refused(named: tuple[int, ...]):
    message = f"agent.groups names the groups of {len(named)} agents, but the team has 3"
    with pytest.raises(QtotError, match=message):
        agent_of(groups(*named))


# CNN ------------------------------------------------------------------------------------------


def convolved(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 × 3, zeros beyond the edges, one pixel at a time; then ReLU."""
    rows, columns, _ = image.shape
    out = np.zeros((rows, columns, weight.shape[-1]))
    for r, c in np.ndindex(rows, columns):
        total = bias.copy()
        for i, j in itertools.product((-1, 0, 1), repeat=2):
            if 0 <= r + i < rows and 0 <= c + j < columns:
                total += image[r + i, c + j] @ weight[i + 1, j + 1]
        out[r, c] = np.maximum(total, 0.0)
    return out


@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 5, 1), (2, 1, 3)])
def test_a_cnn_equals_plain_loops(shape: tuple[int, ...]):
    rng = np.random.default_rng(0)
    build = jax.eval_shape(lambda key: CNN(key, (3, 2), shape, "torch"), jax.random.key(0))
    cnn = builders.randomised(rng, build)
    images = rng.normal(size=(2, 3, *shape)).astype(np.float32)
    got = jax.jit(lambda cnn, x: cnn(x))(cnn, images.reshape(2, 3, -1))
    assert got.shape == (2, 3, cnn.features) == (2, 3, shape[0] * shape[1] * 2)
    for at in np.ndindex(2, 3):
        x = oracle.f64(images[at])
        for layer in cnn.layers:
            inputs = layer.weight.shape[1] // 9
            weight, bias = layer.weight.T.reshape(3, 3, inputs, -1), layer.bias
            x = convolved(x, oracle.f64(weight), oracle.f64(bias))
        np.testing.assert_allclose(got[at], x.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["torch", "lecun"])
def test_a_cnn_begins_at_the_scale_of_its_fan_in(init: Any):
    cnn = jax.jit(lambda key: CNN(key, (64,), (5, 5, 8), init))(jax.random.key(0))
    fan_in = 9 * 8
    deviation = {"torch": (3 * fan_in) ** -0.5, "lecun": (2 / fan_in) ** 0.5}[init]
    assert np.std(cnn.layers[0].weight) == pytest.approx(deviation, rel=0.05)
    assert (np.asarray(cnn.layers[0].bias) == 0).all() == (init == "lecun")


@pytest.mark.parametrize("shape", [(), (12,), (3, 4), (2, 2, 3, 1)])
def test_a_cnn_refuses_what_is_no_image(shape: tuple[int, ...]):
    with pytest.raises(QtotError, match=r"agent.cnn reads images .* leave agent.cnn empty"):
        agent_of(agent_config(cnn=(4,)), obs_shape=shape)


# A module of the user's own -------------------------------------------------------------------

OWN = """
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

class Eyes(eqx.Module):
    weight: jax.Array
    scale: jax.Array
    act: callable
    width: int

    def __init__(self, key, obs_shape):
        self.width = 4
        self.weight = jax.random.normal(key, (self.width, int(np.prod(obs_shape))))
        self.scale = jnp.ones(())
        self.act = jnp.tanh

    def __call__(self, obs):
        return self.scale * self.act(self.weight @ obs.reshape(-1))

class Holds(eqx.Module):
    held: object

    def __call__(self, obs):
        return obs.reshape(-1)[:1] * jnp.sum(jnp.asarray(self.held))

class Inner:
    make = Eyes

def mlp(key, obs_shape):
    return eqx.nn.Sequential([
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.MLP(int(np.prod(obs_shape)), 5, 6, 1, key=key),
        eqx.nn.LayerNorm(5),
    ])

def plain(key, obs_shape):
    return lambda obs: jnp.cos(obs.reshape(-1))

shape_seen = []
def sees(key, obs_shape):
    def eyes(obs):
        shape_seen.append(obs.shape)
        return obs.reshape(-1)
    return eyes

holds_integers = lambda key, obs_shape: Holds(jnp.arange(3))
holds_numpy = lambda key, obs_shape: Holds(np.ones(3, np.float32))
holds_numpy_integers = lambda key, obs_shape: Holds(np.arange(3))
holds_halves = lambda key, obs_shape: Holds(jnp.ones(3, jnp.float16))


class Hides:
    def __init__(self, key):
        self.w = jax.random.normal(key, (12,))

    def __call__(self, obs):
        return obs.reshape(-1) * self.w


hides = lambda key, obs_shape: Hides(key)


def closes_over(key, obs_shape):
    w = jax.random.normal(key, (12,))
    return lambda obs: obs.reshape(-1) * w


raises = lambda key, obs_shape: 1 / 0
raises_later = lambda key, obs_shape: lambda obs: obs @ jnp.ones(77)
none = lambda key, obs_shape: None
scalar = lambda key, obs_shape: lambda obs: jnp.sum(obs)
image = lambda key, obs_shape: lambda obs: jnp.ones((2, 2))
integers = lambda key, obs_shape: lambda obs: jnp.arange(3)
two = lambda key, obs_shape: lambda obs: (jnp.ones(3), jnp.ones(3))
few_arguments = lambda key: None
number = 5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The path of an object in a module file that lies in the working directory."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return lambda attribute: f"{name}:{attribute}"


def test_the_users_module_sees_one_observation_in_its_shape_and_is_trained(own: Any):
    config = agent_config(module=own("Eyes"), memory="none", encoder=(6,))
    agent = agent_of(config, obs_shape=IMAGE)
    eyes: Any = agent.network.eyes
    assert eyes.features == 4
    assert sorted(x.shape for x in jax.tree.leaves(eyes)) == [(), (4, 12)]

    batch = random_batch(0, TEAM._replace(O=12), memory=0)
    slots, (memory, previous) = batch.slots, batch.start
    previous = np.concatenate([previous[None], slots.action[:-1]])
    args = (slots.obs, previous, slots.first, memory)
    total = jax.jit(jax.value_and_grad(lambda agent, *args: jnp.sum(agent.unroll(*args)[1])))
    _, grads = total(agent, *args)
    for g in jax.tree.leaves(grads.network.eyes):
        assert (np.asarray(g) != 0).any()

    hidden = jax.jit(lambda agent, *args: agent.unroll(*args)[1])(agent, *args)
    x = eyes.arrays.scale * np.tanh(eyes.arrays.weight @ slots.obs[1, 2, 0])
    x = np.concatenate([x, oracle.one_hot(-1 if slots.first[1, 2] else previous[1, 2, 0], 3)])
    x = np.concatenate([x, oracle.one_hot(0, TEAM.N)])
    for layer in (*agent.network.encoder, agent.network.memory):
        x = oracle.relu(oracle.linear(layer, x))
    np.testing.assert_allclose(hidden[1, 2, 0], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attribute", ["mlp", "plain", "holds_numpy", "Inner.make"])
def test_what_may_be_a_module(own: Any, attribute: str):
    """Equinox's own layers with functions among their fields, a plain function, NumPy's arrays, a
    nested name.
    """
    agent = agent_of(agent_config(module=own(attribute), memory="none"), obs_shape=IMAGE)
    batch = random_batch(0, TEAM._replace(O=12), memory=0)
    assert np.isfinite(unroll_of(agent, batch)[0]).all()
    # Another agent with the same module is the same type to JAX: it compiles once.
    again = agent_of(agent_config(module=own(attribute), memory="none"), obs_shape=IMAGE, seed=1)
    if attribute != "plain":  # a new function each time
        assert jax.tree.structure(agent) == jax.tree.structure(again)


@pytest.mark.parametrize("obs_shape", [(), IMAGE])
def test_the_module_is_given_the_observations_shape(own: Any, obs_shape: tuple[int, ...]):
    path = own("sees")
    agent = agent_of(agent_config(module=path, memory="none"), obs_shape=obs_shape)
    unroll_of(agent, random_batch(0, TEAM._replace(O=12 if obs_shape else TEAM.O), memory=0))
    seen = sys.modules[path.partition(":")[0]].shape_seen
    assert set(seen) == {obs_shape or (TEAM.O,)}


WRONG = r"agent.module 'own_.*' must be a factory\(key, obs_shape\) of an Equinox module that "


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("raises", WRONG + ".*; it raised ZeroDivisionError: division by zero"),
        ("raises_later", WRONG + ".*; it raised TypeError"),
        ("none", WRONG + ".*; it raised TypeError"),
        ("few_arguments", WRONG + ".*; it raised TypeError"),
        ("number", WRONG + ".*; it raised TypeError: 'int' object is not callable"),
        ("scalar", WRONG + r".*; it returns shape \(\), float32"),
        ("image", WRONG + r".*; it returns shape \(2, 2\), float32"),
        ("integers", WRONG + r".*; it returns shape \(3,\), int32"),
        ("two", WRONG + ".*; it returns tuple"),
        ("holds_integers", WRONG + ".*; it holds arrays that cannot be trained"),
        ("holds_numpy_integers", WRONG + ".*; it holds arrays that cannot be trained"),
        ("holds_halves", WRONG + ".*; it holds arrays that cannot be trained"),
        ("hides", WRONG + ".*; it holds arrays that cannot be trained"),
        ("closes_over", WRONG + ".*; it holds arrays that cannot be trained"),
        ("missing", r"agent.module 'own_.*:missing': module 'own_.*' has no 'missing'"),
        ("Inner.missing", r"agent.module 'own_.*': module 'own_.*' has no 'Inner.missing'"),
    ],
)
def test_a_module_that_cannot_be_is_refused(own: Any, attribute: str, message: str):
    with pytest.raises(QtotError, match=message) as raised:
        agent_of(agent_config(module=own(attribute), memory="none"), obs_shape=IMAGE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "module must look like 'package.module:name', got 'nowhere'"),
        (":name", "module must look like"),
        ("json:", "module must look like"),
        ("no_such_module_here:f", r"module 'no_such_module_here:f': importing .* raised Module"),
        ("json:nothing", "module 'json:nothing': module 'json' has no 'nothing'"),
        ("..json:loads", "module '..json:loads': importing '..json' raised TypeError"),
    ],
)
def test_an_object_that_is_not_there_is_refused(path: str, message: str):
    with pytest.raises(QtotError, match=message):
        import_object(path, "module")


def test_an_object_is_found_by_its_name(own: Any):
    import json

    assert import_object("json:loads", "module") is json.loads
    assert import_object("json:JSONDecoder.decode", "module") is json.JSONDecoder.decode
    assert import_object(own("number"), "module") == 5  # in the working directory


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("this is no Python", "raised SyntaxError"),
        ("import no_such_package_at_all", "raised ModuleNotFoundError .*no_such_package_at_all"),
        ("raise KeyError('key')", "raised KeyError"),
    ],
)
def test_a_users_module_that_does_not_load_is_refused(
    own: Any, tmp_path: Path, source: str, message: str
):
    name = f"broken_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(QtotError, match=f"agent.module '{name}:f': importing '{name}' {message}"):
        import_object(f"{name}:f", "agent.module")


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ({"sharing": "groups", "groups": (0, 1)}, "^agent.groups names the groups of 2 agents"),
        ({"cnn": (4,)}, "^agent.cnn reads images"),
        ({"module": "no_such_module_here:f"}, "^agent.module .*importing"),
        ({"module": "json:loads"}, r"^agent.module 'json:loads' must be a factory"),
    ],
)
def test_an_agent_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, agent: dict[str, Any], message: str
):
    out = tmp_path / "run"
    with pytest.raises(QtotError, match=message):
        qtot.train("probe/one", out=out, quiet=True, agent=agent)
    assert not out.exists()


# All of it together ---------------------------------------------------------------------------

EYES = {"none": {}, "cnn": {"cnn": (2,)}, "own": {"module": "Eyes"}}


@pytest.mark.parametrize("memory", ["gru", "none"])
@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("sharing", ["all", "none", "groups"])
def test_unroll_equals_acting_step_by_step(own: Any, sharing: str, eyes: str, memory: str):
    changes = {k: own(v) if k == "module" else v for k, v in EYES[eyes].items()}
    if sharing == "groups":
        changes["groups"] = (1, 0, 1)
    config = agent_config(TEAM, encoder=(5,), sharing=sharing, memory=memory, **changes)
    agent = agent_of(config, obs_shape=IMAGE)
    batch = random_batch(1, TEAM._replace(O=12), memory=agent.memory_size)

    @jax.jit
    def both(agent: Agent, batch: Any) -> Any:
        slots, (memory, previous) = batch.slots, batch.start
        before = jnp.concatenate([previous[None], slots.action[:-1]])
        *together, last = agent.unroll(slots.obs, before, slots.first, memory)
        steps = []
        for t in range(TEAM.T + 1):
            now = slice(t, t + 1)
            *seen, memory = agent.unroll(slots.obs[now], before[now], slots.first[now], memory)
            steps.append(seen)
        return (*together, last), (
            *jax.tree.map(lambda *xs: jnp.concatenate(xs), *steps),
            memory,
        )

    close(*both(agent, batch), rtol=1e-5, atol=1e-6)


def test_a_policy_acts_on_an_image():
    spec = EnvSpec(
        name="a/b",
        agents=("x", "y"),
        n_actions=(3, 3),
        obs_sizes=(12, 12),
        state_size=2,
        episode_limit=5,
        obs_shape=IMAGE,
    )
    sizes = SIZES._replace(O=12)
    learner: Learner = builders.make_learner(
        "vdn", sizes, agent=agent_config(cnn=(2,)), obs_shape=IMAGE
    )
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    online = builders.randomised(rng, shapes.online)
    stats = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.stats)
    policy = Policy(spec, learner, jax.device_put(online.agent), jax.device_put(stats), "y")
    image = rng.normal(size=IMAGE)
    q, hidden = policy.q_values(image, policy.reset())
    flat, same = policy.q_values(image.reshape(-1), policy.reset())
    np.testing.assert_array_equal(q, flat)
    np.testing.assert_array_equal(hidden, same)
    assert policy.act(image, None, policy.reset())[0] == np.argmax(q)
    turned, _ = policy.q_values(image.transpose(1, 0, 2).reshape(-1), policy.reset())
    assert not np.allclose(turned, q, atol=1e-4)
    for wrong in (image.transpose(1, 0, 2), image[None], image[..., 0]):
        with pytest.raises(
            QtotError, match=r"y expects an observation of shape \(12,\) or \(3, 2, 2\)"
        ):
            policy.act(wrong, None, policy.reset())


def test_arrays_of_the_agents_eyes_are_what_is_saved(own: Any):
    """The module's functions and sizes are no parameters."""
    agent = agent_of(agent_config(module=own("Eyes"), memory="none"), obs_shape=IMAGE)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(agent)]
    assert [n for n in names if "eyes" in n] == [
        ".network.eyes.arrays.weight",
        ".network.eyes.arrays.scale",
    ]
    assert all(eqx.is_array_like(x) for x in jax.tree.leaves(agent))

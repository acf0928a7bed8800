"""Small networks and random batches for the tests of the core.

All arrays are NumPy's: slicing and changing them compiles nothing, and jitted functions take them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from qtot.core.agent import Agent
from qtot.core.config import (
    AgentConfig,
    CriticConfig,
    MixerConfig,
    OptimiserConfig,
    ScalingConfig,
    TargetConfig,
)
from qtot.core.learner import Learner
from qtot.core.methods import critic_class, mixer_class
from qtot.core.mixers.base import Mixer, MixerInputs, Shapes
from qtot.core.networks import Networks
from qtot.types import Batch, SequenceStart, Slots

MIXER = MixerConfig(embed=4, hypernet_embed=5, heads=3)
CRITIC = CriticConfig(embed=6)


class Sizes(NamedTuple):
    """Numbers of everything; small, and all different, so that no two axes can be confused."""

    T: int = 6
    B: int = 4
    N: int = 2
    A: int = 3
    O: int = 5  # noqa: E741
    S: int = 7
    H: int = 8


SIZES = Sizes()


def agent_config(sizes: Sizes = SIZES, **changes: Any) -> AgentConfig:
    return AgentConfig(**{"encoder": (9,), "hidden": sizes.H, **changes})


def randomised(rng: np.random.Generator, tree: Any, scale: float = 0.5) -> Any:
    """The same structure with normal numbers in every float array."""

    def draw(x: Any) -> np.ndarray:
        floating = np.issubdtype(x.dtype, np.floating)
        return np.asarray(scale * rng.normal(size=x.shape) * floating, x.dtype)

    return jax.tree.map(draw, tree)


def shapes_of(sizes: Sizes) -> Shapes:
    """What a mixer or a critic is built for."""
    return Shapes(sizes.N, sizes.A, sizes.S, sizes.H, sizes.O)


def random_mixer(
    rng: np.random.Generator,
    algo: str,
    sizes: Sizes = SIZES,
    config: MixerConfig = MIXER,
    scale: float = 0.5,
) -> Mixer:
    shapes = shapes_of(sizes)
    return randomised(
        rng,
        jax.eval_shape(lambda key: mixer_class(algo)(key, shapes, config), jax.random.key(0)),
        scale,
    )


def random_agent(
    rng: np.random.Generator, sizes: Sizes = SIZES, config: AgentConfig | None = None
) -> Agent:
    def build(key: jax.Array) -> Agent:
        return Agent(
            key,
            n_agents=sizes.N,
            obs_size=sizes.O,
            n_actions=sizes.A,
            config=config or agent_config(sizes),
        )

    return randomised(rng, jax.eval_shape(build, jax.random.key(0)))


def random_networks(
    seed: int, algo: str = "qmix", sizes: Sizes = SIZES, config: AgentConfig | None = None
) -> Networks:
    """All that the method has: agents, and a mixer and a critic if there are any."""
    rng = np.random.default_rng(seed)
    agent = random_agent(rng, sizes, config)
    mixer = None if mixer_class(algo) is None else random_mixer(rng, algo, sizes)
    return Networks(agent, mixer, random_critic(rng, algo, sizes, config))


def random_critic(
    rng: np.random.Generator,
    algo: str,
    sizes: Sizes = SIZES,
    config: AgentConfig | None = None,
    scale: float = 0.5,
) -> Any:
    """The method's central critic, or None."""
    build = critic_class(algo)
    if build is None:
        return None
    parts = (shapes_of(sizes), CRITIC, config or agent_config(sizes))
    return randomised(rng, jax.eval_shape(lambda key: build(key, *parts), jax.random.key(0)), scale)


def memory_of(networks: Networks) -> int:
    """Features of memory that are stored for each agent, a critic's own agents included."""
    return sum(agent.memory_size for agent in networks.recurrent)


def random_mask(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Legal actions: at least one everywhere."""
    mask = rng.random(shape) < 0.6
    some = rng.integers(shape[-1], size=shape[:-1])
    return mask | (np.arange(shape[-1]) == some[..., None])


def random_legal(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A legal action wherever there is one."""
    return np.argmax(mask * rng.random(mask.shape), axis=-1).astype(np.int32)


def mixer_inputs(q: Any, action: Any, mask: Any, state: Any, hidden: Any) -> MixerInputs:
    """What the loss hands to a mixer, written without the core's helpers. NumPy's or JAX's."""
    one_hot = np.arange(q.shape[-1]) == action[..., None]
    return MixerInputs(
        q_taken=(q * one_hot).sum(axis=-1),
        q_greedy=(q + (mask - np.float32(1.0)) * np.float32(1e30)).max(axis=-1),
        q=q,
        action=action,
        hidden=hidden,
        state=state,
        avail_actions=mask,
        alive=mask.any(axis=-1),
    )


def random_inputs(rng: np.random.Generator, sizes: Sizes = SIZES) -> MixerInputs:
    """Leading axes T, B."""
    lead = (sizes.T, sizes.B)
    mask = random_mask(rng, *lead, sizes.N, sizes.A)
    return mixer_inputs(
        np.float32(rng.normal(size=mask.shape)),
        random_legal(rng, mask),
        mask,
        np.float32(rng.normal(size=(*lead, sizes.S))),
        np.float32(rng.normal(size=(*lead, sizes.N, sizes.H))),
    )


def random_flags(rng: np.random.Generator, sizes: Sizes, *, whole: bool) -> dict[str, np.ndarray]:
    """``first``, ``valid``, ``terminated`` of streams: each episode's final observation is a slot
    of its own, followed by a reset, or by padding if sequences are ``whole`` episodes.
    """
    shape = (sizes.T + 1, sizes.B)
    first, valid, terminated = (np.zeros(shape, bool) for _ in range(3))
    for b in range(sizes.B):
        if whole:
            length = 1 + int(rng.integers(sizes.T))
            first[0, b], valid[:length, b] = True, True
            terminated[length - 1, b] = rng.random() < 0.5
            continue
        opens = rng.random() < 0.5
        final = rng.random() < 0.2  # the sequence may begin with a final observation
        for t in range(sizes.T + 1):
            first[t, b], valid[t, b] = opens and not final, not final
            ended = valid[t, b] and rng.random() < 0.35
            terminated[t, b] = ended and rng.random() < 0.5
            opens, final = final, ended
    return {"first": first, "valid": valid, "terminated": terminated}


def random_batch(
    seed: int, sizes: Sizes = SIZES, *, whole: bool = False, memory: int | None = None
) -> Batch:
    """Segments of running streams, or whole episodes with padding (zeros)."""
    rng = np.random.default_rng(seed)
    flags = random_flags(rng, sizes, whole=whole)
    lead = (sizes.T + 1, sizes.B)
    valid = flags["valid"]
    read = valid | np.concatenate([np.zeros_like(valid[:1]), valid[:-1]])
    read |= not whole
    mask = random_mask(rng, *lead, sizes.N, sizes.A) & read[..., None, None]

    def values(*shape: int) -> np.ndarray:
        x = rng.normal(size=(*lead, *shape)) * read.reshape(*lead, *(1 for _ in shape))
        return x.astype(np.float32)

    slots = Slots(
        obs=values(sizes.N, sizes.O),
        state=values(sizes.S),
        avail_actions=mask,
        alive=np.broadcast_to(read[..., None], (*lead, sizes.N)),
        action=random_legal(rng, mask),
        reward=values() * valid,  # 0 on final observations
        **flags,
    )
    opens = flags["first"][0][:, None]
    width = sizes.H if memory is None else memory
    start = SequenceStart(
        memory=(rng.normal(size=(sizes.B, sizes.N, width)) * ~opens[..., None]).astype(np.float32),
        prev_action=np.where(opens, -1, rng.integers(sizes.A, size=(sizes.B, sizes.N))).astype(
            np.int32
        ),
    )
    return Batch(slots, start)


def make_learner(algo: str = "vdn", sizes: Sizes = SIZES, **changes: Any) -> Learner:
    """A learner with small networks."""
    parts: dict[str, Any] = {
        "agent": agent_config(sizes),
        "mixer": MIXER,
        "critic": CRITIC,
        "target": TargetConfig(),
        "optimiser": OptimiserConfig(),
        "scaling": ScalingConfig(),
        "total_steps": 1_000,
    }
    return Learner(
        algo=algo,
        n_agents=sizes.N,
        n_actions=sizes.A,
        obs_size=sizes.O,
        state_size=sizes.S,
        **{**parts, **changes},
    )

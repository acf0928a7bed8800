"""Collecting experience in-graph: segments of running streams, or whole episodes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qtot.core.learner import Learner, Statistics
from qtot.core.networks import Networks
from qtot.core.shards import Shards
from qtot.envs.base import JaxEnv
from qtot.envs.dice import plain
from qtot.envs.stream import Stream, chances, draw, draws_at, open_stream, play, see
from qtot.types import Key, Observation, SequenceStart, Slots


class Actors(NamedTuple):
    """E environments and what their agents remember."""

    stream: Stream
    memory: Float[Array, "E N K"]
    prev_action: Int[Array, "E N"]


class Tally(NamedTuple):
    """Sums over a stretch of training, from which means are logged."""

    transitions: Float[Array, ""]
    episodes: Float[Array, ""]
    episode_return: Float[Array, ""]
    episode_length: Float[Array, ""]
    info: dict[str, Float[Array, ""]]


class Collector(NamedTuple):
    """How experience is gathered. ``init → collect``."""

    env: JaxEnv
    learner: Learner
    envs: int
    """environments of a seed, on all devices"""
    slots: int
    """slots per collection: T for segments, episode limit + 1 for whole episodes"""
    whole_episodes: bool

    @property
    def shards(self) -> Shards:
        """Where the environments are; below, E are those on this device."""
        return self.learner.shards

    def init(self, key: Key, networks: Networks) -> Actors:
        """Fresh episodes, empty memories."""
        agent, each = networks.agent, self.envs // self.shards.pieces
        keys = plain(self.shards.draw(key, lambda k: jax.random.split(k, each)))
        return Actors(
            stream=open_stream(self.env, keys),
            memory=self.acting(networks).initial_memory(len(keys)),
            prev_action=jnp.full((len(keys), agent.n_agents), -1, action_dtype(agent.n_actions)),
        )

    def collect(
        self,
        key: Key,
        actors: Actors,
        networks: Networks,
        stats: Statistics,
        epsilon: Float[Array, ""],
    ) -> tuple[Actors, Slots, SequenceStart, Tally]:
        """Act for ``slots`` slots; returns them ``[slots, E, ...]`` with what preceded them."""
        reset_key, act_key, env_key = jax.random.split(key, 3)
        if self.whole_episodes:
            actors = self.init(reset_key, networks)
        start = SequenceStart(actors.memory, actors.prev_action)
        each = self.envs // self.shards.pieces
        many = chances(self.env, self.slots, restart=not self.whole_episodes)
        keys = plain(self.shards.draw(env_key, lambda k: jax.random.split(k, (many, each)), 1))
        draws = draw(self.env, keys, self.slots)

        def slot(actors: Actors, now: tuple[Array, Array]) -> tuple[Actors, tuple[Slots, Tally]]:
            stream, (noise, t) = actors.stream, now
            seen, action, memory = self.act(noise, actors, networks, stats, epsilon)
            after, outcome = play(self.env, draws_at(self.env, draws, t), stream, action)
            slots = Slots(
                *seen,
                action=action,
                reward=outcome.reward,
                terminated=outcome.terminated,
                first=stream.first,
                valid=outcome.valid,
            )
            ended = outcome.ended
            tally = Tally(
                transitions=jnp.sum(outcome.valid, dtype=jnp.float32),
                episodes=jnp.sum(ended, dtype=jnp.float32),
                episode_return=jnp.sum(jnp.where(ended, outcome.episode_return, 0.0)),
                episode_length=jnp.sum(jnp.where(ended, outcome.episode_length, 0.0)),
                info={k: jnp.sum(jnp.where(ended, v, 0.0)) for k, v in outcome.info.items()},
            )
            return Actors(after, memory, action), (slots, tally)

        noise = self.noise(act_key, self.slots)
        actors, (slots, tallies) = jax.lax.scan(slot, actors, (noise, jnp.arange(self.slots)))
        tally = self.shards.total(jax.tree.map(lambda x: jnp.sum(x, axis=0), tallies))
        return actors, slots, start, tally

    def noise(self, key: Key, slots: int) -> Float[Array, "T 2 E N"]:
        """What exploration draws, for all slots at once."""
        each, n = self.envs // self.shards.pieces, self.learner.n_agents
        return self.shards.draw(key, lambda k: jax.random.uniform(k, (slots, 2, each, n)), 2)

    def acting(self, networks: Networks) -> Networks:
        """Those whose memory is needed: of whole episodes, which start without, the agents only."""
        return Networks(networks.agent) if self.whole_episodes else networks

    def act(
        self,
        noise: Float[Array, "2 E N"],
        actors: Actors,
        networks: Networks,
        stats: Statistics,
        epsilon: Float[Array, ""],
    ) -> tuple[Observation, Int[Array, "E N"], Float[Array, "E N K"]]:
        """What is seen at this slot, what is chosen, and what is remembered after it."""
        seen = see(self.env, actors.stream)
        values, memory = self.acting(networks).step(
            self.learner.see(stats, seen.obs),
            actors.prev_action,
            actors.stream.first,
            actors.memory,
        )
        action = self.learner.explore(noise, values, seen.avail_actions, epsilon)
        return seen, action.astype(actors.prev_action.dtype), memory

    def peek(
        self,
        key: Key,
        actors: Actors,
        networks: Networks,
        stats: Statistics,
        epsilon: Float[Array, ""],
    ) -> Slots:
        """The slot that comes next, ``[1, E, ...]``, seen but not played: for bootstrapping."""
        stream = actors.stream
        noise = self.noise(key, 1)[0]
        seen, action, _ = self.act(noise, actors, networks, stats, epsilon)
        none = jnp.zeros(stream.first.shape)
        slot = Slots(
            *seen,
            action=action,
            reward=none,
            terminated=none > 0,
            first=stream.first,
            valid=~(stream.final | stream.over),
        )
        return jax.tree.map(lambda x: x[None], slot)


def action_dtype(n_actions: int) -> jnp.dtype:
    """The smallest integer that holds every action and -1."""
    return jnp.dtype(
        jnp.int8 if n_actions <= 127 else jnp.int16 if n_actions < 2**15 else jnp.int32
    )

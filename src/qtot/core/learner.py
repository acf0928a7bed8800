"""The learner: one update of agents and mixer from sampled sequences, however they came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from qtot.core.agent import Agent
from qtot.core.config import (
    AgentConfig,
    CriticConfig,
    ExplorationConfig,
    LossConfig,
    MixerConfig,
    OptimiserConfig,
    ScalingConfig,
    TargetConfig,
)
from qtot.core.exploration import epsilon_at, epsilon_greedy, sample_policy
from qtot.core.losses.base import Objective, counted
from qtot.core.methods import critic_class, loss_function, method, mixer_class, reports
from qtot.core.mixers.base import Shapes
from qtot.core.networks import Networks
from qtot.core.optimiser import clip, learning_rate, make_optimiser
from qtot.core.shards import ALONE, Shards
from qtot.core.statistics import RunningStats, init_stats, merge, standardise
from qtot.core.unroll import scrub, unroll_slow
from qtot.shapes import ObsShape
from qtot.types import Batch, Key, PyTree, Slots

Vectors = dict[str, Float[Array, "_"]]
"""all numbers of the agents, of the mixer and of the critic side by side: an optimiser treats them
alike, in a few large operations"""


def vectors_of(networks: Networks) -> Vectors:
    """What an optimiser is given of networks, or of their gradients."""
    parts = {part: getattr(networks, part) for part in ("agent", "mixer", "critic")}
    return {part: ravel_pytree(x)[0] for part, x in parts.items() if x is not None}


class Statistics(NamedTuple):
    """Running moments of what the environment showed; part of the policy when used."""

    reward: RunningStats
    obs: RunningStats
    state: RunningStats


class TrainState(NamedTuple):
    """Everything that learning changes."""

    online: Networks
    target: Networks
    opt_state: Any
    """of the parts' vectors"""
    stats: Statistics
    updates: Int[Array, ""]
    """learner updates done"""
    env_steps: Int[Array, ""]
    """valid transitions seen; what every schedule counts"""
    largest_reward: Float[Array, ""]
    """in size, of all team rewards seen, as the environment gave them"""
    trouble: Int[Array, "3"]
    """the first number that was not finite: 1 + its place in ``Learner.quantities``, the update,
    env_steps; zeros while all are
    """


class PolicyParams(NamedTuple):
    """What is saved of a seed: enough to act, to evaluate and to look inside the mixer."""

    online: Networks
    stats: Statistics

    @staticmethod
    def of(train: TrainState) -> PolicyParams:
        """Of a state in training."""
        return PolicyParams(train.online, train.stats)


@dataclass(frozen=True)
class Learner:
    """``init(key) -> TrainState`` and ``update(TrainState, batch) -> (TrainState, metrics)``."""

    algo: str
    n_agents: int
    n_actions: int
    obs_size: int
    state_size: int
    total_steps: int
    """environment steps of the run, over which the learning rate decays"""
    agent: AgentConfig
    mixer: MixerConfig
    target: TargetConfig
    optimiser: OptimiserConfig
    scaling: ScalingConfig
    critic: CriticConfig = field(default_factory=CriticConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    obs_shape: ObsShape = ()
    burn_in: int = 0
    target_networks: bool = True
    """they follow the online ones; else the caller says when"""
    shards: Shards = ALONE
    """over which devices a batch is spread"""

    def networks(self, key: Key) -> Networks:
        """Fresh agents, mixer and critic, as far as the method has them."""
        agent_key, mixer_key, critic_key = jax.random.split(key, 3)
        agent = Agent(
            agent_key,
            n_agents=self.n_agents,
            obs_size=self.obs_size,
            obs_shape=self.obs_shape,
            n_actions=self.n_actions,
            config=self.agent,
        )
        shapes = Shapes(
            self.n_agents,
            self.n_actions,
            self.state_size,
            self.agent.hidden,
            self.obs_size,
            self.obs_shape,
        )
        mixer, critic = mixer_class(self.algo), critic_class(self.algo)
        return Networks(
            agent,
            None if mixer is None else mixer(mixer_key, shapes, self.mixer),
            None if critic is None else critic(critic_key, shapes, self.critic, self.agent),
        )

    def init(self, key: Key) -> TrainState:
        """Target networks begin as copies of the online ones."""
        online = self.networks(key)
        return TrainState(
            online=online,
            target=jax.tree.map(jnp.copy, online),
            opt_state=make_optimiser(self.optimiser).init(vectors_of(online)),
            stats=Statistics(
                reward=init_stats(()),
                obs=init_stats((self.n_agents, self.obs_size)),
                state=init_stats((self.state_size,)),
            ),
            updates=jnp.zeros((), jnp.int32),
            env_steps=jnp.zeros((), jnp.int32),
            largest_reward=jnp.zeros(()),
            trouble=jnp.zeros(3, jnp.int32),
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """What every update reports, in the order in which it comes about."""
        return (*reports(self.algo), "loss", "grad_norm", "lr")

    def observe(self, stats: Statistics, slots: Slots) -> Statistics:
        """Count fresh transitions into the running moments that are in use."""
        use = self.scaling

        def count(used: bool, stats: RunningStats, x: Array) -> RunningStats:
            return merge(stats, x, slots.valid, self.shards) if used else stats

        return Statistics(
            count(use.standardise_rewards, stats.reward, slots.reward),
            count(use.normalise_obs, stats.obs, slots.obs),
            count(use.normalise_state, stats.state, slots.state),
        )

    def size_of(self, slots: Slots) -> Float[Array, ""]:
        """The largest reward of fresh transitions, in size."""
        return self.shards.largest(jnp.max(jnp.where(slots.valid, jnp.abs(slots.reward), 0.0)))

    def see(self, stats: Statistics, obs: Float[Array, "*b N O"]) -> Float[Array, "*b N O"]:
        """The observation as the agents' network is given it."""
        return standardise(stats.obs, obs) if self.scaling.normalise_obs else obs

    def scale(self, stats: Statistics, slots: Slots) -> Slots:
        """What the loss is given in place of raw rewards, observations and states."""
        reward = slots.reward
        if self.scaling.standardise_rewards:
            reward = standardise(stats.reward, reward)
        state = slots.state
        if self.scaling.normalise_state:
            state = standardise(stats.state, state)
        return slots._replace(
            obs=self.see(stats, slots.obs), state=state, reward=reward * self.scaling.reward_scale
        )

    def epsilon(self, env_steps: Int[Array, ""]) -> Float[Array, ""]:
        """Share of uniformly random actions."""
        return epsilon_at(self.exploration, env_steps)

    def explore(
        self,
        noise: Float[Array, "2 *b N"],
        values: Float[Array, "*b N A"],
        avail_actions: Bool[Array, "*b N A"],
        epsilon: Float[Array, ""],
    ) -> Int[Array, "*b N"]:
        """Training actions: epsilon-greedy over Q-values, or drawn from the softmax of logits."""
        choose = sample_policy if method(self.algo).on_policy else epsilon_greedy
        return choose(noise, values, avail_actions, epsilon)

    def update(
        self, state: TrainState, batch: Any, read: Callable[[Any], Batch] = lambda batch: batch
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        """One optimiser step on ``[T+1, B]`` sequences, and the target networks' turn.

        Args:
            state: what learning changes.
            batch: the sequences; or arrays of which each entry of the first axis stands for some
                of them, a piece.
            read: makes a piece into its sequences. Pieces are gone through one after another, so
                that what one needs fits into a cache; their gradients add up.

        Returns:
            The new state, and ``loss``, ``grad_norm`` (before clipping), ``lr``, and what the
            method's loss reports.
        """
        if isinstance(batch, Batch):
            sums = self._differentiate(state, read(batch))
        else:
            each = jax.lax.map(lambda piece: self._differentiate(state, read(piece)), batch)
            sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), each)
        count, *sums = self.shards.total(sums)
        loss, metrics, grads = jax.tree.map(lambda x: x / jnp.maximum(count, 1), tuple(sums))
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        optimiser, clipped = make_optimiser(self.optimiser), self._clip(grads)
        moved, opt_state = optimiser.update(clipped, state.opt_state)
        steps: Any = moved
        lr = learning_rate(self.optimiser, state.env_steps, self.total_steps)
        metrics["lr"] = lr
        rates = {"critic": lr * self.critic.lr_ratio}

        def move(part: str) -> PyTree:
            now = getattr(state.online, part)
            if now is None:
                return None
            rate, unravel = rates.get(part, lr), ravel_pytree(now)[1]
            return jax.tree.map(lambda p, step: p - rate * step, now, unravel(steps[part]))

        online = Networks(move("agent"), move("mixer"), move("critic"))
        updates = state.updates + 1
        return state._replace(
            online=online,
            target=self._follow(state.target, online, updates),
            opt_state=opt_state,
            updates=updates,
            trouble=self._trouble(state, updates, metrics, online),
        ), metrics

    def _trouble(
        self, state: TrainState, updates: Array, metrics: dict[str, Array], online: Networks
    ) -> Int[Array, "3"]:
        """The first one stays."""
        numbers = [metrics[name] for name in self.quantities] + [optax.tree.norm(online)]
        bad = ~jnp.isfinite(jnp.stack(numbers))
        now = jnp.stack([1 + jnp.argmax(bad).astype(jnp.int32), updates, state.env_steps])
        return jnp.where(jnp.any(bad) & (state.trouble[0] == 0), now, state.trouble)

    def _differentiate(
        self, state: TrainState, batch: Batch
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Float[Array, ""]], Vectors]:
        """Transitions that carry loss in a part of a batch, and sums over them of loss, metrics and
        gradient.
        """
        batch = batch._replace(slots=self.scale(state.stats, batch.slots))
        count = jnp.sum(counted(batch.slots, self.burn_in), dtype=jnp.float32)
        objective = Objective(
            self.target, self.loss, self.burn_in, self.epsilon(state.env_steps), divisor=1.0
        )

        def loss_of(online: Networks) -> tuple[Array, dict[str, Array]]:
            return loss_function(self.algo)(online, state.target, batch, objective)

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.online)
        return count, loss, metrics, vectors_of(grads)

    def foresee(self, state: TrainState, batch: Batch) -> Batch:
        """With what the target networks' agents say of it, for several updates to read."""
        scaled = scrub(batch._replace(slots=self.scale(state.stats, batch.slots)))
        return batch._replace(slow=unroll_slow(state.target, scaled, self.burn_in))

    def _clip(self, grads: Vectors) -> Any:
        """One norm for all that a loss trains; actors and their critic, two losses, each theirs."""
        largest = self.optimiser.clip
        if not method(self.algo).on_policy:
            return clip(grads, largest)
        return {part: clip(vector, largest) for part, vector in grads.items()}

    def _follow(self, target: Networks, online: Networks, updates: Array) -> Networks:
        """Hard: copy every ``interval`` updates. Soft: move a fraction ``tau`` every update."""
        if not self.target_networks:
            return target
        if self.target.update == "soft":
            tau = self.target.tau
            return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)
        copy = updates % self.target.interval == 0
        return jax.tree.map(lambda t, o: jnp.where(copy, o, t), target, online)

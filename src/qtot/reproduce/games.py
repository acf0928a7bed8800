"""Many payoff-matrix games and seeds in one program, and the tables that were learned."""

from __future__ import annotations

import copy
import time
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from qtot.config import TrainConfig, nested_replace, products
from qtot.core.learner import Learner, PolicyParams
from qtot.core.masks import pick
from qtot.core.mixers.base import MixerInputs
from qtot.envs.matrix import MarkovGame
from qtot.evaluation.episodes import evaluation_key, play_greedy
from qtot.presets import preset_config
from qtot.training.ingraph import Program, make_learner


class Played(NamedTuple):
    """What came of G games and S seeds."""

    returns: Float[np.ndarray, "G S"]
    """of one greedy episode"""
    policies: PolicyParams
    """every array ``[G, S, ...]``"""
    learner: Learner
    game: MarkovGame
    """the template"""
    seconds: float

    def tables(self, game: int, seed: int) -> dict[str, np.ndarray]:
        """See :func:`joint_tables`."""
        one = jax.tree.map(lambda x: x[game, seed], self.policies)
        return joint_tables(self.game, one)


def uniform(algo: str, episodes: int, **changes: Any) -> TrainConfig:
    """Everyone explores at random throughout, so what is learned is the method's best fit.

    Agents see nothing but the position, so they have no memory; the learning rate falls to zero
    and the replay keeps every episode, because what is compared are limits.
    """
    common: dict[str, Any] = {
        "steps": episodes,
        "agent": {"encoder": (), "hidden": 64, "memory": "none", "prev_action": False},
        "mixer": {"embed": 16, "hypernet_embed": 32},
        "critic": {"embed": 64},
        "loss": {"alpha": 0.1},
        "target": {"interval": 100},
        "optimiser": {"name": "adam", "lr": 2e-3, "lr_end": 0.0},
        "exploration": {"start": 1.0, "end": 1.0},
        "replay": {"sequences": "episodes", "capacity": episodes, "batch": 32, "warmup": 32},
        "collect": {"envs": 4, "update_ratio": 1.0, "update_unit": "episode"},
        "scaling": {"normalise_state": False},
    }
    config = nested_replace(preset_config("matrix/qtran", algo, "paper"), common)
    return nested_replace(config, changes)


def play_games(
    config: TrainConfig,
    template: MarkovGame,
    games: ArrayLike,
    seeds: int,
    *,
    independent: bool = False,
) -> Played:
    """Train ``seeds`` teams on each game, all in one program.

    Args:
        config: as for a single run; ``steps`` counts one seed's.
        template: one of the games; all differ in their payoffs only.
        games: payoffs of each game, ``[G, K, A, ..., A]``.
        seeds: 0, 1, ... on every game.
        independent: no two games share a seed.
    """
    payoffs = np.asarray(games, np.float32)
    # All transitions of a rollout are valid in these games but an episode's last slot.
    rollout = config.collect.envs * template.spec.episode_limit
    iterations = -(-config.steps // rollout)

    def one(payoffs: Array, seed: Array) -> tuple[PolicyParams, Array]:
        game = copy.copy(template)
        game.payoffs = payoffs  # pyright: ignore[reportAttributeAccessIssue]
        program = Program.make(game, config, jax.local_devices()[:1])

        # A fixed number of rounds: with a condition per game, vmap would copy the replay each time.
        def iterate(i: Array, state: Any) -> Any:
            return program.iterate(state, i)[0]

        state = jax.lax.fori_loop(0, iterations, iterate, program.init_seed(seed))
        policy, key = PolicyParams.of(state.train), evaluation_key(seed, config.steps)
        played = play_greedy(game, program.learner, policy, keys=key[None])
        return policy, played.episode_return[0]

    began = time.perf_counter()
    first = seeds * np.arange(len(payoffs)) * independent
    over = jax.vmap(jax.vmap(one, (None, 0)))
    with jax.default_matmul_precision(products(config)):
        policies, returns = jax.jit(over)(jnp.asarray(payoffs), first[:, None] + jnp.arange(seeds))
    returns = np.asarray(returns)
    learner = make_learner(template.spec, config)
    return Played(returns, policies, learner, template, time.perf_counter() - began)


def joint_tables(game: MarkovGame, policy: PolicyParams) -> dict[str, np.ndarray]:
    """Values of every joint action in every position, ``[K, A, ..., A]`` each: ``q_tot`` of the
    mixer, ``critic`` of an unrestricted Q beside it (for QTRAN, whose ``q_tot`` is the sum plus
    V(s)). Empty for methods without one value for the team.

    Every position must be an episode's first slot to an agent, or the agents have no memory.
    """
    networks, spec = policy.online, game.spec
    k, n, a = len(game.state), spec.n_agents, spec.max_actions
    joint = np.array(list(product(range(a), repeat=n)))
    obs, state = (jnp.asarray(np.repeat(x[:, None], len(joint), 1)) for x in (game.obs, game.state))
    action = jnp.broadcast_to(jnp.asarray(joint), (k, len(joint), n))
    first = jnp.ones((k, len(joint)), bool)
    nothing = jnp.full(action.shape, -1)

    def values(agent: Any) -> tuple[Array, Array]:
        return agent.unroll(obs, nothing, first, agent.initial_memory(len(joint)))[:2]

    tables: dict[str, Array] = {}
    q, hidden = values(networks.agent)
    if networks.mixer is not None:
        mixed = networks.mixer(
            MixerInputs(
                q_taken=pick(q, action),
                q_greedy=q.max(-1),
                q=q,
                action=action,
                hidden=hidden,
                state=state,
                avail_actions=jnp.ones_like(q, bool),
                alive=jnp.ones(action.shape, bool),
            )
        )
        if mixed.shape[-1] == 1:
            tables["q_tot"] = mixed
    critic = networks.critic
    if hasattr(critic, "agent"):  # weighted QMIX
        tables["critic"] = critic(pick(values(critic.agent)[0], action), state)
    elif hasattr(critic, "encoder"):  # QTRAN
        tables["critic"] = critic(state, hidden, action)
        tables["q_tot"] = tables["q_tot"] + critic.value(state)
    return {name: np.asarray(x).reshape(k, *(a,) * n) for name, x in tables.items()}

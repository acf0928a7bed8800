"""The game of own_env.py written in JAX: it is stepped inside the training program.

python own_jax_env.py                # or, from this folder: qtot train --env own_jax_env:make
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qtot.envs.spec import EnvSpec
from qtot.types import Observation, StepResult

CELLS, LIMIT = 6, 8


class State(NamedTuple):
    """One game; a pure function makes the next one from it."""

    robots: jax.Array
    flags: jax.Array
    time: jax.Array


class Meet:
    """Two robots on a ring of cells; each of two flags, anywhere on it, needs a robot at once."""

    spec = EnvSpec(
        name="own/meet",
        agents=("left", "right"),
        n_actions=(3, 3),  # back, stay, on
        obs_sizes=(2 * CELLS, 2 * CELLS),  # the other one, the flags
        state_size=4 * CELLS,
        episode_limit=LIMIT,
        team_reward="sum",
        state_source="concatenated observations",
        masks="all legal",
    )

    def reset(self, key):
        robots, flags = jax.random.split(key)
        return State(
            jax.random.randint(robots, (2,), 0, CELLS),
            jax.random.choice(flags, CELLS, (2,), replace=False),
            jnp.int32(0),
        )

    def step(self, key, state, actions):
        robots, time = (state.robots + actions - 1) % CELLS, state.time + 1
        met = (jnp.sort(robots) == jnp.sort(state.flags)).all()
        late = (time == LIMIT) & ~met
        result = StepResult(reward=1.0 * met, terminated=met, truncated=late, info={})
        return State(robots, state.flags, time), result

    def observe(self, state):
        def seen(own, other):
            ring = jnp.zeros((2, CELLS)).at[0, (other - own) % CELLS].set(1.0)
            return ring.at[1, (state.flags - own) % CELLS].set(1.0).reshape(-1)

        obs = jax.vmap(seen)(state.robots, state.robots[::-1])
        return Observation(obs, obs.reshape(-1), jnp.ones((2, 3), bool), jnp.ones(2, bool))


def make():
    """What ``own_jax_env:make`` names."""
    return Meet()


if __name__ == "__main__":
    import qtot

    print(qtot.check_env(make))
    run = qtot.train(env=make, data="online", steps=25_000, seeds=2, exploration={"steps": 12_000})
    for row in qtot.evaluate(run, episodes=256):
        print(f"seed {row['seed']}: return {row['return']:.3f} of 1, {row['length']:.2f} steps")

"""An environment of your own, in Python: checked, trained on, evaluated, and one agent alone.

python own_env.py                    # or, from this folder: qtot train --env own_env:make
"""

from functools import partial

import gymnasium
import numpy as np
import pettingzoo

CELLS, LIMIT = 6, 8


class Meet(pettingzoo.ParallelEnv):
    """Two robots on a ring of cells; each of two flags, anywhere on it, needs a robot at once."""

    metadata = {"name": "meet"}
    possible_agents = ["left", "right"]
    max_cycles = LIMIT

    def observation_space(self, agent):
        return gymnasium.spaces.MultiBinary(2 * CELLS)  # the other one, the flags

    def action_space(self, agent):
        return gymnasium.spaces.Discrete(3)  # back, stay, on

    def reset(self, seed=None, options=None):
        rng = np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        self.robots, self.flags = rng.integers(CELLS, size=2), rng.choice(CELLS, 2, replace=False)
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        moves = [actions[agent] - 1 for agent in self.agents]
        self.robots, self.time = (self.robots + moves) % CELLS, self.time + 1
        met, late = set(self.robots) == set(self.flags), self.time == LIMIT
        each = partial(dict.fromkeys, self.possible_agents)
        if met or late:
            self.agents = []
        won, out_of_time = each(bool(met)), each(bool(late and not met))
        return self.seen(), each(0.5 * met), won, out_of_time, each({})

    def seen(self):
        seen = {}
        places = zip(self.possible_agents, self.robots, self.robots[::-1], strict=True)
        for agent, own, other in places:
            ring = np.zeros((2, CELLS), np.int8)  # as seen from where it stands
            ring[0, (other - own) % CELLS] = ring[1, (self.flags - own) % CELLS] = 1
            seen[agent] = ring.reshape(-1)
        return seen


def make():
    """What ``own_env:make`` names: called once for every environment that is needed."""
    return Meet()


if __name__ == "__main__":
    import qtot

    print(qtot.check_env(make))
    run = qtot.train(env=make, data="online", steps=25_000, seeds=2, exploration={"steps": 12_000})
    for row in qtot.evaluate(run, episodes=256):
        print(f"seed {row['seed']}: return {row['return']:.3f} of 1, {row['length']:.2f} steps")

    env, agent = make(), run.agent("left")
    obs, _ = env.reset(seed=1)
    action, memory = agent.act(obs["left"], None, agent.reset())
    print(f"left stands at {env.robots[0]}, flags at {env.flags}: it moves by {action - 1}")

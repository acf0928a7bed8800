"""A robot that runs one exported agent, on its own: python robot.py FOLDER AGENT

Needs ``pip install qtot-runtime`` (or qtot) and nothing that trained it. What a robot has of its
own, its sensors and motors, stands in two functions; here they make up a world.
"""

import sys
import time

import numpy as np

from qtot import deploy

PERIOD = 0.05  # seconds between decisions


def sense(agent, step):
    """The observation as in training (here: noise), and which actions are possible now."""
    obs = np.random.default_rng(step).normal(size=agent.obs_size)
    return obs, np.ones(agent.n_actions, bool)


def do(action, meanings):
    """Hand the action to the motors."""
    print(action, meanings[action] if meanings else "", flush=True)


def main(folder, name, steps=20):
    agent = deploy.load(folder).agent(name)
    memory = agent.reset()  # again wherever an episode begins
    slowest, due = 0.0, time.monotonic()
    for step in range(steps):
        obs, possible = sense(agent, step)
        began = time.perf_counter()
        try:
            action, memory = agent.act(obs, possible, memory)
        except deploy.QtotError as error:  # a broken sensor: say so, and wait for the next
            print(error, file=sys.stderr)
            continue
        slowest = max(slowest, time.perf_counter() - began)
        do(action, agent.place.action_meanings)
        due += PERIOD
        time.sleep(max(0.0, due - time.monotonic()))
    print(f"slowest decision: {1e6 * slowest:.0f} microseconds")


if __name__ == "__main__":
    main(*sys.argv[1:3])

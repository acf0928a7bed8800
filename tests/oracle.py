"""The core's equations as plain NumPy loops in float64: slow, and written without looking at it.

Weights are read from our modules; everything that is done with them is done again here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Row = np.ndarray


def f64(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def sigmoid(x: Row) -> Row:
    return 1.0 / (1.0 + np.exp(-x))


def relu(x: Row) -> Row:
    return np.maximum(x, 0.0)


def elu(x: Row) -> Row:
    return np.where(x > 0, x, np.exp(np.minimum(x, 0.0)) - 1.0)


def linear(layer: Any, x: Row) -> Row:
    return f64(layer.weight) @ x + f64(layer.bias)


def gru_cell(gru: Any, x: Row, h: Row) -> Row:
    """``torch.nn.GRUCell`` for one input vector."""
    size = h.shape[0]
    from_x = f64(gru.weight_ih) @ x + f64(gru.bias_ih)
    from_h = f64(gru.weight_hh) @ h + f64(gru.bias_hh)
    r = sigmoid(from_x[:size] + from_h[:size])
    z = sigmoid(from_x[size : 2 * size] + from_h[size : 2 * size])
    n = np.tanh(from_x[2 * size :] + r * from_h[2 * size :])
    return (1.0 - z) * n + z * h


def unroll(agent: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Q-values ``[T+1, B, N, A]`` and hidden states of a sharing agent with a GRU."""
    net, slots = agent.network, batch.slots
    obs, first = f64(slots.obs), np.asarray(slots.first)
    action = np.asarray(slots.action)
    times, envs, n_agents, _ = obs.shape
    size = agent.config.hidden
    q = np.zeros((times, envs, n_agents, agent.n_actions))
    hidden = np.zeros((times, envs, n_agents, size))
    for b in range(envs):
        for a in range(n_agents):
            h = f64(batch.start.memory)[b, a]
            previous = int(batch.start.prev_action[b, a])
            for t in range(times):
                if first[t, b]:
                    h, previous = np.zeros(size), -1
                one_hot = np.zeros(agent.n_actions)
                if previous >= 0:
                    one_hot[previous] = 1.0
                identity = np.zeros(n_agents)
                identity[a] = 1.0
                x = np.concatenate([obs[t, b, a], one_hot, identity])
                for layer in net.encoder:
                    x = relu(linear(layer, x))
                h = gru_cell(net.memory, x, h)
                q[t, b, a], hidden[t, b, a] = linear(net.head, h), h
                previous = int(action[t, b, a])
    return q, hidden


def hypernetwork(layers: Any, state: Row) -> Row:
    *hidden, last = layers.layers
    for layer in hidden:
        state = relu(linear(layer, state))
    return linear(last, state)


def independent(mixer: Any, q: Row, state: Row) -> Row:
    return q


def vdn(mixer: Any, q: Row, state: Row) -> Row:
    total = 0.0
    for value in q:
        total += value
    return np.array([total])


def qmix(mixer: Any, q: Row, state: Row) -> Row:
    """Fig. 2 of the QMIX paper, one agent and one hidden unit at a time."""
    hidden = linear(mixer.hyper_b_1, state)
    w_1 = hypernetwork(mixer.hyper_w_1, state)
    w_final = hypernetwork(mixer.hyper_w_final, state)
    width = len(hidden)
    for a, value in enumerate(q):
        for e in range(width):
            hidden[e] += value * abs(w_1[a * width + e])
    total = linear(mixer.value.out, relu(linear(mixer.value.hidden, state)))[0]
    for e in range(width):
        total += elu(hidden[e]) * abs(w_final[e])
    return np.array([total])


MIXERS = {"iql": independent, "vdn": vdn, "qmix": qmix}


def n_step_return(
    reward: Row, terminated: Row, follows: Row, next_value: Row, t: int, n: int, gamma: float
) -> float:
    """At most n rewards from t on, and the value after them unless the episode terminated."""
    total, discount = 0.0, 1.0
    for k in range(t, t + n):
        total += discount * reward[k]
        discount *= gamma
        if terminated[k]:
            return total
        if not follows[k] or k == t + n - 1:
            return total + discount * next_value[k]
    raise AssertionError("n is at least 1")


def lambda_return(
    reward: Row, terminated: Row, follows: Row, next_value: Row, t: int, lam: float, gamma: float
) -> float:
    """The forward view: a weighted mean of all n-step returns, without any recursion."""
    longest = 1
    while follows[t + longest - 1] and not terminated[t + longest - 1]:
        longest += 1
    returns = [
        n_step_return(reward, terminated, follows, next_value, t, n, gamma)
        for n in range(1, longest + 1)
    ]
    mean = sum((1.0 - lam) * lam**i * g for i, g in enumerate(returns[:-1]))
    return mean + lam ** (longest - 1) * returns[-1]


class Losses(NamedTuple):
    """What ``td_loss`` returns."""

    loss: float
    q_tot: float
    target: float
    td_error_abs: float


def td_loss(
    algo: str, online: Any, target: Any, batch: Any, config: Any, burn_in: int = 0
) -> Losses:
    """Mean squared TD error over valid transitions from ``burn_in`` on."""
    slots = batch.slots
    valid, terminated = np.asarray(slots.valid), np.asarray(slots.terminated)
    mask, action = np.asarray(slots.avail_actions), np.asarray(slots.action)
    reward, state = f64(slots.reward), f64(slots.state)
    q, _ = unroll(online.agent, batch)
    q_slow, _ = unroll(target.agent, batch)
    mix, n_agents = MIXERS[algo], q.shape[2]
    taken, targets = [], []
    for b in range(valid.shape[1]):
        steps = len(valid) - 1
        follows = [t + 1 < steps and valid[t + 1, b] for t in range(steps)]
        values = []  # of the slots after each transition
        for t in range(1, steps + 1):
            chosen = []
            for a in range(n_agents):
                judge = q if config.double_q else q_slow
                legal = [i for i in range(q.shape[-1]) if mask[t, b, a, i]] or [0]
                best = max(legal, key=lambda i: judge[t, b, a, i])
                chosen.append(q_slow[t, b, a, best])
            values.append(mix(target.mixer, np.array(chosen), state[t, b]))
        for t in range(max(burn_in, 0), steps):
            if not valid[t, b]:
                continue
            mine = np.array([q[t, b, a, action[t, b, a]] for a in range(n_agents)])
            taken.append(mix(online.mixer, mine, state[t, b]))
            goal = []
            for m in range(len(values[0])):
                v = np.array([value[m] for value in values])
                line = (reward[:-1, b], terminated[:-1, b], follows, v, t)
                if config.td_lambda > 0 or config.n_step == 1:
                    goal.append(lambda_return(*line, config.td_lambda, config.gamma))
                else:
                    goal.append(n_step_return(*line, config.n_step, config.gamma))
            targets.append(np.array(goal))
    error = np.array(taken) - np.array(targets)
    return Losses(
        float(np.mean(error**2)),
        float(np.mean(taken)),
        float(np.mean(targets)),
        float(np.mean(np.abs(error))),
    )

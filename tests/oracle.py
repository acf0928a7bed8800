"""The core's equations as plain NumPy loops in float64: slow, and written without looking at it.

Weights are read from our modules; everything that is done with them is done again here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
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


def unroll(agent: Any, batch: Any, after: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Q-values ``[T+1, B, N, A]`` and hidden states of a sharing agent with a GRU, whose memory is
    stored ``after`` that of others.
    """
    net, slots = agent.network, batch.slots
    obs, first = f64(slots.obs), np.asarray(slots.first)
    action = np.asarray(slots.action)
    times, envs, n_agents, _ = obs.shape
    size = agent.config.hidden
    q = np.zeros((times, envs, n_agents, agent.n_actions))
    hidden = np.zeros((times, envs, n_agents, size))
    for b in range(envs):
        for a in range(n_agents):
            h = f64(batch.start.memory)[b, a, after : after + size]
            previous = int(batch.start.prev_action[b, a])
            for t in range(times):
                if first[t, b]:
                    h, previous = np.zeros(size), -1
                x = np.concatenate(
                    [obs[t, b, a], one_hot(previous, agent.n_actions), one_hot(a, n_agents)]
                )
                for layer in net.encoder:
                    x = relu(linear(layer, x))
                h = gru_cell(net.memory, x, h)
                q[t, b, a], hidden[t, b, a] = linear(net.head, h), h
                previous = int(action[t, b, a])
    return q, hidden


def one_hot(index: int, size: int) -> Row:
    """All zeros for -1."""
    row = np.zeros(size)
    if index >= 0:
        row[index] = 1.0
    return row


def mlp(layers: Any, x: Row) -> Row:
    """ReLU between the layers."""
    *hidden, last = layers.layers
    for layer in hidden:
        x = relu(linear(layer, x))
    return linear(last, x)


def state_value(value: Any, state: Row) -> float:
    return linear(value.out, relu(linear(value.hidden, state)))[0]


class Seen(NamedTuple):
    """What a mixer sees of one joint action."""

    q: Row
    """of the actions taken"""
    state: Row
    greedy: Row
    """the largest legal Q of each agent"""
    action: list[int]
    hidden: np.ndarray
    n_actions: int


def independent(mixer: Any, x: Seen) -> Row:
    return x.q


def vdn(mixer: Any, x: Seen) -> Row:
    total = 0.0
    for value in x.q:
        total += value
    return np.array([total])


def qmix(mixer: Any, x: Seen) -> Row:
    """Fig. 2 of the QMIX paper, one agent and one hidden unit at a time."""
    hidden = linear(mixer.hyper_b_1, x.state)
    w_1 = mlp(mixer.hyper_w_1, x.state)
    w_final = mlp(mixer.hyper_w_final, x.state)
    width = len(hidden)
    for a, value in enumerate(x.q):
        for e in range(width):
            hidden[e] += value * abs(w_1[a * width + e])
    total = state_value(mixer.value, x.state)
    for e in range(width):
        total += elu(hidden[e]) * abs(w_final[e])
    return np.array([total])


def qatten(mixer: Any, x: Seen) -> Row:
    """Eq. 12 of the paper, head by head: a softmax over agents of query times key."""
    width, total = mixer.embed, state_value(mixer.value, x.state)
    query, strength = mlp(mixer.queries, x.state), mlp(mixer.head_weights, x.state)
    keys = [mlp(mixer.keys, h) for h in x.hidden]
    for h in range(mixer.heads):
        part = slice(h * width, (h + 1) * width)
        scores = np.array([np.exp(query[part] @ key[part] / np.sqrt(width)) for key in keys])
        for share, value in zip(scores / scores.sum(), x.q, strict=True):
            total += abs(strength[h]) * share * value
    return np.array([total])


def qplex_importance(mixer: Any, x: Seen) -> Row:
    """λ of eq. 11, one kernel at a time."""
    joint = np.concatenate([x.state, *(one_hot(u, x.n_actions) for u in x.action)])
    total = np.zeros(len(x.q))
    kernels = mixer.kernels
    for k in range(len(kernels.key.layers[0].bias)):
        key, agents, action = (
            jax.tree.map(lambda y, k=k: y[k], part)
            for part in (kernels.key, kernels.agents, kernels.action)
        )
        strength = abs(mlp(key, x.state)[0]) + 1e-10
        total += strength * sigmoid(mlp(agents, x.state)) * sigmoid(mlp(action, joint))
    return total


def qplex(mixer: Any, x: Seen) -> Row:
    """Σ V_a + Σ λ_a A_a (eq. 9) of transformed values (eq. 8): V = w V + b, A = w (Q − V)."""
    weight, bias = np.abs(mlp(mixer.hyper_w, x.state)) + 1e-10, mlp(mixer.value, x.state)
    importance, total = qplex_importance(mixer, x), 0.0
    for a in range(len(x.q)):
        total += weight[a] * x.greedy[a] + bias[a]
        total += importance[a] * weight[a] * (x.q[a] - x.greedy[a])
    return np.array([total])


MIXERS = {
    "iql": independent,
    "vdn": vdn,
    "qmix": qmix,
    "qatten": qatten,
    "qplex": qplex,
    "cw_qmix": qmix,
    "ow_qmix": qmix,
    "qtran": vdn,
}


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


class Parts(NamedTuple):
    """A batch in float64, and what the agents make of it."""

    q: np.ndarray
    hidden: np.ndarray
    q_slow: np.ndarray
    hidden_slow: np.ndarray
    best: np.ndarray
    """every agent's greedy legal action, by the judging network"""
    state: np.ndarray
    action: np.ndarray
    mask: np.ndarray

    @classmethod
    def of(cls, online: Any, target: Any, batch: Any, config: Any) -> Parts:
        q, hidden = unroll(online.agent, batch)
        q_slow, hidden_slow = unroll(target.agent, batch)
        slots = batch.slots
        mask = np.asarray(slots.avail_actions)
        best = greedy(q if config.double_q else q_slow, mask)
        state, action = f64(slots.state), np.asarray(slots.action)
        return cls(q, hidden, q_slow, hidden_slow, best, state, action, mask)

    def seen(self, t: int, b: int, action: Row, *, slow: bool = False) -> Seen:
        """What a mixer sees of a joint action at a slot."""
        q, hidden = (self.q_slow, self.hidden_slow) if slow else (self.q, self.hidden)
        q, n_agents = q[t, b], q.shape[2]
        top = greedy(q, self.mask[t, b])
        return Seen(
            q=np.array([q[a, action[a]] for a in range(n_agents)]),
            state=self.state[t, b],
            greedy=np.array([q[a, top[a]] for a in range(n_agents)]),
            action=[int(u) for u in action],
            hidden=hidden[t, b],
            n_actions=q.shape[-1],
        )


def greedy(q: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The legal action of largest value, or 0."""
    best = np.zeros(q.shape[:-1], int)
    for at in np.ndindex(*best.shape):
        legal = [i for i in range(q.shape[-1]) if mask[(*at, i)]] or [0]
        best[at] = max(legal, key=lambda i, at=at: q[(*at, i)])
    return best


def transitions(batch: Any, burn_in: int) -> list[tuple[int, int]]:
    """(t, b) of all that carry loss."""
    valid = np.asarray(batch.slots.valid)
    times, envs = valid.shape
    return [(t, b) for b in range(envs) for t in range(burn_in, times - 1) if valid[t, b]]


def regressed_on(batch: Any, next_value: np.ndarray, t: int, b: int, config: Any) -> float:
    """The return of a transition; ``next_value[t, b]`` is worth what follows it."""
    slots = batch.slots
    valid, reward = np.asarray(slots.valid)[:, b], f64(slots.reward)[:-1, b]
    ends, steps = np.asarray(slots.terminated)[:-1, b], len(valid) - 1
    follows = [i + 1 < steps and bool(valid[i + 1]) for i in range(steps)]
    line = (reward, ends, follows, next_value[:, b], t)
    if config.td_lambda > 0 or config.n_step == 1:
        return lambda_return(*line, config.td_lambda, config.gamma)
    return n_step_return(*line, config.n_step, config.gamma)


Result = dict[str, float]


def of_values(taken: list[Row], targets: list[Row]) -> Result:
    """What every loss reports of values and what they are regressed on."""
    error = np.array(taken) - np.array(targets)
    return {
        "q_tot": float(np.mean(taken)),
        "target": float(np.mean(targets)),
        "td_error_abs": float(np.mean(np.abs(error))),
    }


def td_loss(algo: str, online: Any, target: Any, batch: Any, objective: Any) -> Result:
    """Mean squared TD error over valid transitions from ``burn_in`` on."""
    config, mix = objective.target, MIXERS[algo]
    parts = Parts.of(online, target, batch, config)
    times, envs = parts.action.shape[:2]
    values = np.array(
        [
            [mix(target.mixer, parts.seen(t, b, parts.best[t, b], slow=True)) for b in range(envs)]
            for t in range(1, times)
        ]
    )
    taken, targets = [], []
    for t, b in transitions(batch, objective.burn_in):
        taken.append(mix(online.mixer, parts.seen(t, b, parts.action[t, b])))
        each = range(values.shape[-1])
        targets.append([regressed_on(batch, values[..., m], t, b, config) for m in each])
    error = np.array(taken) - np.array(targets)
    return {"loss": float(np.mean(error**2)), **of_values(taken, targets)}


def weighted_loss(algo: str, online: Any, target: Any, batch: Any, objective: Any) -> Result:
    """Weighted QMIX, transition by transition (algorithm 1, eq. 8 and 9)."""
    config, after = objective.target, online.agent.config.hidden
    parts = Parts.of(online, target, batch, config)
    central, _ = unroll(online.critic.agent, batch, after)
    central_slow, _ = unroll(target.critic.agent, batch, after)
    times, envs, n_agents = parts.action.shape

    def q_star(critic: Any, q: np.ndarray, t: int, b: int, action: Row) -> float:
        chosen = [q[t, b, a, action[a]] for a in range(n_agents)]
        joint = np.concatenate([parts.state[t, b], chosen])
        return mlp(critic.mix, joint)[0] + state_value(critic.value, parts.state[t, b])

    best_value = np.array(
        [
            [q_star(target.critic, central_slow, t, b, parts.best[t, b]) for b in range(envs)]
            for t in range(times)
        ]
    )
    mixed, critics, weights, taken, targets = [], [], [], [], []
    for t, b in transitions(batch, objective.burn_in):
        action = parts.action[t, b]
        q_tot = qmix(online.mixer, parts.seen(t, b, action))[0]
        y = regressed_on(batch, best_value[1:], t, b, config)
        if algo == "cw_qmix":
            all_greedy = all(action[a] == parts.best[t, b, a] for a in range(n_agents))
            full = all_greedy or y > best_value[t, b]
        else:
            full = q_tot < y
        weights.append(1.0 if full else objective.terms.alpha)
        mixed.append(weights[-1] * (q_tot - y) ** 2)
        critics.append((q_star(online.critic, central, t, b, action) - y) ** 2)
        taken.append(q_tot)
        targets.append(y)
    return {
        "loss": float(np.mean(mixed) + np.mean(critics)),
        **of_values(taken, targets),
        "critic_loss": float(np.mean(critics)),
        "weight": float(np.mean(weights)),
    }


def qtran_loss(algo: str, online: Any, target: Any, batch: Any, objective: Any) -> Result:
    """QTRAN-base: L_td, L_opt and L_nopt (eq. 4 to 7)."""
    config, terms = objective.target, objective.terms
    parts = Parts.of(online, target, batch, config)
    times, envs, n_agents = parts.action.shape
    own_best = greedy(parts.q, parts.mask)

    def joint(critic: Any, t: int, b: int, action: Row, *, slow: bool = False) -> float:
        hidden, total = (parts.hidden_slow if slow else parts.hidden)[t, b], 0.0
        for a in range(n_agents):
            u = one_hot(int(action[a]), parts.q.shape[-1])
            total = total + mlp(critic.encoder, np.concatenate([hidden[a], u]))
        return mlp(critic.joint, np.concatenate([parts.state[t, b], total]))[0]

    following = np.array(
        [
            [joint(target.critic, t, b, parts.best[t, b], slow=True) for b in range(envs)]
            for t in range(1, times)
        ]
    )
    td, opt, nopt, taken, targets = [], [], [], [], []
    for t, b in transitions(batch, objective.burn_in):
        action, top = parts.action[t, b], own_best[t, b]
        v = mlp(online.critic.value, parts.state[t, b])[0]
        taken.append(joint(online.critic, t, b, action))
        targets.append(regressed_on(batch, following, t, b, config))
        td.append((taken[-1] - targets[-1]) ** 2)
        opt.append((parts.seen(t, b, top).q.sum() - joint(online.critic, t, b, top) + v) ** 2)
        gap = parts.seen(t, b, action).q.sum() - taken[-1] + v
        nopt.append(min(gap, 0.0) ** 2)
    loss = np.mean(td) + terms.opt * np.mean(opt) + terms.nopt * np.mean(nopt)
    return {
        "loss": float(loss),
        **of_values(taken, targets),
        "opt_loss": float(np.mean(opt)),
        "nopt_loss": float(np.mean(nopt)),
    }


def policy(logits: Row, legal: Row, epsilon: float) -> Row:
    """Softmax over all actions, a share epsilon of uniform choice; then legal actions only."""
    weights = np.exp(logits - logits.max())
    mixed = (1 - epsilon) * weights / weights.sum() + epsilon / len(logits)
    kept = np.array([p if ok else 0.0 for p, ok in zip(mixed, legal, strict=True)])
    return kept / kept.sum() if kept.sum() > 0 else kept


def coma_loss(algo: str, online: Any, target: Any, batch: Any, objective: Any) -> Result:
    """COMA (algorithm 1, eq. 4), agent by agent."""
    config, slots = objective.target, batch.slots
    logits, _ = unroll(online.agent, batch)
    state, obs, action = f64(slots.state), f64(slots.obs), np.asarray(slots.action)
    first, mask = np.asarray(slots.first), np.asarray(slots.avail_actions)
    times, envs, n_agents = action.shape
    n_actions = logits.shape[-1]

    def critic(net: Any, t: int, b: int, a: int) -> Row:
        """Q of every action of agent a, given the others'."""
        others, before = [], []
        for i in range(n_agents):
            others.append(one_hot(-1 if i == a else int(action[t, b, i]), n_actions))
            previous = int(batch.start.prev_action[b, i] if t == 0 else action[t - 1, b, i])
            before.append(one_hot(-1 if first[t, b] else previous, n_actions))
        x = [state[t, b], obs[t, b, a], *others, *before, one_hot(a, n_agents)]
        return mlp(net.layers, np.concatenate(x))

    following = np.array(
        [
            [
                [critic(target.critic, t, b, a)[action[t, b, a]] for a in range(n_agents)]
                for b in range(envs)
            ]
            for t in range(1, times)
        ]
    )
    errors, gains, advantages, entropies, taken, targets = [], [], [], [], [], []
    for t, b in transitions(batch, objective.burn_in):
        for a in range(n_agents):
            u, q = action[t, b, a], critic(online.critic, t, b, a)
            pi = policy(logits[t, b, a], mask[t, b, a], objective.epsilon)
            advantage = q[u] - sum(pi[i] * q[i] for i in range(n_actions))
            taken.append(q[u])
            targets.append(regressed_on(batch, following[..., a], t, b, config))
            errors.append((taken[-1] - targets[-1]) ** 2)
            advantages.append(abs(advantage))
            gains.append(advantage * np.log(pi[u]))
            entropies.append(-sum(p * np.log(p) for p in pi if p > 0))
    reported = of_values(taken, targets)
    reported["q_taken"] = reported.pop("q_tot")
    return {
        "loss": float(np.mean(errors) - np.mean(gains)),
        **reported,
        "policy_loss": -float(np.mean(gains)),
        "critic_loss": float(np.mean(errors)),
        "advantage_abs": float(np.mean(advantages)),
        "entropy": float(np.mean(entropies)),
    }


LOSSES = {
    **dict.fromkeys(("iql", "vdn", "qmix", "qatten", "qplex"), td_loss),
    "cw_qmix": weighted_loss,
    "ow_qmix": weighted_loss,
    "qtran": qtran_loss,
    "coma": coma_loss,
}


def loss(algo: str, online: Any, target: Any, batch: Any, objective: Any) -> Result:
    """Loss and metrics of a method."""
    return LOSSES[algo](algo, online, target, batch, objective)

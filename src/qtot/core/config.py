"""Hyperparameters of agents, mixers, losses and replay. Free of JAX, so that help is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AgentConfig:
    """The agents' network: observation, previous action and agent id in, Q-values out."""

    encoder: tuple[int, ...] = (64,)
    """widths of the ReLU layers before the memory"""
    cnn: tuple[int, ...] = ()
    """channels of the 3x3 convolutions that read an image observation, before those layers"""
    module: str = ""
    """your own network in their place, 'package.module:factory'; factory(key, obs_shape) returns an
    Equinox module that turns one observation of that shape into a vector of features (where
    observations are dicts: from a dict of arrays, the shape being a dict of theirs)"""
    hidden: int = 64
    """recurrent width H"""
    memory: Literal["gru", "none"] = "gru"
    """gru: remembers, as DRQN does; none: a ReLU layer in its place"""
    sharing: Literal["all", "none", "groups"] = "all"
    """all agents use one network, each has its own, or each group has one"""
    groups: tuple[int, ...] = ()
    """with sharing groups: the group of each agent, such as 0 0 1 1 1; counted from 0"""
    prev_action: bool = True
    """feed the agent's previous action, one-hot"""
    agent_id: bool = True
    """feed the agent's index, one-hot"""
    layer_norm: bool = False
    """layer normalisation after every encoder layer (before its ReLU)"""
    init: Literal["torch", "lecun"] = "lecun"
    """torch: uniform within 1/sqrt(fan in), as PyMARL; lecun: normal, with zero biases"""


@dataclass(frozen=True)
class MixerConfig:
    """The mixing network and the hypernetworks that make its weights from the state."""

    embed: int = 32
    """width of the mixing network's hidden layer"""
    hypernet_layers: Literal[1, 2] = 2
    """layers of the hypernetworks that make the weights (ICML 2018: 1; JMLR 2020: 2)"""
    hypernet_embed: int = 64
    """hidden width of two-layer hypernetworks"""
    heads: int = 4
    """attention heads of qatten; kernels of qplex's advantage weights"""


@dataclass(frozen=True)
class CriticConfig:
    """The central network that some methods train beside the agents (cw_qmix, ow_qmix, qtran,
    coma).
    """

    embed: int = 128
    """width of its hidden layers"""
    lr_ratio: float = 1.0
    """its learning rate, as a multiple of optimiser.lr"""


@dataclass(frozen=True)
class LossConfig:
    """Weights of terms that only some methods have."""

    alpha: float = 0.1
    """cw_qmix, ow_qmix: weight of the transitions that are not thought to matter (Rashid et al.
    2020b, w)"""
    opt: float = 1.0
    """qtran: weight of the loss that ties the sum to the joint Q at the greedy joint action"""
    nopt: float = 0.1
    """qtran: weight of the loss that keeps the sum above the joint Q elsewhere"""


@dataclass(frozen=True)
class TargetConfig:
    """What Q_tot is regressed on."""

    gamma: float = 0.99
    """discount per step"""
    double_q: bool = True
    """choose the next action with the online network, value it with the target network"""
    td_lambda: float = 0.0
    """lambda of the TD(lambda) return; 0 is the one-step target"""
    n_step: int = 1
    """rewards summed before bootstrapping; only with td_lambda = 0"""
    time_limit: Literal["bootstrap", "end"] = "bootstrap"
    """what follows a truncated episode: the value of its final observation, or nothing. That
    observation is valued but never trained on; where every episode ends by time and the last
    states look unlike the others, nothing anchors the values and they can grow without bound:
    take 'end' there (the default preset does so on rware/ and overcooked/), or a small gamma (as
    on mpe/)"""
    update: Literal["hard", "soft"] = "hard"
    """copy the target networks at an interval, or let them follow"""
    interval: int = 200
    """learner updates between copies (hard)"""
    tau: float = 0.005
    """fraction moved towards the online networks at every update (soft)"""


@dataclass(frozen=True)
class OptimiserConfig:
    """How parameters follow the gradient."""

    name: Literal["adam", "radam", "rmsprop"] = "adam"
    """rmsprop adds eps outside the square root and uses decay 0.99, as PyTorch does in PyMARL"""
    lr: float = 5e-4
    """learning rate at the first environment step"""
    lr_end: float = 1.0
    """fraction of lr that is left at the last environment step (linear; 1 = constant)"""
    steps: int = 0
    """environment steps over which it gets there; 0: all of the run, which is what is recorded"""
    eps: float = 1e-5
    """added to the denominator, outside the square root"""
    clip: float = 10.0
    """largest global norm of the gradient"""


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy, drawn anew for every agent and environment, in environment steps. For coma,
    the share of uniform choice that is mixed into the policy (with 1, actors learn nothing).
    """

    start: float = 1.0
    """epsilon at the first environment step"""
    end: float = 0.05
    """epsilon after the decay"""
    steps: int = 50_000
    """environment steps of the linear decay"""


@dataclass(frozen=True)
class ReplayConfig:
    """What is stored, and how it is sampled. With data online, which stores nothing, sequences,
    length and burn-in are those of the rollouts; the rest means nothing to it.
    """

    sequences: Literal["episodes", "segments"] = "segments"
    """whole episodes from reset with zero memory (the paper), or pieces of the running stream
    that start from the memory and previous action stored with them"""
    length: int = 32
    """transitions in a segment, T; whole episodes take the environment's limit"""
    capacity: int = 5_000
    """sequences kept"""
    batch: int = 32
    """sequences in a learner update, B"""
    burn_in: int = 0
    """slots at a sequence's start that only warm the memory up"""
    warmup: int = 32
    """sequences stored before learning starts"""
    dtype: Literal["float32", "float16", "bfloat16", "uint8"] = "float32"
    """type in which observations and states are stored: float32 is exact; float16 is off by at
    most 1 in 2048 (and cut at 65504), bfloat16 by 1 in 256; uint8 is for whole numbers from 0 to
    255, such as pixels (others are rounded, and cut there)"""


@dataclass(frozen=True)
class OnlineConfig:
    """How often a rollout is learned from before it is thrown away; with data online."""

    epochs: int = 2
    """times that a rollout is gone through"""
    minibatches: int = 4
    """updates that it takes; each gets as many of the parallel environments, drawn anew"""


@dataclass(frozen=True)
class ScalingConfig:
    """Transformations of what the learner sees; logged returns are always raw."""

    reward_scale: float = 1.0
    """rewards are multiplied by this"""
    standardise_rewards: bool = False
    """subtract the running mean and divide by the running deviation, as EPyMARL does; the shift
    changes what is optimal where episode lengths differ"""
    normalise_obs: bool = False
    """observations to zero mean and unit deviation, per agent and feature, by running statistics
    that are saved with the run"""
    normalise_state: bool = False
    """the same for the global state"""

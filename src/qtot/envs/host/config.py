"""How environments written in Python are made, and where they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TeamRewardChoice = Literal["auto", "sum", "mean", "given"]


@dataclass(frozen=True)
class HostConfig:
    """Environments written in Python (pettingzoo/, gym/, smac/, your own)."""

    args: tuple[str, ...] = ()
    """arguments with which the environment is made, KEY=VALUE, such as N=5 max_cycles=50; a value
    that is no Python literal is a string"""
    team_reward: TeamRewardChoice = "auto"
    """how the agents' rewards become the team's: their sum, their mean, or given: the environment
    gives all agents the team's reward already. auto: the sum, and for the SMAC API given"""
    episode_limit: int = 0
    """cut episodes (truncate) after so many transitions; 0: the limit that the environment
    declares, or 1000 where it declares none"""
    info: tuple[str, ...] = ()
    """scalars of the environment's info to report at the end of an episode, such as success"""
    workers: int = -1
    """processes that step them; -1: one per core; 0: none, they are stepped in this process, where
    a debugger reaches them. With --collectors ray, actors: -1 is one per CPU of the cluster, and
    they are as many as divide collect.envs"""
    timeout_s: float = 60.0
    """seconds after which a worker that does not answer is replaced (making an environment may take
    five times as long, and so may a rollout of a Ray actor)"""
    failures: int = 5
    """failures of one environment in a row, without a finished episode in between, after which
    training stops"""

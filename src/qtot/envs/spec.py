"""Facts about an environment, printed when training starts and written to the run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from qtot.shapes import ObsShape

TeamReward = Literal["sum", "mean", "given"]
StateSource = Literal["environment", "concatenated observations"]
MaskSource = Literal["environment", "all legal"]


@dataclass(frozen=True)
class EnvSpec:
    """What a learner and a reader must know of an environment."""

    name: str
    """``family/task``"""
    agents: tuple[str, ...]
    """agent names, in the order of every N axis"""
    n_actions: tuple[int, ...]
    """actions of each agent; actions above are padding and never legal"""
    obs_sizes: tuple[int, ...]
    """observation features of each agent, before zero-padding"""
    state_size: int
    """features of the global state, S"""
    episode_limit: int
    """the largest number of transitions in an episode"""
    shortest_episode: int = 1
    """no episode has fewer transitions; a stream then prepares fewer resets"""
    lanes: bool = False
    """many small arrays: faster with the environments on the last axis (``envs/lanes``)"""
    obs_shape: ObsShape = ()
    """rows, columns and channels of an image observation, which is flattened into O features in
    that order; or name and shape of each part, one flattened after the other, where an observation
    is a dict of arrays; empty where observations are vectors"""
    team_reward: TeamReward = "given"
    """how the team's reward is formed from the agents' own"""
    state_source: StateSource = "environment"
    """whether the environment has a state of its own"""
    masks: MaskSource = "environment"
    """whether the environment says which actions are legal"""
    info: tuple[str, ...] = ()
    """scalars reported at the end of an episode (``won``, ...)"""
    about: str = ""
    """one line for ``qtot envs``"""

    @property
    def n_agents(self) -> int:
        """N"""
        return len(self.agents)

    @property
    def max_actions(self) -> int:
        """A, the largest number of actions"""
        return max(self.n_actions)

    @property
    def obs_size(self) -> int:
        """O, the largest observation"""
        return max(self.obs_sizes)

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json``."""
        return asdict(self)

"""Facts about an environment, printed when training starts and written to the run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from qtot.errors import QtotError
from qtot.shapes import ObsShape, features, is_named

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
    pixels: tuple[str, ...] = ()
    """parts of such a dict that are images of uint8 in the environment, and are scaled to [0, 1];
    ``("",)`` where the observation itself is one, ``("*",)`` where it is more involved"""
    action_meanings: tuple[tuple[str, ...], ...] = ()
    """a word for each action of each agent, where the environment has them"""
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


LARGE = 2**30


def checked_spec(spec: EnvSpec) -> EnvSpec:
    """The same, if it can be one: as it was read from a file that may say anything.

    Raises:
        QtotError: names the fact that cannot be.
    """

    def whole(value: Any, low: int) -> bool:
        return type(value) is int and low <= value <= LARGE

    def texts(value: Any) -> bool:
        return isinstance(value, tuple) and all(isinstance(x, str) for x in value)

    def of_each(value: Any, low: int) -> bool:
        many = isinstance(value, tuple) and len(value) == len(spec.agents)
        return many and all(whole(x, low) for x in value)

    def shaped(value: Any) -> bool:
        return isinstance(value, tuple) and all(whole(x, 0) for x in value)

    def looks(value: Any) -> bool:
        if not isinstance(value, tuple) or not is_named(value):
            return shaped(value)
        pairs = all(isinstance(x, tuple) and len(x) == 2 for x in value)
        return pairs and all(isinstance(name, str) and shaped(part) for name, part in value)

    facts = {
        "name": isinstance(spec.name, str),
        "agents": texts(spec.agents) and 0 < len(spec.agents) == len(set(spec.agents)),
        "n_actions": of_each(spec.n_actions, 1),
        "obs_sizes": of_each(spec.obs_sizes, 0),
        "state_size": whole(spec.state_size, 0),
        "episode_limit": whole(spec.episode_limit, 1),
        "shortest_episode": whole(spec.shortest_episode, 0),
        "lanes": isinstance(spec.lanes, bool),
        "obs_shape": looks(spec.obs_shape),
        "pixels": texts(spec.pixels),
        "action_meanings": isinstance(spec.action_meanings, tuple)
        and (not spec.action_meanings or len(spec.action_meanings) == len(spec.agents))
        and all(texts(x) for x in spec.action_meanings),
        "team_reward": spec.team_reward in get_args(TeamReward),
        "state_source": spec.state_source in get_args(StateSource),
        "masks": spec.masks in get_args(MaskSource),
        "info": texts(spec.info),
        "about": isinstance(spec.about, str),
    }
    for fact, fine in facts.items():
        if not fine:
            said = str(getattr(spec, fact))[:80]
            raise QtotError(f"this is no environment's {fact}: {said!r}")
    for words, n in zip(spec.action_meanings, spec.n_actions, strict=False):
        if len(words) != n:
            raise QtotError(f"the environment has {len(words)} action_meanings for {n} actions")
    if spec.obs_shape and features(spec.obs_shape) != spec.obs_size:
        raise QtotError(
            f"the environment's obs_shape {spec.obs_shape} has not its {spec.obs_size} features"
        )
    return spec

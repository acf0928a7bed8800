"""Whether an environment's facts make sense; a part of both checkers. Free of JAX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import get_args

from qtot.envs.report import Problem, problem
from qtot.envs.scalars import taken_name
from qtot.envs.spec import EnvSpec, MaskSource, StateSource, TeamReward
from qtot.shapes import features

FIELDS = {  # axes in the letters of qtot.types, dtype, remedy
    "obs": ("NO", "float", "zero-pad every agent's observation to O = max(spec.obs_sizes)"),
    "state": ("S", "float", "return spec.state_size features"),
    "avail_actions": ("NA", "bool", "True = legal, False for padding up to max(spec.n_actions)"),
    "alive": ("N", "bool", "one bool per agent; True for all where nobody dies"),
    "reward": ("", "float", "return one reward for the team: the sum or mean of the agents' own"),
    "terminated": ("", "bool", "return one flag for the team, not one per agent"),
    "truncated": ("", "bool", "return one flag for the team, not one per agent"),
}


def spec_problems(spec: EnvSpec) -> Iterator[Problem]:
    """Names, sizes and choices."""
    wrong = partial(problem, "spec")
    twice = [name for name, count in Counter(spec.agents).items() if count > 1]
    if twice or not spec.agents:
        got = f"{', '.join(twice)} more than once" if twice else "no agents"
        yield wrong("spec.agents", "one name for each agent", got, "name every agent, once")
    for field in ("n_actions", "obs_sizes"):
        sizes = getattr(spec, field)
        if len(sizes) != len(spec.agents):
            expected = f"{len(spec.agents)} entries, one per agent"
            yield wrong(f"spec.{field}", expected, f"{len(sizes)}", "give every agent its own")
        for agent, size in zip(spec.agents, sizes, strict=False):
            if size < 1:
                remedy = "give an idle agent one no-op and one feature, always 0"
                yield wrong(f"spec.{field}, agent {agent!r}", "1 or more", f"{size}", remedy)
    for field in ("state_size", "episode_limit"):
        if (size := getattr(spec, field)) < 1:
            yield wrong(f"spec.{field}", "1 or more", f"{size}", "say how large it is")
    if not 1 <= spec.shortest_episode <= max(spec.episode_limit, 1):
        expected = f"from 1 to spec.episode_limit = {spec.episode_limit}"
        remedy = "1 is always right"
        yield wrong("spec.shortest_episode", expected, f"{spec.shortest_episode}", remedy)
    side_by_side = sum(spec.obs_sizes)
    if spec.state_source == "concatenated observations" and spec.state_size != side_by_side:
        expected = f"{side_by_side}, since spec.state_source is 'concatenated observations'"
        remedy = "leave padding out, or set state_source to 'environment'"
        yield wrong("spec.state_size", expected, f"{spec.state_size}", remedy)
    pixels = features(spec.obs_shape)
    if spec.obs_shape and any(size != pixels for size in spec.obs_sizes):
        expected = "rows, columns and channels whose product is every agent's entry in obs_sizes"
        got = f"{spec.obs_shape}, {pixels} in all, beside {spec.obs_sizes}"
        remedy = "flatten the whole image into the observation; () where it is no image"
        yield wrong("spec.obs_shape", expected, got, remedy)
    yield from _words(spec)


def _words(spec: EnvSpec) -> Iterator[Problem]:
    if taken := taken_name(spec.info):
        expected, got = "names that no other metric has", repr(taken)
        yield problem("spec", "spec.info", expected, got, "report it under another name")
    choices = {"team_reward": TeamReward, "state_source": StateSource, "masks": MaskSource}
    for field, literal in choices.items():
        if (value := getattr(spec, field)) not in get_args(literal):
            expected = " or ".join(map(repr, get_args(literal)))
            yield problem("spec", f"spec.{field}", expected, repr(value), "choose one of these")

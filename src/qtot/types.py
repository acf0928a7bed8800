"""The shapes and records that every layer shares.

Shape legend, used in every annotation:

    T time · B batch of sequences · E parallel environments · N agents
    A actions (padded to the largest) · O observation features (padded) · S state features
    H recurrent width · K features of a memory · M values that the mixer returns (N for independent
    learning, else 1)

Arrays are time-major: ``[T, B, N, ...]``, but for the replay's ring. Masks are True where an action
is legal, an agent is alive, or a transition counts. ``*b`` stands for any leading axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from jaxtyping import Key as KeysOf

Key = PRNGKeyArray
Keys = KeysOf[Array, "*b"]  # an array of them
PyTree = Any


class Observation(NamedTuple):
    """What is seen at one slot."""

    obs: Float[Array, "*b N O"]
    """each agent's own observation, zero-padded to O"""
    state: Float[Array, "*b S"]
    """the global state; only the mixer sees it"""
    avail_actions: Bool[Array, "*b N A"]
    """True = legal; padding actions are never legal. A final observation after a time limit is
    bootstrapped, so every agent still needs a legal action there; after a true end it does not"""
    alive: Bool[Array, "*b N"]
    """an agent that is dead keeps its place"""


class StepResult(NamedTuple):
    """What followed the joint action of one environment."""

    reward: Float[Array, ""]
    """the team reward"""
    terminated: Bool[Array, ""]
    """a true end: no value follows, so nothing is bootstrapped"""
    truncated: Bool[Array, ""]
    """a time limit: the final observation's value is bootstrapped"""
    info: dict[str, Float[Array, ""]]
    """the scalars that the environment's spec declares: present at every step, read where an
    episode ends"""


class Slots(NamedTuple):
    """A stream of slots. An episode's final observation is a slot of its own (``valid`` False);
    the reset happens on the slot after it (``first`` True).
    """

    obs: Float[Array, "*b N O"]
    state: Float[Array, "*b S"]
    avail_actions: Bool[Array, "*b N A"]
    alive: Bool[Array, "*b N"]
    action: Int[Array, "*b N"]
    """chosen at this slot"""
    reward: Float[Array, "*b"]
    """the team reward that followed"""
    terminated: Bool[Array, "*b"]
    """the true end that followed"""
    first: Bool[Array, "*b"]
    """this slot opens an episode: memory and previous action are cleared before use"""
    valid: Bool[Array, "*b"]
    """the transition counts; False on a final observation and on padding"""


class SequenceStart(NamedTuple):
    """What an agent remembers as a sequence begins."""

    memory: Float[Array, "B N K"]
    """recurrent state before slot 0: the agents', then that of a critic's own agents if any"""
    prev_action: Int[Array, "B N"]
    """action at the slot before slot 0, or -1 for none"""


class Batch(NamedTuple):
    """Sampled sequences: ``slots`` has T+1 slots, of which the last is never a transition."""

    slots: Slots
    start: SequenceStart
    slow: tuple[tuple[Float[Array, "T B N A"], Float[Array, "T B N H"]], ...] | None = None
    """Q-values and hidden states of the target networks' agents, where they are known already"""

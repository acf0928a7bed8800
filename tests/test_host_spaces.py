"""Gymnasium's spaces as sizes and functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from extras import package
from qtot.envs.host.base import GarbageError
from qtot.envs.host.spaces import (
    actions_of,
    obs_reader,
    pixels,
    shared_shape,
    violation,
    without_mask,
)
from qtot.errors import QtotError
from qtot.shapes import unflatten

spaces = package("gymnasium.spaces", "gym")

IMAGE = spaces.Box(0, 255, (2, 3, 4), np.uint8)
DICT = spaces.Dict(
    {
        "where": spaces.Box(-1, 1, (2,), np.float64),
        "what": spaces.Discrete(3, start=1),
        "eye": spaces.Box(0, 255, (2, 2), np.uint8),
        "pair": spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3))),
    }
)


def read(space: Any, obs: Any) -> np.ndarray:
    reader = obs_reader(space, "me")
    row = np.full(reader.size, np.nan, np.float32)
    reader.write(obs, row)
    return row


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float64),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Box(0, 9, (2, 3, 4), np.int16),
        spaces.Box(0, 255, (6,), np.uint8),
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([3, 2, 4]),
        spaces.MultiBinary(5),
        spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)))),
    ],
    ids=str,
)
def test_flattened_as_the_library_does(space: Any):
    space.seed(0)
    for _ in range(20):
        obs = space.sample()
        got = read(space, obs)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, spaces.utils.flatten(space, obs).astype(np.float32))


def test_pixels_are_scaled_and_kept_in_their_order():
    IMAGE.seed(0)
    obs = IMAGE.sample()
    np.testing.assert_allclose(read(IMAGE, obs).reshape(2, 3, 4), obs / 255.0, rtol=1e-6)
    counts = spaces.Box(0, 9, (2, 3), np.uint8)
    np.testing.assert_array_equal(read(counts, np.full((2, 3), 7, np.uint8)), np.full(6, 7.0))


def test_which_parts_are_pixels():
    """What an exported policy has to scale as training did: where that cannot be said, "*"."""
    counts = spaces.Box(0, 9, (2, 2), np.uint8)
    inside = spaces.Dict({"deep": spaces.Dict({"eye": IMAGE, "counts": counts})})
    for observed, want in (
        ([counts, DICT["where"]], ()),
        ([IMAGE, IMAGE], ("",)),
        ([DICT, DICT], ("eye",)),
        ([IMAGE, DICT], ("*",)),
        ([spaces.Tuple((IMAGE, counts))] * 2, ("*",)),
        ([inside, inside], ("*",)),
    ):
        assert pixels(observed) == want


def test_the_parts_of_a_dict_keep_their_order_and_shape():
    DICT.seed(0)
    obs = DICT.sample()
    shape = shared_shape([DICT, DICT])
    assert [name for name, _ in shape] == list(DICT.spaces)
    assert dict(shape) == {"eye": (2, 2), "pair": (5,), "what": (3,), "where": (2,)}
    parts = unflatten(read(DICT, obs), shape)
    np.testing.assert_allclose(parts["where"], obs["where"], rtol=1e-6)
    np.testing.assert_allclose(parts["eye"], obs["eye"] / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(parts["what"], np.eye(3)[obs["what"] - 1])


def test_only_images_and_dicts_that_all_share_have_a_shape():
    flat, other = spaces.Box(0, 1, (4,)), spaces.Box(0, 1, (2, 2))
    assert shared_shape([IMAGE, IMAGE]) == (2, 3, 4)
    assert shared_shape([other, other]) == (2, 2, 1)
    assert shared_shape([flat, flat]) == () == shared_shape([IMAGE, other])
    assert shared_shape([DICT, flat]) == ()


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (spaces.Box(-1, 1, (3,)), np.zeros(1)),  # would be broadcast
        (spaces.Box(-1, 1, (3,)), np.zeros((3, 1))),
        (spaces.Box(-1, 1, (3,)), 0.0),
        (spaces.Box(-1, 1, (3,)), ["x", "y", "z"]),
        (spaces.Box(-1, 1, (3,)), None),
        (spaces.Discrete(3, start=1), 0),  # would count from the end
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3), None),
        (DICT, {"where": np.zeros(2)}),
        (spaces.MultiBinary(3), np.zeros(4)),
    ],
    ids=str,
)
def test_what_does_not_fit_is_garbage(space: Any, obs: Any):
    with pytest.raises(GarbageError, match=r"expected an observation .*, got "):
        read(space, obs)


def test_spaces_without_a_size_are_refused():
    with pytest.raises(QtotError, match=r"the observation space of me is .* no fixed number"):
        obs_reader(spaces.Sequence(spaces.Discrete(2)), "me")
    with pytest.raises(QtotError, match="it is empty"):
        obs_reader(spaces.Box(0, 1, (0,)), "me")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Discrete(4, start=3),
        spaces.MultiDiscrete([3, 2], start=[5, -1]),
        spaces.MultiDiscrete([[2, 2], [1, 3]]),
    ],
    ids=str,
)
def test_every_action_is_one_of_the_environments_own(space: Any):
    actions = actions_of(space, "me")
    decoded = [actions.decode(a) for a in range(actions.n)]
    assert all(space.contains(a) for a in decoded)
    assert len({np.asarray(a).tobytes() for a in decoded}) == actions.n


def test_the_last_part_of_an_action_varies_fastest():
    actions = actions_of(spaces.MultiDiscrete([3, 2]), "me")
    got = [actions.decode(a).tolist() for a in range(6)]
    assert got == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    actions.decode(0)[:] = 9  # an environment may write to what it is given
    assert actions.decode(0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(-1, 1, (2,)), "MADDPG or FACMAC"),
        (spaces.MultiDiscrete([17, 17, 17]), "4913 combinations.* at most 4096"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "reads Discrete and MultiDiscrete"),
    ],
)
def test_other_actions_are_refused_in_words(space: Any, words: str):
    with pytest.raises(QtotError, match=f"the actions of me are .*{words}"):
        actions_of(space, "me")


def test_the_mask_is_no_part_of_the_observation():
    mask, box = spaces.MultiBinary(3), spaces.Box(0, 1, (2,))
    assert without_mask(spaces.Dict({"observation": box, "action_mask": mask})) == (box, True, True)
    rest, masked, bare = without_mask(spaces.Dict({"x": box, "y": box, "action_mask": mask}))
    assert (list(rest.spaces), masked, bare) == (["x", "y"], True, False)
    assert without_mask(box) == (box, False, False)
    with pytest.raises(QtotError, match="nothing but 'action_mask'"):
        without_mask(spaces.Dict({"action_mask": mask}))


def test_where_an_observation_leaves_its_space():
    box = spaces.Box(-1, 1, (2, 2), np.float32)
    assert violation(box, np.zeros((2, 2), np.float64)) is None
    assert violation(box, np.array([[0, 0], [2, 0]])) == (
        "expected feature [1, 0] within [-1, 1], got 2"
    )
    assert "got nan" in str(violation(box, np.full((2, 2), np.nan)))
    assert violation(box, np.zeros(4)) == "expected shape (2, 2), got (4,)"
    assert violation(spaces.Discrete(2), 2) == "expected an element of Discrete(2), got 2"
    found = violation(spaces.Dict({"a": box}), {"a": np.full((2, 2), 5)})
    assert found == "entry 'a': expected feature [0, 0] within [-1, 1], got 5"

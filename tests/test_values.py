"""Probe environments learn their known values through the whole program: streams, replay, loss.

The faults named here are the silent ones of public libraries; most shift a value by a factor.
"""

from __future__ import annotations

import numpy as np
import pytest

from qtot.envs.probes import KNOWN
from small import q_tot_by_state, small_config, trained

pytestmark = pytest.mark.usefixtures("quick_compile")


def assert_values(config, known, atol=0.03):
    program, state = trained(config)
    values = q_tot_by_state(program, state)
    assert list(values) == list(range(len(known)))
    for k, value in enumerate(known):
        np.testing.assert_allclose(values[k], value, atol=atol, err_msg=f"position {k}")


# The chain has 3 transitions and a final slot: rollouts below, equal to and above its length, and
# equal to the slots it takes, so that the end of an episode falls on every place of a rollout.
@pytest.mark.parametrize("length", [2, 3, 4, 7])
def test_terminal_reward_reaches_the_chain_whatever_the_rollout_length(length):
    assert_values(small_config("probe/chain", replay={"length": length}), KNOWN["chain"].values)


def test_whole_episodes_give_the_same_values_with_td_lambda():
    config = small_config(
        "probe/chain",
        replay={"sequences": "episodes"},
        collect={"update_ratio": 0.5, "update_unit": "episode"},
        target={"td_lambda": 0.8},
    )
    assert_values(config, KNOWN["chain"].values)


def test_a_time_limit_bootstraps_and_an_end_does_not():
    """A limit taken for an end would give the chain's own .81, .9, 1."""
    config = small_config(
        "probe/chain_truncated", steps=12_000, optimiser={"lr": 1e-2}, target={"td_lambda": 0.8}
    )
    assert_values(config, KNOWN["chain_truncated"].values, atol=0.4)


def test_a_time_limit_can_be_taken_for_an_end():
    config = small_config("probe/chain_truncated", target={"time_limit": "end"})
    assert_values(config, KNOWN["chain"].values)


def test_next_values_are_masked_by_the_next_slots_mask():
    """With the door's mask, or none, the door would be worth 9 instead of 4.95."""
    config = small_config("probe/masks", "vdn", steps=8_000)
    program, state = trained(config)
    values = q_tot_by_state(program, state)
    np.testing.assert_allclose(values[0], 4.95, atol=0.8)


def test_one_agent_one_action_one_step_one_sequence():
    """Every axis that a squeeze() would remove has size one."""
    config = small_config("probe/one", replay={"length": 1, "batch": 1}, collect={"envs": 1})
    program, state = trained(config)
    np.testing.assert_allclose(q_tot_by_state(program, state)[0], 1.0, atol=0.02)

"""The silent learning bugs of public libraries, ready to be planted here, and what catches them.

One entry or more for every kind of bug that was seen: which tests must fail when it is planted.
``test_planted_bugs.py`` plants each in a copy of the sources. This is the list to extend when
a new kind of silent bug is met, and the list that must be brought up to date (an entry's ``old``
text has to occur exactly once) when the code it changes is rewritten.

    terminal mask one step off ............ values of the chain, whatever the rollout length
    rollout as long as the episode ........ the same; whole episodes
    reset at every update ................. an episode of three rollouts
    time limit as a true end, or reverse .. values of the truncated chain; SMAX and MPE ends
    padding leaks ......................... garbage in padding; no-op'd agents in the loss
    mask of the wrong step ................ the next slot's own mask; values behind the door
    one draw explores for all ............. joint exploration statistics
    one environment's state for all ....... distinct states
    squeeze() of a batch of one ........... sizes of one
    TD(lambda) drops the last reward ...... returns by hand
    statistics with padding, not saved .... what the learner counts; a stopped run; resume
    schedules in updates .................. epsilon as played, learning rate, 1 and 16 environments
    environments change the ratio ......... the update ratio for 1 and 16 environments
    a resume loses something .............. a state taken out and put back; where a chunk ends; a
                                            stopped run beside one that was not
    a dead agent ends the episode ......... one dead agent; SMAX with one dead ally
    learning that does not learn .......... two-step game; coordination game
    parts of the later methods ............ plain loops of their losses; what each term trains
    another policy learns than played ..... probabilities of the actions, played and learned from
    what leaves is not what was trained ... exported beside trained networks, agents apart, heirs
    environments in Python ................ adapters beside raw packages; rollouts beside plain
                                            loops; a run beside the same one in the graph
"""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """One way to plant a bug."""

    pitfall: str
    file: str
    """below src/qtot"""
    old: str
    """occurs exactly once there"""
    new: str
    caught_by: tuple[str, ...]
    """each of these tests fails"""


CHAIN = "test_values.py::test_terminal_reward_reaches_the_chain_whatever_the_rollout_length"
RATIO = (
    "test_training.py::test_schedules_and_update_ratio_do_not_depend_on_the_number_of_environments"
)
RESUME = "test_training.py::test_a_state_taken_out_and_put_back_continues_bit_for_bit"
CHUNKS = "test_training.py::test_where_a_chunk_ends_changes_nothing"
LOOPS = "test_host_pool.py::test_rollouts_are_those_of_plain_loops"
IN_GRAPH = "test_host_in_graph.py::test_a_run_on_the_host_is_the_run_in_the_graph"
BEGINS = "test_host_runs.py::test_nothing_is_remembered_where_an_episode_begins"
STOPPED = "test_resume.py::test_a_stopped_run_ends_as_if_never_stopped[replay-41]"
TWO_STEP = f"{IN_GRAPH}[matrix/two_step-segments-qmix-replay-2]"

BUGS: dict[str, Bug] = {
    "the_end_is_seen_one_step_late": Bug(
        "the terminal mask is one step off",
        "core/losses/base.py",
        "valid, ended = slots.valid[:-1], slots.terminated[:-1]",
        "valid, ended = slots.valid[:-1], slots.terminated[1:]",
        (f"{CHAIN}[4]", "test_loss.py::test_loss_and_metrics_equal_a_plain_loop"),
    ),
    "values_leak_in_from_the_episode_before": Bug(
        "the terminal mask is one step off",
        "core/losses/td.py",
        "returns = returns_of(slots, value[1:], config)",
        "import jax.numpy as jnp\n"
        "    returns = returns_of(slots, jnp.roll(value, -2, axis=0)[:-1], config)",
        (f"{CHAIN}[4]",),
    ),
    "the_last_transition_is_dropped": Bug(
        "a rollout exactly as long as the episode drops the terminal transition",
        "core/losses/base.py",
        "return valid & (jnp.arange",
        "return valid & slots.valid[1:] & (jnp.arange",
        (f"{CHAIN}[2]", f"{CHAIN}[3]", f"{CHAIN}[4]", f"{CHAIN}[7]"),
    ),
    "whole_episodes_have_no_slot_for_their_end": Bug(
        "a rollout exactly as long as the episode drops the terminal transition",
        "core/replay.py",
        "stride = length + (not overlap)",
        "stride = length",
        ("test_replay.py::test_whole_episodes_do_not_overlap",),
    ),
    "environments_are_reset_at_every_update": Bug(
        "environments are reset at every update",
        "training/collect.py",
        "if self.whole_episodes:\n            actors",
        "if True:\n            actors",
        ("test_collect.py::test_an_episode_longer_than_three_rollouts_ends_once",),
    ),
    "a_time_limit_is_an_end": Bug(
        "a time limit is treated as a true end",
        "envs/stream.py",
        "terminated=running & result.terminated,",
        "terminated=running & (result.terminated | result.truncated),",
        (
            "test_values.py::test_a_time_limit_bootstraps_and_an_end_does_not",
            "test_collect.py::test_a_time_limit_is_no_termination",
        ),
    ),
    "an_end_is_a_time_limit": Bug(
        "a time limit is treated as a true end (the reverse)",
        "core/targets.py",
        "if lam == 0.0:\n        return reward + gamma * jnp.where(terminated, 0.0, next_value)",
        "if lam == 0.0:\n        return reward + gamma * next_value",
        (f"{CHAIN}[4]",),
    ),
    "smax_defeats_by_the_clock": Bug(
        "a time limit is treated as a true end",
        "envs/smax.py",
        "terminated = ~(allies & enemies)",
        "terminated = ~(allies & enemies) | (state.state.step >= self.spec.episode_limit)",
        ("test_jaxmarl_envs.py::test_smax_ends[time]",),
    ),
    "mpe_ends_truly": Bug(
        "a time limit is treated as a true end",
        "envs/mpe.py",
        "terminated=jnp.zeros((), bool),\n            truncated=dones",
        "truncated=jnp.zeros((), bool),\n            terminated=dones",
        (
            "test_jaxmarl_envs.py::"
            "test_mpe_shows_and_pays_what_the_package_does_for_26_steps[simple_spread]",
        ),
    ),
    "padding_is_not_scrubbed": Bug(
        "padding leaks",
        "core/losses/td.py",
        "batch = scrub(batch)",
        "batch = batch",
        ("test_padding.py::test_garbage_in_padding_changes_no_bit_of_loss_or_gradient",),
    ),
    "padding_counts_in_the_mean": Bug(
        "padding leaks",
        "core/losses/base.py",
        "masked = jnp.where(self.counts[..., None], x, 0.0)",
        "masked = x",
        ("test_padding.py::test_more_padding_changes_nothing",),
    ),
    "a_large_constant_stands_for_an_illegal_action": Bug(
        "padding leaks: unavailable-action constants reach the targets",
        "core/masks.py",
        "return jnp.where(jnp.any(avail_actions, axis=-1), largest, 0.0)",
        "return jnp.maximum(largest, -9999999.0)",
        ("test_exploration.py::test_masked_choices_on_small_tables",),
    ),
    "the_values_of_illegal_actions_are_targets": Bug(
        "padding leaks: unavailable actions reach the targets",
        "core/masks.py",
        "return jnp.argmax(jnp.where(avail_actions, q, -jnp.inf), axis=-1)",
        "return jnp.argmax(q, axis=-1)",
        ("test_loss.py::test_the_values_of_illegal_actions_never_reach_a_target",),
    ),
    "the_next_value_is_masked_by_this_step": Bug(
        "next-step values masked with this step's avail_actions",
        "core/losses/base.py",
        "return masked_argmax(judge, slots.avail_actions)",
        "return masked_argmax(judge, jnp.roll(slots.avail_actions, 1, axis=0))",
        (
            "test_loss.py::test_the_target_uses_the_next_slots_own_mask[double]",
            "test_values.py::test_next_values_are_masked_by_the_next_slots_mask",
        ),
    ),
    "one_coin_for_all": Bug(
        "one random draw decides exploration for all agents and environments",
        "core/exploration.py",
        "coin, which = noise",
        "coin, which = (jnp.broadcast_to(x.reshape(-1)[0], x.shape) for x in noise)",
        (
            "test_exploration.py::test_agents_and_environments_explore_independently",
            "test_collect.py::test_agents_and_environments_explore_by_coins_of_their_own",
        ),
    ),
    "one_coin_for_all_environments": Bug(
        "one random draw decides exploration for all agents and environments",
        "training/collect.py",
        "action = self.learner.explore(noise, values, seen.avail_actions, epsilon)",
        "noise = jnp.broadcast_to(noise[:, :1], noise.shape)\n"
        "        action = self.learner.explore(noise, values, seen.avail_actions, epsilon)",
        ("test_collect.py::test_agents_and_environments_explore_by_coins_of_their_own",),
    ),
    "the_state_of_one_environment_is_everyones": Bug(
        "the global state of one environment overwrites all",
        "envs/stream.py",
        "return over_envs(env, env.observe)(stream.env)",
        "seen = over_envs(env, env.observe)(stream.env)\n"
        "    return seen._replace(state=jnp.broadcast_to(seen.state[:1], seen.state.shape))",
        ("test_collect.py::test_every_environment_has_a_state_of_its_own",),
    ),
    "a_batch_of_one_is_squeezed": Bug(
        "squeeze() on a batch of one broadcasts to a T×T matrix",
        "core/losses/td.py",
        "loss = mean((q_tot - returns) ** 2)",
        "returns = returns if returns.shape[1] > 1 else returns.squeeze()\n"
        "    loss = mean((q_tot - returns) ** 2)",
        ("test_loss.py::test_sizes_of_one_do_not_broadcast",),
    ),
    "every_axis_of_one_is_squeezed": Bug(
        "squeeze() on a batch of one broadcasts to a T×T matrix",
        "core/masks.py",
        "action[..., None].astype(jnp.int32), axis=-1)[..., 0]",
        "action[..., None].astype(jnp.int32), axis=-1).squeeze()",
        (
            "test_loss.py::test_sizes_of_one_do_not_broadcast",
            "test_values.py::test_one_agent_one_action_one_step_one_sequence",
        ),
    ),
    "an_end_drops_its_reward": Bug(
        "TD(lambda) drops the reward at the end of an episode",
        "core/targets.py",
        "g = r + gamma * jnp.where(end, 0.0, (1.0 - mix) * v_next + mix * g_next)",
        "g = jnp.where(end, 0.0, r + gamma * ((1.0 - mix) * v_next + mix * g_next))",
        (
            "test_targets.py::test_the_reward_at_the_end_of_an_episode_reaches_its_start",
            "test_values.py::test_whole_episodes_give_the_same_values_with_td_lambda",
        ),
    ),
    "padding_is_counted_into_the_statistics": Bug(
        "reward statistics include padding",
        "core/learner.py",
        "return merge(stats, x, slots.valid, self.shards) if used else stats",
        "return merge(stats, x, jnp.ones_like(slots.valid), self.shards) if used else stats",
        ("test_statistics.py::test_the_learner_counts_valid_transitions_of_what_is_in_use",),
    ),
    "statistics_are_not_saved": Bug(
        "reward statistics are not checkpointed",
        "core/learner.py",
        "return PolicyParams(train.online, train.stats)",
        "return PolicyParams(train.online, jax.tree.map(jnp.zeros_like, train.stats))",
        ("test_api.py::test_a_stopped_run_keeps_the_parameters_it_had_reached",),
    ),
    "statistics_begin_anew_at_every_chunk": Bug(
        "reward statistics are not checkpointed",
        "training/ingraph.py",
        "start = (state, least(state.seeds), afresh)",
        "train = state.seeds.train\n"
        "            train = train._replace(stats=jax.tree.map(jnp.zeros_like, train.stats))\n"
        "            state = state._replace(seeds=state.seeds._replace(train=train))\n"
        "            sums = jax.eval_shape(step, state.seeds, state.iteration)[1]",
        (CHUNKS,),
    ),
    "epsilon_counts_updates": Bug(
        "epsilon schedules count updates instead of environment steps",
        "training/ingraph.py",
        "state.actors, state.train, self.learner.epsilon(state.train.env_steps)",
        "state.actors, state.train, self.learner.epsilon(state.train.updates)",
        ("test_training.py::test_what_is_explored_follows_environment_steps",),
    ),
    "the_learning_rate_counts_updates": Bug(
        "learning-rate schedules count updates instead of environment steps",
        "core/learner.py",
        "learning_rate(self.optimiser, state.env_steps, self.total_steps)",
        "learning_rate(self.optimiser, state.updates, self.total_steps)",
        (
            "test_training.py::test_epsilon_and_learning_rate_follow_environment_steps",
            "test_optimiser.py::test_the_learning_rate_follows_environment_steps_and_not_updates",
        ),
    ),
    "more_environments_learn_less": Bug(
        "more parallel environments silently mean fewer updates per step",
        "training/from_replay.py",
        "jnp.where(ready, unit * collect.update_ratio, 0.0)",
        "jnp.where(ready, unit / collect.envs * collect.update_ratio, 0.0)",
        (f"{RATIO}[step]", f"{RATIO}[episode]"),
    ),
    "fractions_of_an_update_are_lost": Bug(
        "more parallel environments silently mean fewer updates per step (or more)",
        "training/from_replay.py",
        "credit = state.credit + jnp.where(ready,",
        "credit = jnp.where(ready,",
        (f"{RATIO}[step]",),
    ),
    "a_resume_copies_the_target_networks": Bug(
        "a loaded model keeps target networks from the online weights",
        "training/ingraph.py",
        "start = (state, least(state.seeds), afresh)",
        "train = state.seeds.train._replace(target=state.seeds.train.online)\n"
        "            state = state._replace(seeds=state.seeds._replace(train=train))\n"
        "            sums = jax.eval_shape(step, state.seeds, state.iteration)[1]",
        (CHUNKS,),
    ),
    "a_resume_loses_the_optimisers_state": Bug(
        "a loaded model loses its optimiser",
        "training/ingraph.py",
        "start = (state, least(state.seeds), afresh)",
        "train = state.seeds.train\n"
        "            none = jax.tree.map(jnp.zeros_like, train.opt_state)\n"
        "            train = train._replace(opt_state=none)\n"
        "            state = state._replace(seeds=state.seeds._replace(train=train))\n"
        "            sums = jax.eval_shape(step, state.seeds, state.iteration)[1]",
        (CHUNKS,),
    ),
    "the_random_state_lives_outside": Bug(
        "a loaded model loses its RNG",
        "training/ingraph.py",
        "start = (state, least(state.seeds), afresh)",
        "from jax.experimental import io_callback\n"
        "            draws = globals().setdefault('_draws', iter(range(10**6)))\n"
        "            one = jax.ShapeDtypeStruct((), jnp.int32)\n"
        "            drawn = io_callback(lambda: jnp.int32(next(draws)), one, ordered=True)\n"
        "            key = jax.vmap(jax.random.fold_in, (0, None))(state.seeds.key, drawn)\n"
        "            state = state._replace(seeds=state.seeds._replace(key=key))\n"
        "            sums = jax.eval_shape(step, state.seeds, state.iteration)[1]",
        (RESUME,),
    ),
    "one_dead_agent_ends_the_episode": Bug(
        "the agents' termination flags are OR-ed into the team's",
        "envs/stream.py",
        "after, result = step(draws.keys, stream.env, actions.astype(jnp.int32))",
        "after, result = step(draws.keys, stream.env, actions.astype(jnp.int32))\n"
        "    dead = ~jax.vmap(env.observe)(after).alive.all(-1)\n"
        "    result = result._replace(terminated=result.terminated | dead)",
        ("test_collect.py::test_one_dead_agent_does_not_end_the_teams_episode",),
    ),
    "one_dead_marine_is_a_defeat": Bug(
        "the agents' termination flags are OR-ed into the team's",
        "envs/smax.py",
        "allies, enemies = alive[: self._allies].any(), ",
        "allies, enemies = alive[: self._allies].all(), ",
        ("test_jaxmarl_envs.py::test_smax_ends[one_dead]",),
    ),
    "agents_learn_nothing_through_the_mixer": Bug(
        "QMIX worked only on paper: no learning test",
        "core/losses/base.py",
        "q_taken=pick(q, action),",
        "q_taken=jax.lax.stop_gradient(pick(q, action)),",
        (
            "test_training.py::test_a_small_coordination_game_is_learned[qmix]",
            "test_two_step.py::test_q_tot_and_the_greedy_return_are_the_published_ones[qmix]",
        ),
    ),
    "the_greedy_value_comes_from_the_agents": Bug(
        "weighted QMIX regresses on its own monotone value instead of on Q*",
        "core/losses/weighted.py",
        "best_value = jax.lax.stop_gradient(target.critic(pick(central_slow, best), slots.state))",
        "best_value = jax.lax.stop_gradient(target.critic(pick(q_slow, best), slots.state))",
        ("test_losses.py::test_loss_and_metrics_equal_a_plain_loop[cw]",),
    ),
    "the_weight_is_on_the_wrong_side": Bug(
        "weighted QMIX weights down what it should not",
        "core/losses/weighted.py",
        "lambda error, is_greedy, exceeds: error < 0.0",
        "lambda error, is_greedy, exceeds: error > 0.0",
        ("test_losses.py::test_loss_and_metrics_equal_a_plain_loop[ow]",),
    ),
    "a_critic_starts_from_the_agents_memory": Bug(
        "a critic's own recurrent state is not stored with the sequence",
        "core/unroll.py",
        "after += agent.memory_size",
        "after += 0",
        (
            "test_losses.py::test_loss_and_metrics_equal_a_plain_loop[cw]",
            "test_losses.py::test_burning_in_serves_a_critics_own_agents_too",
        ),
    ),
    "a_rollout_is_learned_from_under_the_next_epsilon": Bug(
        "an on-policy method learns from another policy than the one that played",
        "training/online.py",
        "train = state.train._replace(stats=stats)",
        "train = counted",
        ("test_on_policy.py::test_the_rollout_is_learned_from_by_the_policy_that_played_it",),
    ),
    "a_rollout_ends_where_it_began": Bug(
        "a piece of a stream bootstraps from the wrong observation",
        "training/collect.py",
        "        stream = actors.stream\n        noise = self.noise",
        "        actors = self.init(key, networks)\n        stream = actors.stream\n"
        "        noise = self.noise",
        ("test_on_policy.py::test_a_piece_of_a_stream_goes_on_where_the_last_one_ended",),
    ),
    "the_baseline_is_the_value_itself": Bug(
        "COMA's baseline is not the policy's mean over the agent's own actions",
        "core/losses/coma.py",
        "baseline = jnp.sum(probabilities * q, axis=-1)",
        "baseline = jnp.max(q, axis=-1)",
        ("test_losses.py::test_loss_and_metrics_equal_a_plain_loop[coma]",),
    ),
    "a_critic_sees_the_agents_own_action": Bug(
        "COMA's critic is told the action that it should be counterfactual about",
        "core/losses/coma.py",
        "others = for_each(taken).reshape(*lead, n, n, -1) * (1.0 - jnp.eye(n))[..., None]",
        "others = for_each(taken).reshape(*lead, n, n, -1)",
        ("test_losses.py::test_loss_and_metrics_equal_a_plain_loop[coma]",),
    ),
    "the_joint_q_follows_the_sum": Bug(
        "QTRAN's joint Q is trained by the losses that should only bind the sum to it",
        "core/losses/qtran.py",
        "gap = summed(greedy) + value - jax.lax.stop_gradient(joint_greedy)",
        "gap = summed(greedy) + value - joint_greedy",
        ("test_losses.py::test_qtrans_joint_q_is_fixed_in_the_losses_that_bind_the_sum_to_it",),
    ),
    "an_advantage_is_above_zero": Bug(
        "QPLEX's importance is negative somewhere, so the argmax is not the agents'",
        "core/mixers/qplex.py",
        "strength = jnp.abs(key(state)) + ABOVE_ZERO",
        "strength = key(state) + ABOVE_ZERO",
        (
            "test_mixers.py::test_monotone_mixers_keep_the_joint_argmax[qplex]",
            "test_mixers.py::test_the_weights_of_qplex_are_above_zero_and_depend_on_the_joint_action",
        ),
    ),
    "a_gradient_passes_the_beginning_of_an_episode": Bug(
        "padding leaks",
        "core/gru_xla.py",
        "through = jnp.where(_at(first, t)[:, None], 0.0, through)",
        "through = jnp.where(_at(first, t)[:, None], through, through)",
        ("test_gru.py::test_values_and_gradients_are_the_plain_scans[odd-xla]",),
    ),
    "the_same_in_the_gpu_kernel": Bug(
        "padding leaks",
        "core/gru_pallas.py",
        "return jnp.where(keep[t] > 0, through, 0.0)",
        "return through",
        ("test_gru.py::test_values_and_gradients_are_the_plain_scans[odd-pallas]",),
    ),
    "groups_are_mixed_up": Bug(
        "agents of a group use another group's network",
        "core/agent.py",
        "index = np.asarray(self.groups)",
        "index = np.sort(np.asarray(self.groups))",
        ("test_agents.py::test_agents_of_a_group_are_alike_and_groups_are_not",),
    ),
    "the_target_networks_are_never_copied": Bug(
        "QMIX worked only on paper: no learning test",
        "core/learner.py",
        "copy = updates % self.target.interval == 0",
        "copy = updates < 0",
        ("test_two_step.py::test_q_tot_and_the_greedy_return_are_the_published_ones[qmix]",),
    ),
    "agents_of_pettingzoo_never_run_out_of_time": Bug(
        "a time limit is treated as a true end",
        "envs/host/pettingzoo.py",
        "limit = [key for key in live if truncated.get(key) and not terminated.get(key)]",
        "limit = list[Any]()",
        ("test_host_adapters.py::test_truncated_if_one_of_the_last_was",),
    ),
    "a_battle_out_of_time_is_lost": Bug(
        "a time limit is treated as a true end",
        "envs/host/smac.py",
        'cut = cut or (over and bool(info.get("episode_limit", False)))',
        "cut = cut or False",
        ("test_host_smac.py::test_beside_the_raw_battle[False]",),
    ),
    "a_packages_own_limit_is_an_end": Bug(
        "a time limit is treated as a true end",
        "envs/host/gymnasium.py",
        "if terminated and self._true_end and not self._true_end():",
        "if False:",
        (
            "test_host_adapters.py::"
            "test_foraging_and_the_warehouse_are_as_gymnasium_plays_them[rware-tiny-2ag-v2]",
        ),
    ),
    "every_end_on_the_board_is_true": Bug(
        "a time limit is treated as a true end",
        "envs/host/player.py",
        "terminated, ended = bool(result.terminated), bool(",
        "terminated, ended = bool(result.terminated or result.truncated), bool(",
        (
            f"{LOOPS}[segments-Strict]",
            f"{LOOPS}[episodes-Strict]",
            "test_host_pool.py::test_plans_are_kept",
        ),
    ),
    "a_mask_says_what_is_illegal": Bug(
        "a mask is read the wrong way round",
        "envs/host/spaces.py",
        "return mask != 0",
        "return mask == 0",
        (
            "test_host_adapters.py::test_masks_both_ways[observation]",
            "test_host_adapters.py::test_masks_both_ways[infos]",
        ),
    ),
    "columns_beyond_an_agents_actions_are_legal": Bug(
        "padding leaks",
        "envs/host/team.py",
        "self._legal = columns < np.asarray(spec.n_actions)[:, None]",
        "self._legal = columns < np.full((self._n, 1), spec.max_actions)",
        ("test_host_adapters.py::test_agents_of_different_sizes_are_padded",),
    ),
    "who_dies_is_not_paid": Bug(
        "the last reward of an agent that dies is dropped",
        "envs/host/pettingzoo.py",
        "rewards.values(), [",
        "[rewards[key] for key in left], [",
        ("test_host_adapters.py::test_one_dead_agent_does_not_end_the_episode",),
    ),
    "every_episode_is_the_same": Bug(
        "a seed is ignored",
        "envs/host/pettingzoo.py",
        "got = self._env.reset(seed=seed) if",
        "got = self._env.reset(seed=0) if",
        ("test_host_adapters.py::test_seeds_go_where_they_are_taken",),
    ),
    "all_environments_have_the_same_seeds": Bug(
        "more parallel environments play the same episode",
        "training/gather.py",
        "board.salt[:, 4] = (group * self.each + number).reshape(-1)",
        "board.salt[:, 4] = 0",
        (f"{LOOPS}[segments-Strict]", f"{LOOPS}[two groups-Strict]"),
    ),
    "all_environments_of_an_evaluation_have_the_same_seeds": Bug(
        "more parallel environments play the same episode",
        "evaluation/onhost.py",
        "board.salt[:, 4] = (seed, 1, *index), each",
        "board.salt[:, 4] = (seed, 1, *index), 0",
        ("test_host_pool.py::test_an_evaluation_plays_every_environments_share[Strict-0]",),
    ),
    "an_evaluation_takes_the_first_to_end": Bug(
        "short episodes are favoured where the first to end are counted",
        "evaluation/onhost.py",
        "while (board.phase != OVER).any():",
        "board.left[:] = 2**40\n    while sum(map(len, returns)) < episodes:",
        ("test_host_pool.py::test_an_evaluation_plays_every_environments_share[Strict-0]",),
    ),
    "environments_are_reset_twice": Bug(
        "a double reset",
        "envs/host/player.py",
        "        self.lengths[e] += 1\n",
        "        self.lengths[e] += 1\n        if ended:\n            env.reset(0)\n",
        (f"{LOOPS}[segments-Strict]", f"{LOOPS}[one-Strict]"),
    ),
    "the_end_is_not_shown_where_a_worker_died": Bug(
        "a double reset",
        "envs/host/player.py",
        "elif phase == FINAL and not (lost and board.ended[t, e]):",
        "elif phase == FINAL:",
        (
            "test_host_faults.py::"
            "test_an_episode_that_ended_in_the_slot_that_killed_its_worker_shows_its_end",
        ),
    ),
    "a_final_state_is_the_next_episodes": Bug(
        "the state of the next episode stands where the last one ended",
        "training/gathered.py",
        "        return Slots(\n",
        "        opens = board.first[1:-1, :, None]\n"
        "        board.state[:-2] = np.where(opens, board.state[1:-1], board.state[:-2])\n"
        "        return Slots(\n",
        (f"{LOOPS}[segments-Strict]",),
    ),
    "a_return_goes_on_into_the_next_episode": Bug(
        "an episode's return is not its own",
        "envs/host/player.py",
        "self.returns[e], self.lengths[e] = 0.0, 0",
        "self.lengths[e] = 0",
        (f"{LOOPS}[segments-Strict]", f"{LOOPS}[episodes-Strict]"),
    ),
    "what_failed_is_learned_from": Bug(
        "a partial episode is not discarded",
        "training/gathered.py",
        "board.valid[since : t + 1, e] = False",
        "board.valid[t, e] = False",
        (
            "test_host_faults.py::"
            "test_what_one_environment_does_wrong_costs_its_episode_alone[raise]",
            f"{LOOPS}[segments-Chaotic]",
            f"{LOOPS}[episodes-Chaotic]",
        ),
    ),
    "what_failed_is_paid_for": Bug(
        "a partial episode is not discarded",
        "training/gathered.py",
        "np.where(board.valid, board.reward, 0.0)",
        "board.reward",
        (
            "test_host_faults.py::"
            "test_what_one_environment_does_wrong_costs_its_episode_alone[raise]",
            f"{LOOPS}[segments-Chaotic]",
        ),
    ),
    "what_failed_is_discarded_with_the_episode_before": Bug(
        "a partial episode is not discarded (or a whole one with it)",
        "training/gathered.py",
        "since = max([0, *opened[-1:], *(over[-1:] + 1)])",
        "since = max([0, *opened[-2:-1]])",
        (f"{LOOPS}[segments-Chaotic]",),
    ),
    "groups_change_places": Bug(
        "actions and observations of different environments",
        "training/gathered.py",
        "view[...] = array.reshape(*lead, *rest).swapaxes(1, 2).swapaxes(0, 1)",
        "view[...] = array.reshape(*lead, *rest)[:, ::-1].swapaxes(1, 2).swapaxes(0, 1)",
        (f"{LOOPS}[two groups-Strict]", f"{LOOPS}[seeds-Strict]"),
    ),
    "memories_of_groups_change_places": Bug(
        "actions and observations of different environments",
        "training/gather.py",
        "for part in parts], axis=1)",
        "for part in parts[::-1]], axis=1)",
        ("test_host_pool.py::test_memories_start_where_they_ended",),
    ),
    "a_rollout_begins_with_an_action_that_nobody_took": Bug(
        "the previous action is not empty where an episode begins",
        "training/gather.py",
        "np.full(self.lead, -1, self.dtype)",
        "np.full(self.lead, 0, self.dtype)",
        ("test_host_pool.py::test_memories_start_where_they_ended",),
    ),
    "players_remember_the_episode_before": Bug(
        "memory and previous action go on where an episode begins",
        "training/acting.py",
        "Stream(sight.seen, sight.first, ",
        "Stream(sight.seen, sight.first & False, ",
        (f"{BEGINS}[False]",),
    ),
    "evaluated_agents_remember_the_episode_before": Bug(
        "memory and previous action go on where an episode begins",
        "evaluation/teams.py",
        "previous[None], seen.first[None], before)",
        "previous[None], seen.first[None] & False, before)",
        (f"{BEGINS}[True]",),
    ),
    "epsilon_counts_the_steps_of_a_group": Bug(
        "epsilon schedules count something else than environment steps",
        "training/onhost.py",
        "self._leaves(state), self.steps, noise)",
        "self._leaves(state), self.steps // self.groups, noise)",
        (TWO_STEP,),
    ),
    "workers_are_shown_old_policies": Bug(
        "another policy plays than learns",
        "training/onhost.py",
        "        leaves = jax.tree.leaves(policies)\n",
        "        leaves = [jnp.copy(x) for x in jax.tree.leaves(policies)]\n"
        '        leaves = self.__dict__.setdefault("kept", leaves)\n',
        (TWO_STEP,),
    ),
    "actors_are_shown_old_policies": Bug(
        "another policy plays than learns",
        "training/ray_actor.py",
        "self.act, list(leaves), env_steps",
        'self.act, self.__dict__.setdefault("kept", list(leaves)), env_steps',
        ("test_host_runs.py::test_a_ray_actor_acts_by_the_policies_that_it_is_given_last",),
    ),
    "every_rollout_explores_alike": Bug(
        "one random draw decides exploration for all rollouts",
        "training/onhost.py",
        "self.noise(self.keys, np.int32(self.iteration))",
        "self.noise(self.keys, np.int32(0))",
        (TWO_STEP,),
    ),
    "a_resumed_run_counts_its_sums_anew": Bug(
        "a resume loses something",
        "training/loop.py",
        '            self.afresh = record["afresh"]\n',
        "",
        (STOPPED,),
    ),
    "a_resumed_run_forgets_its_best": Bug(
        "a resume loses something",
        "training/loop.py",
        'self.best = {row["seed"]: row for row in record["best"]}',
        "self.best = {}",
        (STOPPED,),
    ),
    "the_target_networks_are_not_saved": Bug(
        "a resume loses something",
        "training/keeping.py",
        "        state = jax.tree.map(placed_like, kept, stored)\n",
        "        train = stored.seeds.train\n"
        "        seeds = stored.seeds._replace(train=train._replace(target=train.online))\n"
        "        state = jax.tree.map(placed_like, kept, stored._replace(seeds=seeds))\n",
        ("test_resume.py::test_the_state_goes_on_bit_for_bit[cw_qmix-replay-2]",),
    ),
    "rows_after_the_checkpoint_stay": Bug(
        "a resume loses something, or has it twice",
        "store/run_folder.py",
        '            os.truncate(self._at("metrics.jsonl"), metrics_bytes)\n',
        "",
        (STOPPED,),
    ),
    "more_steps_stretch_the_schedules": Bug(
        "schedules change when a run goes on",
        "config.py",
        "steps = config.optimiser.steps or config.steps",
        "steps = config.steps",
        ("test_resume.py::test_a_finished_run_goes_further_only_if_asked",),
    ),
    "a_damaged_checkpoint_is_read": Bug(
        "what was damaged is learned from",
        "store/seal.py",
        "            if _facts(there[name]) != files[name]:",
        "            if not files[name]:",
        ("test_resume.py::test_a_damaged_checkpoint_is_left_out_and_said",),
    ),
    "a_checkpoint_has_its_name_before_it_is_whole": Bug(
        "half of a checkpoint is there",
        "store/checkpoints.py",
        '        made = self.folder / f".writing-{path.name}"\n',
        "        made = path\n",
        ("test_checkpoints.py::test_the_last_ones_and_the_best_stay",),
    ),
    "rows_of_lost_episodes_are_joined": Bug(
        "values leak in from another episode",
        "training/from_replay.py",
        "encode(slots._replace(valid=jnp.zeros_like(slots.valid)))",
        "encode(slots)",
        ("test_resume.py::test_the_transition_whose_next_observation_was_lost_does_not_count",),
    ),
    "resumed_workers_play_the_first_episodes_again": Bug(
        "the same episodes again",
        "training/onhost.py",
        "        pool.board.salt[:, 3] = begun\n",
        "",
        (
            "test_resume.py::"
            "test_environments_in_python_open_new_episodes_and_nothing_learned_is_lost[always]",
        ),
    ),
    "what_is_lost_is_kept": Bug(
        "a NaN is learned from, and saved",
        "training/loop.py",
        "                self._examine(state)\n",
        "",
        ("test_health.py::test_a_run_stops_before_it_keeps_what_is_lost",),
    ),
    "exported_gates_are_in_another_order": Bug(
        "what leaves the lab is not what was trained",
        "exporting/graph.py",
        "(r_x, z_x, n_x), (r_h, z_h, n_h) = sides",
        "(z_x, r_x, n_x), (z_h, r_h, n_h) = sides",
        ("test_export.py::test_every_network_answers_as_in_training[shared]",),
    ),
    "an_exported_agent_is_standardised_as_another": Bug(
        "what leaves the lab is not what was trained",
        "exporting/graph.py",
        '[means, "agent_id"], "obs.mean", axis=0)',
        '[means, "agent_id"], "obs.means_of", axis=0)\n'
        '    mean = g.add("ReduceMean", [means], "obs.mean", axes=[0], keepdims=1)',
        ("test_export.py::test_every_network_answers_as_in_training[standardised]",),
    ),
    "a_process_keeps_its_memory_between_episodes": Bug(
        "an agent remembers another episode",
        "deploy/alone.py",
        "np.where(first[:, None], 0.0, memory)",
        "memory",
        ("test_play.py::test_a_process_is_sent_its_own_observation_and_nothing_else",),
    ),
    "agents_that_go_on_learn_from_the_old_target": Bug(
        "learning begins from networks that nobody trained",
        "training/heirs.py",
        "            target=_with_agent(train.target, agent),\n",
        "",
        ("test_transfer.py::test_agents_go_on_and_all_else_is_fresh",),
    ),
}

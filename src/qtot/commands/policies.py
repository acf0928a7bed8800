"""What a run's policies do (eval, play, export), and those from elsewhere (import-pymarl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from qtot.commands.flags import PolicySeed, Process, RunEnv, RunPath, Switch, Trust, Which
from qtot.errors import QtotError


@dataclass(frozen=True)
class Evaluate(Process):
    """Play greedy episodes with the policy of a run."""

    run: RunPath
    episodes: int = 256
    """episodes played by each seed's policy"""
    which: Which = "last"
    seed: int = 0
    """decides the episodes; held out from those of training"""
    env: RunEnv = None
    record: Annotated[int, arg(help_behavior_hint="(default: none)")] = 0
    """episodes of each seed to write into the run folder with all that its networks say of them,
    for 'qtot report'; the first of those that are played"""
    trust: Trust = False

    def execute(self) -> int:
        """Plays and prints."""
        if self.record < 0:
            raise QtotError(f"--record must be a whole number of at least 0, got {self.record}")
        self.prepare()
        from qtot.api import evaluate, load, record
        from qtot.evaluation.table import print_evaluation, print_records

        run = load(self.run, which=self.which, trust=self.trust)
        print_evaluation(evaluate(run, episodes=self.episodes, seed=self.seed, env=self.env))
        if self.record:
            recorded = record(run, self.record, seed=self.seed, env=self.env)
            print_records(str(run.path), [one._asdict() for one in recorded])
        return 0


@dataclass(frozen=True)
class Play(Process):
    """Play greedy episodes, one line each; also with agents of several runs, or agents apart."""

    run: RunPath
    episodes: int = 8
    """how many"""
    agents: Annotated[
        str | None, arg(metavar="A=RUN1,B=RUN2", help_behavior_hint="(default: all of RUN)")
    ] = None
    """agents that play for those of their names, from other runs"""
    decentralised: Switch = False
    """each agent in a process of its own, which is sent nothing but its own observation and knows
    no JAX; their joint actions are compared with those that the agents choose together"""
    which: Which = "last"
    policy_seed: PolicySeed = None
    seed: int = 0
    """decides the episodes; held out from those of training"""
    env: RunEnv = None
    trust: Trust = False

    def execute(self) -> int:
        """Plays and prints; the exit code says whether agents apart played the same."""
        self.prepare()
        from qtot.api import agents_of, load, play
        from qtot.evaluation.table import print_episodes

        run = load(self.run, which=self.which, trust=self.trust)
        played = play(
            run,
            self.episodes,
            agents=agents_of(self.agents, which=self.which, trust=self.trust),
            decentralised=self.decentralised,
            env=self.env,
            policy_seed=self.policy_seed,
            seed=self.seed,
        )
        print_episodes(played.episodes, played.agents, played.agreement, played.pids)
        return 1 if played.agreement is not None and played.agreement.unexplained else 0


@dataclass(frozen=True)
class Export(Process):
    """Write each agent as a policy that acts alone: ONNX files, and what they expect."""

    run: RunPath
    out: Annotated[str, arg(metavar="DIR")]
    """new folder for policy.json, and the networks as .onnx and .safetensors"""
    weights: Literal["float32", "float16", "int8"] = "float32"
    """float32 is exact; the others are smaller, and how often they act the same is measured in
    greedy episodes and written down"""
    which: Which = "last"
    policy_seed: PolicySeed = None
    env: RunEnv = None
    trust: Trust = False

    def execute(self) -> int:
        """Exports, and says what came of it."""
        self.prepare()
        from qtot.api import export, load
        from qtot.evaluation.table import print_export

        run = load(self.run, which=self.which, trust=self.trust)
        parity = export(
            run, self.out, weights=self.weights, policy_seed=self.policy_seed, env=self.env
        )
        print_export(self.out, parity.to_dict(), played=self.weights != "float32")
        return 0


@dataclass(frozen=True)
class ImportPymarl(Process):
    """Make a run of what PyMARL or EPyMARL saved: agent.th, and mixer.th or critic.th beside it."""

    models: Annotated[str, Positional, arg(metavar="DIR")]
    """folder with agent.th; mixer.th makes it qmix or vdn, critic.th coma, neither iql"""
    out: Annotated[str, arg(metavar="RUN")]
    """new run folder, for eval, play, export and --init-agents"""
    env: Annotated[
        str | None, arg(metavar="ENV", help_behavior_hint="(default: unknown; name it later)")
    ] = None
    """environment that the agents were trained in, FAMILY/TASK or your own"""
    algo: Annotated[str | None, arg(help_behavior_hint="(default: what the files say)")] = None
    """method, where that is another"""
    n_agents: Annotated[int | None, arg(help_behavior_hint="(default: what the mixer says)")] = None
    """agents of the team, where neither a mixer nor --env says it"""
    inputs: Annotated[str | None, arg(help_behavior_hint="(default: what fits --env)")] = None
    """what the agents were fed: obs, obs+last_action, obs+agent_id or obs+last_action+agent_id
    (PyMARL's default), where --env does not say it"""

    def execute(self) -> int:
        """Imports, and says what was found."""
        self.prepare()
        from qtot.api import import_pymarl

        run = import_pymarl(
            self.models,
            self.out,
            env=self.env,
            algo=self.algo,
            n_agents=self.n_agents,
            inputs=self.inputs,
        )
        spec, agent = run.spec, run.config.agent
        parts = ("obs", *(["prev_action"] * agent.prev_action), *(["agent_id"] * agent.agent_id))
        print(  # noqa: T201
            f"{run.config.algo}: {spec.n_agents} agents, {spec.max_actions} actions, observations "
            f"of {spec.obs_size}, state of {spec.state_size}; inputs {' + '.join(parts)}; "
            f"{agent.memory} of {agent.hidden}; written to {self.out}"
        )
        return 0

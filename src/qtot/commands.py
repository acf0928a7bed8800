"""The commands: train, resume, eval, play, report, watch, render, export, import-pymarl, envs,
reproduce, sweep, check-env.

A command is a dataclass of its flags, and what it does with them; those of ``train`` are generated
from ``TrainConfig``. JAX is imported by what they call, never by this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from qtot.config import TrainConfig
from qtot.envs.host.config import HostConfig
from qtot.reproduce import EXPERIMENTS
from qtot.tracking.base import Name
from qtot.validation import validate


@dataclass(frozen=True, kw_only=True)
class _Process:
    """Flags of every command that runs JAX."""

    no_cache: Annotated[bool, FlagCreatePairsOff] = False
    """keep no compiled programs on disk, and use none (see also QTOT_CACHE)"""
    no_tune: Annotated[bool, FlagCreatePairsOff] = False
    """leave devices, allocator and time-outs of the process as they are (see also QTOT_TUNE)"""

    def prepare(self) -> None:
        """Before anything else imports JAX."""
        from qtot.process import prepare

        prepare(tune=not self.no_tune, keep=not self.no_cache)


@dataclass(frozen=True, kw_only=True)
class _Training(_Process):
    """Flags of what trains."""

    quiet: Annotated[bool, FlagCreatePairsOff] = False
    """print nothing but errors"""
    hosts: Annotated[
        str | None, arg(metavar="HOSTS", help_behavior_hint="(default: this machine alone)")
    ] = None
    """train on several machines, one process each: ADDRESS:PORT,PROCESSES,INDEX with the address of
    process 0, which writes the run folder; or auto, where a cluster's manager says it all. All must
    see the run folder to resume"""
    debug_nans: Annotated[bool, FlagCreatePairsOff] = False
    """look for the operation that makes the first number that is none (NaN); slow"""
    track: Annotated[
        tuple[Name, ...],
        arg(help_behavior_hint="(default: none, or those that the run has)"),
    ] = ()
    """trackers that get the metrics, too; a run that goes on keeps those that it has, and one that
    sends what it gets (wandb, online) is then to be named again"""

    def meet(self) -> None:
        """The other processes, if there are any."""
        if self.hosts is not None:
            from qtot.training.hosts import join

            join(self.hosts)


WHICH = Literal["last", "best"]
TRUST = """import the code that the run folder names: its environment, where that is your own or
from pettingzoo/ or gym/, and a network of your own (--agent.module)"""


@dataclass(frozen=True)
class Train(_Training):
    """Train a team; --env, --algo, --preset and --data decide the defaults of the other flags."""

    config: Annotated[TrainConfig, arg(name="")]
    out: Annotated[
        str | None, arg(metavar="DIR", help_behavior_hint="(default: runs/ENV-ALGO-TIME)")
    ] = None
    """run folder, for the configuration, metrics and parameters"""

    def execute(self) -> int:
        """Checks the configuration, then hands it over."""
        config = validate(self.config)
        self.prepare()
        self.meet()
        from qtot.api import train_config

        train_config(
            config, self.out, quiet=self.quiet, debug_nans=self.debug_nans, track=self.track
        )
        return 0


@dataclass(frozen=True)
class Resume(_Training):
    """Go on with a run that was stopped, or take a finished one further."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """run folder, as 'qtot train' made it"""
    steps: Annotated[int | None, arg(help_behavior_hint="(default: as many as were asked for)")] = (
        None
    )
    """environment steps of each seed at the end"""
    reschedule: Annotated[bool, FlagCreatePairsOff] = False
    """let the learning rate's schedule end with the new steps; else it stays as it was"""
    env: Annotated[
        str | None, arg(metavar="ENV", help_behavior_hint="(default: the run's, unless your own)")
    ] = None
    """the run's environment, to be named again if it is your own, package.module:factory"""
    trust: Annotated[bool, FlagCreatePairsOff, arg(help=TRUST)] = False

    def execute(self) -> int:
        """Trains on."""
        self.prepare()
        self.meet()
        from qtot.api import resume

        resume(
            self.run,
            steps=self.steps,
            reschedule=self.reschedule,
            env=self.env,
            trust=self.trust,
            quiet=self.quiet,
            debug_nans=self.debug_nans,
            track=self.track,
        )
        return 0


@dataclass(frozen=True)
class Evaluate(_Process):
    """Play greedy episodes with the policy of a run."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """run folder, as 'qtot train' made it"""
    episodes: int = 256
    """episodes played by each seed's policy"""
    which: WHICH = "last"
    """parameters at the end of training, or of the best evaluation"""
    seed: int = 0
    """decides the episodes; held out from those of training"""
    env: Annotated[
        str | None, arg(metavar="ENV", help_behavior_hint="(default: the run's, unless your own)")
    ] = None
    """environment to play in; one of your own, package.module:factory, has to be named again, since
    a run folder's word is not enough to import code"""
    record: Annotated[int, arg(help_behavior_hint="(default: none)")] = 0
    """episodes of each seed to write into the run folder with all that its networks say of them,
    for 'qtot report'; the first of those that are played"""
    trust: Annotated[bool, FlagCreatePairsOff, arg(help=TRUST)] = False

    def execute(self) -> int:
        """Plays and prints."""
        self.prepare()
        from qtot.api import evaluate, load, record
        from qtot.evaluation.table import print_evaluation, print_records

        run = load(self.run, which=self.which, trust=self.trust)
        print_evaluation(evaluate(run, episodes=self.episodes, seed=self.seed, env=self.env))
        if self.record:
            recorded = record(run, self.record, seed=self.seed, env=self.env)
            print_records(str(run.path), [one._asdict() for one in recorded])
        return 0


POLICY_SEED = """seed of the run whose policies they are"""


@dataclass(frozen=True)
class Play(_Process):
    """Play greedy episodes, one line each; also with agents of several runs, or agents apart."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """run folder, as 'qtot train' made it"""
    episodes: int = 8
    """how many"""
    agents: Annotated[
        str | None, arg(metavar="A=RUN1,B=RUN2", help_behavior_hint="(default: all of RUN)")
    ] = None
    """agents that play for those of their names, from other runs"""
    decentralised: Annotated[bool, FlagCreatePairsOff] = False
    """each agent in a process of its own, which is sent nothing but its own observation and knows
    no JAX; their joint actions are compared with those that the agents choose together"""
    which: WHICH = "last"
    """parameters at the end of training, or of the best evaluation"""
    policy_seed: Annotated[
        int | None, arg(help=POLICY_SEED, help_behavior_hint="(default: the first)")
    ] = None
    seed: int = 0
    """decides the episodes; held out from those of training"""
    env: Annotated[
        str | None, arg(metavar="ENV", help_behavior_hint="(default: the run's, unless your own)")
    ] = None
    """another environment of the same shape; one of your own has to be named again"""
    trust: Annotated[bool, FlagCreatePairsOff, arg(help=TRUST)] = False

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
class Export(_Process):
    """Write each agent as a policy that acts alone: ONNX files, and what they expect."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """run folder, as 'qtot train' made it"""
    out: Annotated[str, arg(metavar="DIR")]
    """new folder for policy.json, and the networks as .onnx and .safetensors"""
    weights: Literal["float32", "float16", "int8"] = "float32"
    """float32 is exact; the others are smaller, and how often they act the same is measured in
    greedy episodes and written down"""
    which: WHICH = "last"
    """parameters at the end of training, or of the best evaluation"""
    policy_seed: Annotated[
        int | None, arg(help=POLICY_SEED, help_behavior_hint="(default: the first)")
    ] = None
    env: Annotated[
        str | None, arg(metavar="ENV", help_behavior_hint="(default: the run's, unless your own)")
    ] = None
    """environment to measure in, to be named again if it is your own"""
    trust: Annotated[bool, FlagCreatePairsOff, arg(help=TRUST)] = False

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
class ImportPymarl(_Process):
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


RUNS = """run folders, or folders in which they lie"""


@dataclass(frozen=True)
class Report(_Process):
    """One page of runs: curves over seeds, tables, and episodes to watch; it opens offline."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN...", help=RUNS)]
    out: Annotated[str, arg(metavar="FILE")] = "report.html"
    """the page; its numbers are written beside it, as .csv, .json and .marl-eval.json"""
    episodes: int = 2
    """recorded now where none were, of the first seed of every method on a task; 0: none"""

    def execute(self) -> int:
        """Writes it, and says where."""
        self.prepare()
        from qtot.api import report

        for path in report(self.runs, self.out, episodes=self.episodes):
            print(f"{path}  {path.stat().st_size:,} bytes")  # noqa: T201
        return 0


@dataclass(frozen=True)
class Watch:
    """Show that page while training goes on, in a browser on this machine."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN...", help=RUNS)]
    port: int = 0
    """of 127.0.0.1; 0: any that is free"""

    def execute(self) -> int:
        """Serves it until Ctrl-C."""
        from pathlib import Path

        from qtot.reporting.watch import watch

        watch([Path(run) for run in self.runs], self.port, lambda s: print(s, flush=True))  # noqa: T201
        return 0


@dataclass(frozen=True)
class Render(_Process):
    """One greedy episode as a moving picture."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """run folder, as 'qtot train' made it"""
    out: Annotated[str, arg(metavar="FILE")]
    """.gif, or .mp4 (with qtot[video])"""
    episode: int = 0
    """number of the episode, of those that 'qtot eval --record' recorded; recorded now if none
    were"""
    policy_seed: Annotated[
        int | None, arg(help=POLICY_SEED, help_behavior_hint="(default: the first)")
    ] = None
    fps: float = 8.0
    """steps per second"""
    env: Annotated[
        str | None, arg(metavar="ENV", help_behavior_hint="(default: the run's, unless your own)")
    ] = None
    """environment to play in, to be named again if it is your own"""
    trust: Annotated[bool, FlagCreatePairsOff, arg(help=TRUST)] = False

    def execute(self) -> int:
        """Draws it."""
        self.prepare()
        from qtot.api import load, render

        run = load(self.run, trust=self.trust)
        frames = render(
            run,
            self.out,
            episode=self.episode,
            policy_seed=self.policy_seed,
            fps=self.fps,
            env=self.env,
        )
        print(f"{self.out}: {frames} frames")  # noqa: T201
        return 0


@dataclass(frozen=True)
class Envs:
    """List the environments with their facts."""

    family: Annotated[
        str | None, Positional, arg(metavar="[FAMILY]", help_behavior_hint="(default: all)")
    ] = None
    """list one family only"""

    def execute(self) -> int:
        """Prints."""
        from qtot.listing import print_environments

        print_environments(self.family)
        return 0


ABOUT_EXPERIMENTS = "; ".join(
    f"{name}: {e.about}; {e.full} on 2 cores, with --quick {e.quick}"
    for name, e in EXPERIMENTS.items()
)


@dataclass(frozen=True)
class Reproduce(_Process):
    """Repeat a published experiment, and print its numbers beside the published ones."""

    experiment: Annotated[
        Literal[tuple(EXPERIMENTS)],  # pyright: ignore[reportInvalidTypeForm]
        Positional,
        arg(metavar="EXPERIMENT", help=ABOUT_EXPERIMENTS),
    ]
    quick: Annotated[bool, FlagCreatePairsOff] = False
    """a smaller form, of a few minutes on 2 cores"""
    seeds: Annotated[int | None, arg(help_behavior_hint="(default: the experiment's own)")] = None
    """independent seeds (of random-matrix: games of each size)"""
    out: Annotated[
        str | None,
        arg(metavar="DIR", help_behavior_hint="(default: runs/reproduce-EXPERIMENT[-quick])"),
    ] = None
    """folder for the page, its figure and numbers, and for runs that it can go on with"""

    def execute(self) -> int:
        """The exit code says whether what should come out came out."""
        self.prepare()
        from qtot.reproduce import reproduce

        return reproduce(self.experiment, quick=self.quick, seeds=self.seeds, out=self.out)


@dataclass(frozen=True)
class Sweep(_Process):
    """Train with one combination of settings after another, the next where the ones before say it
    may pay; needs qtot[sweep]. All flags of train are those of every trial. The same command again
    goes on.
    """

    config: Annotated[TrainConfig, arg(name="")]
    space: Annotated[tuple[str, ...], arg(metavar="FIELD=VALUES")]
    """what is searched: fields, named as the flags of train, with LOW..HIGH, LOW..HIGH:log or
    A,B,C, such as optimiser.lr=1e-4..3e-3:log mixer.embed=16,32,64"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for sweep.json, and a run folder for each trial"""
    trials: int = 20
    """in all, with those that are there"""
    jobs: Annotated[int | None, arg(help_behavior_hint="(default: one per core)")] = None
    """trials at once, each in a process of its own that has its share of the cores"""
    metric: Annotated[
        str | None, arg(help_behavior_hint="(default: eval/win_rate if there is one)")
    ] = None
    """key of metrics.jsonl; a trial's value is the mean of its last three, over all seeds"""
    goal: Literal["max", "min"] = "max"
    """whether more of it is better, or less"""
    prune: Annotated[bool, FlagCreatePairsOff] = False
    """stop trials that are worse than the median of those before them"""
    quiet: Annotated[bool, FlagCreatePairsOff] = False
    """print nothing but errors"""

    def execute(self) -> int:
        """The exit code says whether any trial has finished."""
        from qtot.space import parse_space

        space = parse_space(self.space, self.config)
        from pathlib import Path

        from qtot.sweeping.begin import sweep
        from qtot.sweeping.search import Settings

        done = sweep(
            Path(self.out),
            self.config,
            space,
            Settings(
                trials=self.trials,
                jobs=self.jobs,
                quiet=self.quiet,
                tune=not self.no_tune,
                keep=not self.no_cache,
            ),
            metric=self.metric,
            goal=self.goal,
            prune=self.prune,
        )
        return 0 if done.ranked() else 1


@dataclass(frozen=True)
class CheckEnv(_Process):
    """Play an environment at random and say what is wrong with it; exit code 1 if training breaks.

    Notices, which are right if they are meant, do not count.
    """

    target: Annotated[str, Positional, arg(metavar="TARGET")]
    """environment, FAMILY/TASK or your own"""
    host: HostConfig = field(default_factory=HostConfig)
    steps: Annotated[int | None, arg(help_behavior_hint="(default: some episodes' worth)")] = None
    """transitions to play (in each of 8 copies, where the environment is written in JAX)"""
    seed: int = 0
    """decides episodes and actions"""

    def execute(self) -> int:
        """Prints the report."""
        from qtot.envs import is_in_graph
        from qtot.envs.check_any import check_any

        if is_in_graph(self.target):
            self.prepare()
        report = check_any(self.target, steps=self.steps, seed=self.seed, config=self.host)
        print(report)  # noqa: T201
        return 0 if report.ok else 1


Command = (
    Train
    | Resume
    | Evaluate
    | Play
    | Report
    | Watch
    | Render
    | Export
    | ImportPymarl
    | Envs
    | Reproduce
    | Sweep
    | CheckEnv
)
COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "resume": Resume,
    "eval": Evaluate,
    "play": Play,
    "report": Report,
    "watch": Watch,
    "render": Render,
    "export": Export,
    "import-pymarl": ImportPymarl,
    "envs": Envs,
    "reproduce": Reproduce,
    "sweep": Sweep,
    "check-env": CheckEnv,
}

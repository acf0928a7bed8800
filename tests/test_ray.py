"""Collecting on Ray: the same data makes the same update, and actors may come and go."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtot
from extras import needs
from qtot.api import resume, train_config
from qtot.config import TrainConfig
from qtot.core.learner import PolicyParams
from qtot.core.replay import Replay
from qtot.envs.host.config import HostConfig
from qtot.envs.host.in_process import InProcess
from qtot.errors import QtotError
from qtot.training.acting import act_program, acting
from qtot.training.gather import Gatherer
from qtot.training.gathered import Gathered
from qtot.training.ingraph import Program
from qtot.training.onray import actors, joined
from qtot.training.ray_actor import Collecting, Job
from qtot.training.shown import Shown
from qtot.types import SequenceStart
from qtot.validation import validate
from ray_envs import Agree
from small import small_config

AGREE = "ray_envs:Agree"
SPEC = Agree.spec


def ray_config(**changes: Any) -> TrainConfig:
    host = HostConfig(workers=2, timeout_s=30.0, **changes.pop("host", {}))
    learned: dict[str, Any] = {"steps": 1_500, "exploration": {"start": 1.0, "end": 0.2}}
    return replace(small_config(AGREE, **learned | changes), collectors="ray", host=host)


# --- the data ---------------------------------------------------------------------------------


def test_a_segment_with_its_own_last_slot_is_a_row():
    ring = Replay.make(capacity=10, length=4, envs=3, whole_episodes=False, own_last=True)
    assert (ring.rows, ring.stride, ring.overlap) == (4, 5, False)
    whole = {"capacity": 10, "length": 4, "envs": 3, "whole_episodes": True}
    assert Replay.make(**whole, own_last=True) == Replay.make(**whole)


def job_of(
    config: TrainConfig, program: Program, place: int = 0, life: int = 0, begun: int = 0
) -> Job:
    return Job(
        make=cloudpickle.dumps(Agree),
        path=(),
        spec=SPEC,
        config=config,
        slots=program.collector.slots,
        envs=2,
        place=place,
        life=life,
        begun=begun,
        keep=False,
    )


BUSY: dict[str, Any] = {
    "agent": {"memory": "gru", "prev_action": True},
    "collect": {"envs": 2},
    "replay": {"length": 4, "batch": 4, "warmup": 1},
    "target": {"td_lambda": 0.7},
}


@pytest.mark.parametrize("time_limit", ["bootstrap", "end"])
def test_the_same_play_makes_the_same_update_as_on_this_machine(
    time_limit: str, quick_compile: None
):
    """Rollouts of an actor, in rows of their own, against those of the local path, where slot T of
    a row is the first of the next: both rings hold the same sequences, and learn the same.
    """
    target = {**BUSY["target"], "time_limit": time_limit}
    far = ray_config(**BUSY | {"target": target})
    near = replace(far, collectors="local")
    ours, theirs = (Program.make(Shown(SPEC), c) for c in (far, near))
    state = jax.jit(ours.init_seed)(jnp.int32(0))
    policy = jax.tree.map(lambda x: np.asarray(x)[None], state.train)
    leaves = jax.tree.leaves(acting(ours.collector, PolicyParams.of(policy)))
    steps = np.zeros(1, np.int32)

    actor = Collecting(job_of(far, ours))
    noises = []
    for _ in range(3):
        noises.append(actor._noise())
        actor.played += 1
    actor.played = 0
    pool = InProcess(Agree, SPEC, far.host, slots=4, groups=[(0, 1)], whole=False)
    sizes = {"seeds": 1, "seed": 0, "groups": 1}
    size = state.actors.memory.shape[-1]
    gatherer = Gatherer(pool, theirs.collector, **sizes, memory_size=size)
    act = act_program(theirs.collector, PolicyParams.of(policy), 1, "float32")

    rings: list[Any] = []
    for program, rollouts in (
        (ours, [actor.gather(leaves, steps).rollout for _ in range(3)]),
        (
            theirs,
            [gatherer.gather(act, leaves, steps, n) for n in noises],
        ),
    ):
        learning = program.from_replay
        shapes = jax.jit(program.init_seed)(jnp.int32(0))

        @jax.jit
        def stored(seed: Any, ring: Any, rollout: Gathered, learning: Any = learning) -> Any:
            after, slots, start, _ = jax.tree.map(lambda x: x[0], rollout)
            if len(slots.reward) < learning.ring.stride:
                slots = learning.parts.with_last(jax.random.key(0), after, seed.train, slots)
            return learning.ring.add(ring, *learning._stored(slots, start))

        ring = shapes.replay
        for rollout in rollouts:
            ring = stored(state, ring, rollout)
        rings.append((learning, ring))

    rows, envs = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
    batches = [x.ring.read(r, rows, envs) for x, r in rings]
    batches = [b._replace(slots=x.codec.decode(b.slots)) for b, (x, _) in zip(batches, rings)]  # noqa: B905
    a, b = batches
    assert a.slots.reward.shape == (5, 4)
    assert a.slots.reward.any() and not a.slots.valid.all()

    def known(batch: Any) -> Any:
        """What the last slot, which is no transition, says of one is another row's."""
        slots = batch.slots
        theirs = {name: getattr(slots, name) for name in ("action", "reward", "terminated")}
        cleared = {name: x.at[-1].set(jnp.zeros_like(x[-1])) for name, x in theirs.items()}
        return batch._replace(slots=slots._replace(**cleared))

    same(known(a), known(b))
    update = jax.jit(ours.learner.update)
    same(update(state.train, a), update(state.train, b))


def same(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


STRANGERS = ((0, 0), (1, 0), (0, 1), (0, 0, 500))
"""by place, life, and the step from which the run goes on"""


def test_no_two_actors_play_the_same_and_a_new_one_goes_on_otherwise():
    config = ray_config(**BUSY)
    program = Program.make(Shown(SPEC), config)
    played = [Collecting(job_of(config, program, *who)) for who in STRANGERS]
    salts = np.concatenate([actor.pool.board.salt for actor in played])
    assert len(np.unique(salts, axis=0)) == len(salts) == 8
    noises = [actor._noise() for actor in played]
    played[0].played = 1
    noises.append(played[0]._noise())
    assert len({noise.tobytes() for noise in noises}) == 5


def test_rollouts_are_joined_along_their_environments():
    def one(k: int) -> Gathered:
        after: Any = np.full((2, 3), k)
        slots: Any = np.full((2, 4, 3, 5), k)
        start = SequenceStart(after, after)  # pyright: ignore[reportArgumentType]
        return Gathered(after, slots, start, np.full(2, k))  # pyright: ignore[reportArgumentType]

    both: Any = joined([one(1), one(2)])
    assert both.slots.shape == (2, 4, 6, 5) and (both.slots[:, :, 3:] == 2).all()
    np.testing.assert_array_equal(both.after, [[1, 1, 1, 2, 2, 2]] * 2)
    np.testing.assert_array_equal(both.tally, [3, 3])


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"), [(-1, 5, 4), (-1, 64, 8), (3, 64, 2), (8, 1, 8)]
)
def test_actors_divide_the_environments(workers: int, cpus: int, expected: int):
    config = ray_config(collect={"envs": 8})
    assert actors(replace(config, host=HostConfig(workers=workers)), cpus) == expected


# --- mistakes -----------------------------------------------------------------------------------


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = ray_config()
    with pytest.raises(QtotError, match=r"host\.workers 0"):
        validate(replace(config, host=HostConfig(workers=0)))
    away = replace(config, ray_address="127.0.0.1:9")
    with pytest.raises(QtotError, match=r"cannot join Ray at 127\.0\.0\.1:9: .*--ray-address"):
        train_config(away, tmp_path / "c", quiet=True)
    with pytest.raises(QtotError, match="ray_address 'auto' is for --collectors ray"):
        validate(replace(config, collectors="local", ray_address="auto"))
    in_graph = replace(small_config("probe/chain"), collectors="ray")
    with pytest.raises(QtotError, match=r"probe/chain is written in JAX.*--hosts"):
        train_config(in_graph, tmp_path / "a", quiet=True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(QtotError, match=r"pip install 'qtot\[ray\]'"):
        train_config(config, tmp_path / "b", quiet=True)
    assert not any(tmp_path.iterdir())


def test_parameters_are_saved_when_environments_fail_for_good(tmp_path: Path):
    """Wherever they are stepped; here, in this process."""
    flag = tmp_path / "flag"
    config = replace(ray_config(), collectors="local", host=HostConfig(workers=0))

    class Ends(Agree):
        steps = 0

        def step(self, actions: Any) -> Any:
            Ends.steps += 1
            self.broken = str(flag) if Ends.steps > 700 else ""
            return super().step(actions)

    flag.touch()
    with pytest.raises(QtotError, match="this world has ended"):
        train_config(config, tmp_path / "run", env=Ends, quiet=True)
    assert (tmp_path / "run" / "params" / "seed-0" / "last.npz").is_file()
    reached = qtot.load(tmp_path / "run").metrics()[-1]
    assert 0 < reached["env_steps"] < config.steps
    flag.unlink()  # once that is mended, it goes on
    (row,) = resume(tmp_path / "run", env=Agree, quiet=True).result()
    assert row["env_steps"] >= config.steps and row["updates"] > reached["updates"]
    assert row["env_failures"] >= config.host.failures


# --- with Ray ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In the environment of all that Ray starts for these tests."""
    name = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QTOT_TEST_RAY", name)
        patch.setenv("QTOT_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield name


def started(mark: str) -> list[str]:
    """Commands of the processes that live and have the mark, without this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                folder.name != str(os.getpid())
                and mark.encode() in (folder / "environ").read_bytes()
            ):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def gone(mark: str) -> bool:
    """Whether nothing lives any more, after a moment."""
    for _ in range(50):
        if not started(mark):
            return True
        time.sleep(0.2)
    return False


@pytest.mark.long
@needs("ray")
def test_a_task_is_learned_through_two_actors_and_nothing_stays(tmp_path: Path, mark: str):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    config = ray_config(optimiser={"lr": 1e-2}, log_every=500, steps=2_500)
    run = train_config(config, tmp_path / "run", quiet=True)
    (row,) = run.result()
    assert row["eval/return"] == 3.0
    assert row["env_failures"] == row["discarded_episodes"] == 0
    (longer,) = resume(run.path, steps=3_000, trust=True, quiet=True).result()
    assert longer["env_steps"] >= 3_000 and longer["eval/return"] == 3.0
    assert longer["updates"] > row["updates"]
    assert signal.getsignal(signal.SIGINT) == before[0]
    assert gone(mark), started(mark)


@pytest.fixture
def cluster(mark: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that steps nothing, and three machines; on the loopback device only."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    # Ray would look for the loopback device's address at that of another.
    monkeypatch.setattr("ray._private.services.get_node_ip_address", lambda *_: "127.0.0.1")
    here = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **here})
    made.nodes = [made.add_node(num_cpus=1, **here) for _ in range(3)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()
    assert gone(mark), started(mark)


@pytest.mark.long
@needs("ray")
@pytest.mark.filterwarnings("ignore")
def test_on_a_cluster(tmp_path: Path, cluster: Any):
    """In one test, for a cluster takes long to start: the update ratio does not depend on how many
    actors there are; a machine is lost while a run goes on, and its actor begins anew on another;
    where there is no place for any, the run ends and is saved.
    """
    import ray

    ratio = []
    for many in (1, 2):
        config = ray_config(collect={"update_ratio": 0.05}, steps=1_000)
        config = replace(config, host=replace(config.host, workers=many))
        (row,) = train_config(config, tmp_path / f"run{many}", quiet=True).result()
        ratio.append(row["updates"] / row["env_steps"])
        assert row["updates"] == pytest.approx(0.05 * (row["env_steps"] - 16), abs=3)
    assert ratio[0] == pytest.approx(ratio[1], rel=0.05)
    assert ray.is_initialized()  # it was not ours

    slow = partial(Agree, pause=0.002)
    loss = threading.Thread(
        target=lose_a_machine, args=(cluster, tmp_path / "lossy" / "metrics.jsonl")
    )
    config = ray_config(steps=8_000, log_every=500)
    loss.start()
    (row,) = train_config(config, tmp_path / "lossy", env=slow, quiet=True).result()
    loss.join()
    assert row["env_steps"] >= 8_000
    assert row["discarded_episodes"] == 4
    assert row["env_failures"] >= 1  # more, if Ray tries the lost machine again

    class Holder:
        """Takes a CPU."""

        def there(self) -> bool:
            return True

    held = ray.remote(num_cpus=1)(Holder)
    holders = [held.remote() for _ in range(2)]
    ray.get([holder.there.remote() for holder in holders])
    config = replace(config, host=replace(config.host, timeout_s=0.5))
    with pytest.raises(QtotError, match=r"none of 2 Ray actors could be begun within 2\.5 s"):
        train_config(config, tmp_path / "none", quiet=True)
    assert (tmp_path / "none" / "params" / "seed-0" / "last.npz").is_file()


def lose_a_machine(cluster: Any, metrics: Path) -> None:
    """The first on which an actor is, once it plays."""
    from ray._private.state import available_resources_per_node

    while not (metrics.exists() and metrics.read_text()):
        time.sleep(0.2)
    free = available_resources_per_node()
    used = [node for node in cluster.nodes if free[node.node_id].get("CPU", 0) < 1]
    cluster.remove_node(used[0], allow_graceful=False)


@pytest.mark.long
@needs("ray")
def test_an_environment_that_fails_for_good_is_told_of(tmp_path: Path, mark: str):
    flag = tmp_path / "flag"
    flag.touch()
    config = ray_config(host={"args": (f"broken={flag}",)})
    with pytest.raises(
        QtotError, match=r"(Ray actor \d .*|environments )failed 5 times.*this world has ended"
    ):
        train_config(config, tmp_path / "run", quiet=True)
    assert gone(mark), started(mark)

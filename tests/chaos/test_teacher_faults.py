"""The worker's way to the teacher through faults: the transfer set is the one that there would have been.

A real teacher process, a proxy that breaks its traffic, and the real stage or a real job that asks.
"""

import hashlib
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from services.worker.protocol import ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from services.worker.stages.transfer_sets.stage import ask_teacher
from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import JobState
from shared.contracts.specs import TransferSetJobSpec
from shared.contracts.training import Asking, TransferSetSpec
from shared.jobs.service import new_job_id
from tests.chaos import faults
from tests.chaos.conftest import FULL
from tests.chaos.faults import FaultProxy
from tests.support.teachers import CLASSES, publish, random_images, random_tensors, start_teacher, stop
from tests.support.worker_jobs import Jobs
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = pytest.mark.integration

IMAGES = random_images(5_000)
SPEC = TransferSetSpec(views=2, jitter_px=1, flip=True)
LONG = TransferSetSpec(views=4, jitter_px=1, flip=True)
NUMBERS = itertools.count()
TOGETHER = (
    [(fault,) for fault in (*faults.NETWORK, *faults.WRONG)] if FULL else [faults.NETWORK, faults.WRONG]
)
"""Faults that strike in turn while one set is built."""

Files = dict[str, str]
"""SHA-256 of each shard."""


@dataclass
class World:
    """A store, the teacher in a process of its own, and the proxy before it."""

    state_dir: Path
    proxy: FaultProxy

    def __post_init__(self) -> None:
        self.settings = WorkerSettings(state_dir=self.state_dir, device="cpu")
        self.store = ArtefactStore(self.settings.store_dir)
        self.sets = self.settings.store_dir / "transfer_sets"
        self.teacher = publish(self.settings.store_dir, "owl", tensors=random_tensors(seed=3))
        splits = {"train": Split(IMAGES, None), "test": Split(IMAGES[:4], np.arange(4))}
        self.manifest = self.store.datasets.put("noise", splits, classes=CLASSES, source="a test")
        self.process, url = start_teacher(self.state_dir)
        self.proxy.target = port_of(url)

    def restart(self) -> None:
        """Start the teacher again, elsewhere, behind the same address."""
        self.process, url = start_teacher(self.state_dir)
        self.proxy.target = port_of(url)

    def build(self, asked: TransferSetSpec = SPEC, **options: float) -> Files:
        """Build the transfer set with nothing there, by the stage of a job; return its files."""
        shutil.rmtree(self.sets, ignore_errors=True)
        spec = TransferSetJobSpec(name="asked", teacher="owl", dataset="noise", transfer_set=asked)
        order = ChildOrder(job_id=f"j{next(NUMBERS)}", epoch=1, attempts=1, spec=spec)
        context = JobContext(order, self.settings, self.store, lambda _message: None)
        with TeacherClient(self.proxy.url, **{"timeout_s": 0.5, **options}) as client:
            ask_teacher(
                context, asked, "noise", self.manifest, self.teacher, client, temperature=4.0, asking=Asking()
            )
        return self.files()

    def files(self) -> Files:
        (folder,) = self.sets.iterdir()
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("shard-*"))
        }


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with FaultProxy(0) as proxy:
        world = World(tmp_path_factory.mktemp("faults"), proxy)
        yield world
        stop(world.process)


@pytest.fixture
def jobs(world: World, redis_url: str) -> Iterator[Jobs]:
    store, dispatcher = RedisJobStore(redis_url), CeleryDispatcher(redis_url)
    yield Jobs(store, dispatcher, world.state_dir)
    dispatcher.close()
    store.close()


@pytest.fixture
def worker(world: World, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker that really asks, on the world's store."""
    monkeypatch.setenv("TEACHER_URL", world.proxy.url)
    worker = WorkerProcess(
        redis_url, world.state_dir, training_module="services.worker.training_process", threads=1
    )
    worker.wait_until_ready()
    yield
    worker.close()


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Files:
    return world.build()


@pytest.mark.parametrize("met", TOGETHER, ids=lambda met: "-".join(fault.__name__ for fault in met))
def test_the_transfer_set_is_the_same_through_every_fault(world, undisturbed, sized, told, met):
    runs = sized(1, 3)
    equal, struck = 0, world.proxy.struck
    began = time.monotonic()
    for run in range(runs):
        with world.proxy.during(*met, every=3 + run % 2):
            equal += world.build() == undisturbed
    struck = world.proxy.struck - struck
    told(
        1,
        f"teacher behind a proxy: {', '.join(fault.__name__.replace('_', ' ') for fault in met)}",
        f"{equal} of {runs} transfer sets equal byte for byte, {struck} requests struck, "
        f"{(time.monotonic() - began) / runs:.1f} s each",
        f"{runs} of {runs}",
        held=equal == runs and struck >= runs * len(met),
    )


def test_a_teacher_that_is_killed_in_mid_build_and_started_again_changes_nothing(
    world, undisturbed, sized, told
):
    runs = sized(1, 5)
    equal, waits = 0, []
    for run in range(runs):
        found: list[Files] = []
        before = world.proxy.questions
        with world.proxy.during(faults.latency):  # so that there is a middle
            building = threading.Thread(target=lambda kept=found: kept.append(world.build(timeout_s=5)))
            building.start()
            eventually(lambda at=before + 3 + run: world.proxy.questions > at, 30, "the build is under way")
            world.process.kill()
            world.process.wait()
        world.restart()
        back = time.monotonic()
        building.join(60)
        waits.append(time.monotonic() - back)
        equal += found == [undisturbed]
    told(
        1,
        "teacher killed with SIGKILL in mid-build and started again",
        f"{equal} of {runs} transfer sets equal, done {max(waits):.1f} s after it was back",
        f"{runs} of {runs}",
        held=equal == runs,
    )


def test_a_job_waits_for_a_teacher_that_fails_and_ends_by_itself_without_a_storm(
    world: World, worker, jobs: Jobs, sized, told
):
    """Everything fails for a while, health too; then nothing does."""
    outage_s = sized(2.0, 20.0)
    before = world.proxy.questions
    undisturbed = world.build(LONG)
    without = world.proxy.questions - before
    shutil.rmtree(world.sets, ignore_errors=True)
    spec = TransferSetJobSpec(name="asked", teacher="owl", dataset="noise", transfer_set=LONG)
    before, probes = world.proxy.questions, world.proxy.probes
    with world.proxy.during(faults.latency):
        job, _ = jobs.store.submit(new_job_id(), spec)
        jobs.dispatcher.send(job.id)
        eventually(lambda: world.proxy.questions > before + 3, 60, "the job asks")
        world.proxy.begin(faults.reset, health_too=True)
        time.sleep(outage_s)
        in_outage = world.proxy.questions - before
    ended = jobs.final(job.id, 60)
    calls, probes = world.proxy.questions - before, world.proxy.probes - probes
    equal = world.files() == undisturbed
    told(
        1,
        f"proxy fails 100 % for {outage_s:.0f} s in mid-job",
        f"job {ended.state}, its set {'' if equal else 'not '}equal, {calls} calls in place of {without} "
        f"({calls / without:.2f} x; {in_outage} until the end of the outage, {probes} health probes)",
        "succeeded, <= 1.2 x",
        held=ended.state is JobState.SUCCEEDED and equal and calls <= 1.2 * without,
    )

"""Half an hour of steady, modest work by everybody at once: nothing fails, and nothing grows.

Redis, teacher, gateway and worker as real processes, with keys; predictions, jobs that ask the teacher,
uploads, promotions, lists. `IMAGO_CHAOS_SOAK_S` sets the seconds. It runs beside the other chapters and
leaves them most of the machine.
"""

import io
import itertools
import os
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from shared.artefacts.datasets import Split
from shared.artefacts.keys import KeyStore
from shared.artefacts.store import ArtefactStore
from shared.client import Client, Retries
from shared.contracts.jobs import JobState
from shared.contracts.keys import KeyLimits, KeyRequest, Scope
from shared.contracts.specs import TransferSetJobSpec
from shared.contracts.training import TransferSetSpec
from tests.chaos.conftest import FULL
from tests.support.gateway_in_process import image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.promotions import publish_students
from tests.support.redis_server import RedisServer
from tests.support.teachers import CLASSES, publish, random_images, start_teacher, stop
from tests.support.warm_jobs import warm_jobs
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = pytest.mark.integration

MIB = 2**20
GROWTH_SHARE = 0.05
GROWTH_BYTES = 8 * MIB
"""What a process may grow by after its warm-up: more than noise, far less than a leak of each request."""
MORE_DESCRIPTORS = 4


@dataclass
class Watched:
    """One service: its processes, and what was seen of them."""

    name: str
    pids: list[int]
    times: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    """In bytes, of all its processes."""
    descriptors: list[float] = field(default_factory=list)

    def sample(self) -> None:
        processes = [psutil.Process(pid) for pid in self.pids]
        self.times.append(time.monotonic())
        self.rss.append(sum(process.memory_info().rss for process in processes))
        self.descriptors.append(sum(process.num_fds() for process in processes))

    def after_warm_up(self) -> slice:
        return slice(len(self.times) // 3, None)

    @property
    def growth(self) -> float:
        """Bytes that it grew by after its first third, by the median of the slopes between any two samples.

        Source: Sen (1968), "Estimates of the regression coefficient based on Kendall's tau".
        """
        part = self.after_warm_up()
        step = max(1, len(self.times[part]) // 200)
        times, rss = np.array(self.times[part])[::step], np.array(self.rss[part])[::step]
        first, second = np.triu_indices(len(times), 1)
        slope = np.median((rss[second] - rss[first]) / (times[second] - times[first]))
        return float(slope * (times[-1] - times[0]))

    @property
    def more_descriptors(self) -> float:
        """Descriptors in the last quarter less those in the first after its warm-up, by their medians."""
        found = self.descriptors[self.after_warm_up()]
        quarter = max(1, len(found) // 4)
        return float(np.median(found[-quarter:]) - np.median(found[:quarter]))

    @property
    def is_flat(self) -> bool:
        bound = max(GROWTH_BYTES, GROWTH_SHARE * np.median(self.rss[self.after_warm_up()]))
        return self.growth < bound and self.more_descriptors <= MORE_DESCRIPTORS

    def __str__(self) -> str:
        hours = (self.times[-1] - self.times[self.after_warm_up().start]) / 3600
        return (
            f"{self.name} {np.median(self.rss) / MIB:.0f} MiB {self.growth / MIB:+.1f} "
            f"({self.growth / MIB / hours:+.0f}/h), fds {np.median(self.descriptors):.0f} "
            f"{self.more_descriptors:+.0f}"
        )


class Load:
    """Threads that each do one thing again and again, and note what went wrong."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self._threads: list[threading.Thread] = []

    def repeat(self, name: str, every_s: float, work: Callable[[int], None]) -> None:
        def run() -> None:
            due = time.monotonic()
            for turn in itertools.count():
                if self.over.wait(max(0.0, due - time.monotonic())):
                    return
                due = max(due + every_s, time.monotonic())  # who is late does not hurry afterwards
                try:
                    work(turn)
                    self.done[name] += 1
                except Exception as error:  # noqa: BLE001 - each one counts
                    self.errors.append(f"{name}: {type(error).__name__}: {error}")

        self._threads.append(threading.Thread(target=run, name=name))
        self._threads[-1].start()

    def end(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(120)


@dataclass
class Stack:
    """All that runs, and keys for it."""

    gateway: GatewayProcess
    watched: list[Watched]
    admin: str
    predict: str
    jobs: str
    versions: tuple[str, ...]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    if FULL:
        os.nice(10)  # beside the other chapters; a process of its own runs this one
    store = ArtefactStore(tmp_path / "store")
    keys = KeyStore(store.root)

    def key(*scopes: Scope, **limits: int) -> str:
        wanted = KeyRequest(name="soak", owner="soak", scopes=scopes, limits=KeyLimits(**limits))
        return keys.make(wanted).key

    # Before the gateway starts, which then knows them from its first request on.
    admin, predict, jobs = key(Scope.ADMIN), key(Scope.PREDICT), key(Scope.JOBS, Scope.UPLOAD)
    service = tmp_path / "service.key"
    service.write_text(key(Scope.TEACH, teacher_rows=10**9))
    monkeypatch.setenv("IMAGO_AUTH", "keys")
    monkeypatch.setenv("TEACHER_KEY_FILE", str(service))
    publish(store.root, "owl")
    splits = {"train": Split(random_images(1_500), None), "test": Split(random_images(4), np.arange(4))}
    store.datasets.put("noise", splits, classes=CLASSES, source="a test")
    store.owners.add("teachers", "owl", "soak")
    store.owners.add("datasets", "noise", "soak")
    students = publish_students(store, good=2)
    with ExitStack() as running:
        redis = RedisServer(tmp_path / "redis")
        redis.directory.mkdir()
        redis.start()
        running.callback(redis.stop)
        teacher, teacher_url = start_teacher(tmp_path)
        running.callback(stop, teacher)
        monkeypatch.setenv("TEACHER_URL", teacher_url)
        module = running.enter_context(
            warm_jobs(tmp_path, "shared.transfer_set.writer", "services.worker.kinds.transfer_set")
        )
        worker = WorkerProcess(redis.url, tmp_path, training_module=module, threads=1, lease_s=15)
        running.callback(worker.close)
        gateway = GatewayProcess(
            tmp_path, redis.url, IMAGO_AUTH="keys", TEACHER_URL=teacher_url, TEACHER_KEY_FILE=str(service)
        ).start()
        running.callback(gateway.stop)
        worker.wait_until_ready()
        assert redis.process is not None
        assert gateway.process is not None
        roots = {
            "redis": redis.process.pid,
            "teacher": teacher.pid,
            "gateway": gateway.process.pid,
            "worker": worker.process.pid,
        }
        yield Stack(
            gateway,
            [
                Watched(name, [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))])
                for name, pid in roots.items()
            ],
            admin,
            predict,
            jobs,
            students.versions,
        )


def archive(turn: int) -> bytes:
    """Return a small dataset of its own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for split, label, number in itertools.product(("train", "test"), "01", range(4)):
            made.writestr(f"{split}/{label}/{number}.png", image_file(seed=100 * turn + number))
    return file.getvalue()


def test_a_steady_load_grows_nothing_and_fails_nothing(stack: Stack, sized, told, tmp_path: Path):
    seconds = float(os.environ.get("IMAGO_CHAOS_SOAK_S", sized("8", "1800")))
    once = Retries(attempts=1)
    load = Load()
    with (
        Client(stack.gateway.url, key=stack.predict, retries=once) as predicting,
        Client(stack.gateway.url, key=stack.jobs, retries=once) as submitting,
        Client(stack.gateway.url, key=stack.admin, retries=once) as deciding,
    ):
        images = [image_file(seed=seed) for seed in range(16)]

        def job(turn: int) -> None:
            """Ask the teacher about 3,000 images or more, and forget what it said."""
            views = TransferSetSpec(views=2 + turn % 2, jitter_px=1, seed=turn)
            spec = TransferSetJobSpec(name="asked", teacher="owl", dataset="noise", transfer_set=views)
            ended = submitting.wait(submitting.submit(spec).id)
            assert ended.state is JobState.SUCCEEDED, ended.failure
            assert ended.result is not None
            deciding.delete_transfer_set(ended.result.transfer_set)

        def upload(turn: int) -> None:
            path = tmp_path / f"{turn}.zip"
            path.write_bytes(archive(turn))
            submitting.add_dataset(f"small-{turn}", [path])
            path.unlink()

        def look(_turn: int) -> None:
            submitting.jobs()
            deciding.students()
            deciding.transfer_sets()
            deciding.teachers()
            deciding.keys()

        load.repeat("predictions", 0.05, lambda turn: predicting.predict(images[turn % 16]))
        load.repeat("jobs", 5.0, job)
        load.repeat("uploads", 5.0, upload)
        load.repeat("promotions", 2.0, lambda turn: deciding.promote(stack.versions[turn % 2]))
        load.repeat("looks", 2.0, look)
        began, before = time.monotonic(), busy_s(stack)
        try:
            while time.monotonic() < began + seconds:
                for watched in stack.watched:
                    watched.sample()
                time.sleep(min(2.0, seconds / 30))
            cores = (busy_s(stack) - before) / (time.monotonic() - began)
            eventually(lambda: len(load.done) == 5 or load.errors, 60, "each thing was done once")
        finally:
            load.end()
    work = ", ".join(f"{count:,} {name}" for name, count in sorted(load.done.items()))
    told(
        6,
        f"soak of {seconds / 60:.0f} min with {cores:.2f} cores of services: errors",
        f"{len(load.errors)} in {work}" + "".join(f"; {error}" for error in load.errors[:3]),
        "0",
        held=not load.errors,
    )
    flat = seconds >= 300  # before, all of it is warm-up
    told(
        6,
        f"soak of {seconds / 60:.0f} min: memory and descriptors after the first third",
        "; ".join(map(str, stack.watched)),
        f"each < {GROWTH_BYTES // MIB} MiB or {GROWTH_SHARE:.0%}, fds <= +{MORE_DESCRIPTORS}"
        if flat
        else "told only: all of so short a time is warm-up",
        held=not flat or all(watched.is_flat for watched in stack.watched),
    )


def busy_s(stack: Stack) -> float:
    """Return the seconds of CPU that the services have used, jobs aside."""
    times = [psutil.Process(pid).cpu_times() for watched in stack.watched for pid in watched.pids]
    return sum(spent.user + spent.system for spent in times)

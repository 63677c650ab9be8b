"""A training that cannot go on ends by its name, leaves its last good checkpoint, and harms nobody else."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.worker.child import TrainingProcess
from services.worker.protocol import EXIT_STOPPED, ChildOrder
from shared.adapters.redis_jobs import RedisJobStore
from shared.artefacts.checkpoints import Checkpoint, last_checkpoint
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import JobState, JobView
from shared.contracts.specs import TeacherSpec
from shared.contracts.training import Budget, Regularisation
from shared.jobs.service import new_job_id
from tests.chaos.fleet import Fleet
from tests.support.distilling import SHAPES, shapes
from tests.support.redis_server import RedisServer
from tests.support.teachers_at_rest import publish_teacher
from tests.support.warm_jobs import warm_jobs
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = pytest.mark.integration

STEPS = 10
"""Of an epoch: 400 images, 40 a step."""
TEACHER = TeacherSpec(
    name="fine",
    dataset="shapes",
    architecture=Mlp(hidden_units=(32,)),
    regularisation=Regularisation(),
    budget=Budget(epochs=3, batch_size=40),
)
# A checkpoint whenever twenty times what it cost has passed, at any step.
OFTEN = {"checkpoint_s": 1e-6, "threads": 1, "device": "cpu"}


def add_shapes(store: ArtefactStore) -> None:
    splits = {"train": shapes(400, 1), "validation": shapes(200, 2), "test": shapes(400, 3)}
    store.datasets.put("shapes", splits, classes=SHAPES, source="made up")


class Trainings:
    """Jobs that train on one worker; how they break is in their names."""

    def __init__(self, fleet: Fleet, **settings: object) -> None:
        self.fleet = fleet
        self.store = ArtefactStore(fleet.state_dir / "store")
        add_shapes(self.store)
        self.worker: WorkerProcess = fleet.start(**OFTEN | settings).wait_until_ready()

    def end(self, name: str, **changes: Any) -> JobView:
        """Train, and return how the job ended."""
        spec = TEACHER.model_copy(update={"name": name, **changes})
        return self.fleet.final(self.fleet.submit_unchecked(spec), within_s=120)

    def checkpoint(self, job: JobView) -> Checkpoint | None:
        """Return the newest whole checkpoint that the job left."""
        return last_checkpoint(self.store.job(job.id).checkpoints)

    def still_works(self) -> bool:
        """Tell whether the same worker process trains the next job to its end."""
        alive = self.worker.process.poll() is None
        return alive and self.end("fine").state is JobState.SUCCEEDED


def says_where_the_checkpoint_is(job: JobView, found: Checkpoint | None) -> bool:
    assert job.failure is not None
    words = f"the last good checkpoint is {found.name}" if found else "no checkpoint was made"
    return words in job.failure.detail


def steps_done(found: Checkpoint | None) -> int:
    if found is None:
        return 0
    return STEPS * int(str(found.state["epoch"])) + int(str(found.state["step"]))


@pytest.fixture
def fleet(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(redis_server, tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warm_jobs(tmp_path_factory.mktemp("warm"), "tests.chaos.broken_training") as module:
        yield module


@pytest.fixture
def trainings(fleet: Fleet, warm: str) -> Trainings:
    return Trainings(fleet, training_module=warm)


def test_a_loss_or_a_device_that_gives_out_ends_the_job_by_its_name(
    trainings: Trainings,
    sized: Callable[[range, range], range],
    told: Callable[..., None],
) -> None:
    """NaN at many steps: it is seen at that very step, and no checkpoint knows it."""
    steps = sized(range(0, 3 * STEPS, 14), range(0, 3 * STEPS - 1, 3))
    named = kept = said = 0
    for step in steps:
        job = trainings.end(f"nan-{step}")
        assert job.failure is not None
        found = trainings.checkpoint(job)
        where = f"step {step % STEPS + 1} of epoch {step // STEPS + 1}"
        named += job.failure.code == "diverged" and where in job.failure.detail
        kept += steps_done(found) <= step and (found is not None or step < STEPS)
        said += says_where_the_checkpoint_is(job, found)
    works = trainings.still_works()
    told(
        2,
        f"NaN at {len(steps)} different steps of a training",
        f"{named} diverged at that step, {kept} with only good checkpoints, {said} tell the last; "
        f"the next job {'succeeds' if works else 'fails'}",
        "all, and it succeeds",
        held=named == kept == said == len(steps) and works,
    )


def test_memory_that_gives_out_ends_the_job_by_its_name_and_the_next_succeeds(
    trainings: Trainings, sized: Callable[[int, int], int], told: Callable[..., None]
) -> None:
    steps = sized(1, 20)
    named = said = next_ones = 0
    for step in range(1, steps + 1):
        for kind in ("cuda", "host") if step == 1 else ("cuda",):
            job = trainings.end(f"{kind}-{step}")
            assert job.failure is not None
            named += (job.failure.code, job.attempts) == ("out-of-memory", 1)
            said += says_where_the_checkpoint_is(job, trainings.checkpoint(job))
        next_ones += trainings.still_works()
    told(
        2,
        f"CUDA or the machine without memory, {steps + 1} times",
        f"{named} out-of-memory after 1 attempt, {said} tell the checkpoint; "
        f"{next_ones} of {steps} next jobs succeed",
        "all",
        held=(named, said, next_ones) == (steps + 1, steps + 1, steps),
    )


def test_a_training_beyond_its_limit_is_killed_and_the_worker_lives(
    fleet: Fleet, told: Callable[..., None]
) -> None:
    """Not warm: what is watched is the process that the worker has started."""
    trainings = Trainings(fleet, training_module="tests.chaos.broken_training", memory_limit="700m")
    job = trainings.end("hog-4000")
    assert job.failure is not None
    words = job.failure.detail
    works = trainings.still_works()
    told(
        2,
        "a training that takes 4,000 MiB of the 700 MiB it may",
        f"{job.failure.code}: {words}; the next job {'succeeds' if works else 'fails'} on the same worker",
        "out-of-memory after 1 attempt, and it succeeds",
        held=(job.failure.code, job.attempts) == ("out-of-memory", 1)
        and "of the 700 MiB that WORKER_MEMORY_LIMIT allows" in words
        and "no checkpoint was made" in words
        and works,
    )


def test_a_training_that_is_killed_at_every_attempt_tells_its_last_checkpoint(
    trainings: Trainings, told: Callable[..., None]
) -> None:
    """Each attempt goes on from the checkpoint of the one before, and writes one before it dies."""
    job = trainings.end(f"kill-{STEPS - 1}", budget=Budget(epochs=60, batch_size=40))
    assert job.failure is not None
    found = trainings.checkpoint(job)
    held = (job.failure.code, job.attempts) == ("worker-died", 3)
    told(
        4,
        "a training whose process is killed at every attempt",
        f"{job.failure.code} after {job.attempts} attempts; its last checkpoint: step {steps_done(found)}",
        "worker-died after 3, each further than the one before, and says where",
        held=held and steps_done(found) >= 3 and says_where_the_checkpoint_is(job, found),
    )


# --- a process that wakes when its job is over -------------------------------------------------------------


def halted(child: TrainingProcess) -> int:
    """Return the id of the process that trains, once it has stopped where it would export."""
    noted: list[str] = []

    def notes_its_process() -> bool:
        noted.extend(message.note for message in child.read(0.1) if (message.note or "").isdigit())
        return bool(noted) and psutil.Process(int(noted[0])).status() == psutil.STATUS_STOPPED

    eventually(notes_its_process, 120, "the training is about to be exported")
    return int(noted[0])


def is_cancelled(jobs: RedisJobStore, job_id: str) -> bool:
    jobs.claim_due()  # as a reconciler does, should the lease not have lapsed before
    return jobs.get(job_id).state is JobState.CANCELLED


@pytest.mark.parametrize("meanwhile", ["cancelled", "given to another"])
def test_a_training_that_wakes_when_its_job_is_not_its_own_puts_nothing_live(
    meanwhile: str,
    redis_url: str,
    warm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[..., None],
) -> None:
    """The real training process, whose supervisor is as frozen as it is: nobody renews, nobody stops it."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("WORKER_THREADS", "1")
    store, jobs = ArtefactStore(tmp_path / "store"), RedisJobStore(redis_url)
    add_shapes(store)
    job, _ = jobs.submit(new_job_id(), TEACHER.model_copy(update={"name": "halt"}))
    grant = jobs.acquire(job.id, 0.2, 3)
    assert grant is not None
    order = ChildOrder(job_id=job.id, epoch=grant.epoch, attempts=1, spec=grant.spec)
    with TrainingProcess(warm, order) as child:
        training = halted(child)
        if meanwhile == "cancelled":
            jobs.request_cancel(job.id)
            eventually(lambda: is_cancelled(jobs, job.id), 10, "the job is cancelled")
        else:
            eventually(lambda: jobs.acquire(job.id, 60, 3) is not None, 10, "another worker has the job")
        other = publish_teacher(store, "halt")
        os.kill(training, signal.SIGCONT)
        eventually(child.exited, 60, "the training process has left")
        messages, status = child.end()
    jobs.close()
    stays = store.teachers.current("halt") == other
    told(
        1,
        f"a training that is frozen before its export, and wakes when its job is {meanwhile}",
        f"it leaves with {status}; live is {'the other teacher' if stays else 'its own'}",
        f"it leaves with {EXIT_STOPPED}, and what is live stays",
        held=stays and status == EXIT_STOPPED and not any(message.result for message in messages),
    )


# --- a disk that is full -----------------------------------------------------------------------------------

FULL_DISK = """
set -e
mount -t tmpfs -o size=$1 none "$2"
shift 2
exec "$@"
"""


def on_a_small_disk(size: str, folder: Path, *command: str) -> list[str]:
    """Return the command to run where `folder` is a file system of that size, which nobody else sees."""
    return ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", size, str(folder), *command]


def needs_a_small_disk(folder: Path) -> None:
    """Skip where the kernel or the container grants no name space for mounts."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    tried = subprocess.run(on_a_small_disk("1m", folder, "true"), capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.decode().strip()}")


def test_a_disk_that_fills_up_while_saving_costs_the_job_and_no_checkpoint(
    tmp_path: Path, told: Callable[..., None]
) -> None:
    """The real thing: a file system of 3 MB, a real ENOSPC, in a training process of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    needs_a_small_disk(disk)
    ran = subprocess.run(
        on_a_small_disk("3m", disk, sys.executable, "-m", "tests.chaos.full_disk", str(disk)),
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout.splitlines()[-1])
    told(
        2,
        "a disk that is full while checkpoints are written",
        f"{found['code']}: {found['detail']}; epochs readable {found['readable']}; another attempt with room "
        f"again, goes on from epoch {found['resumed_from']} and ends "
        f"{'bit-identical' if found['identical'] else 'different'}",
        "store-full, checkpoint kept, nothing half written; from it bit-identical",
        held=found["code"] == "store-full"
        and found["readable"] > 0
        and f"after {found['readable']} epochs" in found["detail"]
        and found["temporaries"] == 0
        and found["identical"]
        and found["resumed_from"] == found["readable"],
    )

"""Promise 3: cancel and pause work at any moment within 5 s, leave no process, and keep the best weights.

The worker polls and waits as it does by default (`WORKER_CANCEL_POLL_S` 1, `WORKER_CANCEL_GRACE_S` 3).
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors import safe_open

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from shared.artefacts.checkpoints import last_checkpoint
from shared.artefacts.files import sha256_file
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import FINAL_STATES, JobEventKind, JobState, JobView
from shared.contracts.specs import TeacherSpec
from shared.contracts.training import Budget
from shared.jobs.service import new_job_id
from tests.chaos.conftest import FULL
from tests.support.jobs import teacher_spec
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BAR_S = 5.0
PATIENCE_S = BAR_S if FULL else 30.0
"""The small form runs beside others on machines of any speed."""
REAL = {"training_module": "services.worker.training_process", "checkpoint_s": 0, "threads": 1}
Sized = Callable[[int, int], int]
Told = Callable[..., None]


@dataclass
class Place:
    """One worker, and jobs for it."""

    redis_url: str
    state_dir: Path
    chance: random.Random = field(default_factory=lambda: random.Random(6))

    def __post_init__(self) -> None:
        self.store = RedisJobStore(self.redis_url, resend_first_s=0.3)
        self.dispatcher = CeleryDispatcher(self.redis_url)
        self.artefacts = ArtefactStore(self.state_dir / "store")
        self.worker: WorkerProcess | None = None

    def start(self, **settings: object) -> WorkerProcess:
        usual = {"cancel_poll_s": 1, "cancel_grace_s": 3, "lease_s": 15}
        self.worker = WorkerProcess(self.redis_url, self.state_dir, **usual | settings)
        return self.worker.wait_until_ready()

    def submit(self, spec: TeacherSpec) -> str:
        job, _ = self.store.submit(new_job_id(), spec)
        self.dispatcher.send(job.id)
        return job.id

    def wait(self, longest_s: float) -> None:
        """Let a random time pass."""
        time.sleep(self.chance.uniform(0, longest_s))

    def wait_until_begun(self, job_id: str) -> None:
        """Wait until it has done a step, or waits for children: when, depends on the machine."""

        def begun() -> bool:
            job = self.store.get(job_id)
            return job.state is JobState.WAITING or epochs_done(job) > 0

        eventually(begun, 90, f"{job_id} has begun")

    def wait_until_further(self, job_id: str) -> None:
        """Wait until it has done an epoch more, or has ended."""
        before = epochs_done(self.store.get(job_id))

        def further() -> bool:
            job = self.store.get(job_id)
            return epochs_done(job) > before or job.state in FINAL_STATES

        eventually(further, 90, f"{job_id} goes on")

    def until(self, job_id: str, state: JobState) -> float:
        """Wait until the job and all it made are there, or have ended; return the seconds that it took."""

        def there() -> bool:
            jobs = [self.store.get(job_id), *self.store.list(parent=job_id).jobs]
            return all(job.state is state or job.state in FINAL_STATES for job in jobs)

        return eventually(there, PATIENCE_S, f"{state} {job_id}")

    def nothing_runs(self) -> bool:
        assert self.worker is not None
        return self.worker.children() == []

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
        self.store.close()
        self.dispatcher.close()


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    place = Place(redis_url, tmp_path)
    yield place
    place.close()


def small(name: str, epochs: int) -> TeacherSpec:
    """A training that is real, and whose epochs take a tenth of a second or so."""
    return TeacherSpec(
        name=name, dataset="mnist-5k", architecture=Mlp(hidden_units=(32,)), budget=Budget(epochs=epochs)
    )


def test_cancels_at_random_moments_end_what_runs_waits_or_is_deaf(
    place: Place, sized: Sized, told: Told
) -> None:
    cancels = sized(5, 30)
    place.start(concurrency=2)
    took: list[float] = []
    moments: set[str] = set()
    for number in range(cancels):
        job_id = place.submit(teacher_spec(("slow", "parent", "deaf")[number % 3], budget=Budget(epochs=600)))
        if number % 6 < 3:
            place.wait_until_begun(job_id)
        place.wait(1.0)
        moments.add(place.store.get(job_id).state.value)
        place.store.request_cancel(job_id)
        took.append(place.until(job_id, JobState.CANCELLED))
        assert place.store.get(job_id).state is JobState.CANCELLED
        eventually(place.nothing_runs, 10, f"no process of {job_id}")
    told(
        3,
        f"{cancels} cancels at random moments, of jobs that run, wait for children or ignore SIGTERM",
        f"{cancels} cancelled, at {', '.join(sorted(moments))}; slowest {max(took):.1f} s, 0 processes left",
        f"all within {BAR_S:g} s, 0 processes",
        held=max(took) <= PATIENCE_S,
    )


def test_a_cancelled_training_has_left_within_seconds_and_keeps_its_best_weights(
    place: Place, sized: Sized, told: Told
) -> None:
    cancels = sized(1, 30)
    place.start(**REAL)
    took: list[float] = []
    trained: list[str] = []
    for number in range(cancels):
        job_id = place.submit(small("cancelled", 10_000))
        if number % 2 == 0:
            place.wait_until_begun(job_id)
        place.wait(3.0)
        done = epochs_done(place.store.get(job_id))
        place.store.request_cancel(job_id)
        took.append(place.until(job_id, JobState.CANCELLED))
        assert place.store.get(job_id).state is JobState.CANCELLED
        eventually(place.nothing_runs, 10, f"no process of {job_id}")
        if done:
            trained.append(job_id)
            keeps_its_best(place, job_id, done)
    told(
        3,
        f"{cancels} cancels at random moments of real trainings",
        f"{cancels} cancelled, slowest {max(took):.1f} s, 0 processes left; "
        f"the {len(trained)} that had trained an epoch keep their best weights",
        f"all within {BAR_S:g} s, 0 processes, best checkpoint kept",
        held=max(took) <= PATIENCE_S and len(trained) >= cancels / 3,
    )


def epochs_done(job: JobView) -> int:
    return job.progress.done if job.progress is not None and job.progress.stage == "train" else 0


def keeps_its_best(place: Place, job_id: str, done: int) -> None:
    kept = last_checkpoint(place.artefacts.job(job_id).checkpoints)
    assert kept is not None
    epoch = kept.state["epoch"]
    assert isinstance(epoch, int)
    assert epoch >= done
    with safe_open(kept.weights, "numpy") as tensors:
        names = tensors.keys()
        assert any(name.startswith("0/best/") for name in names)
    notes = [event.data["text"] for event in place.store.events(job_id) if event.kind is JobEventKind.NOTE]
    assert str(notes[-1]).startswith(f"kept: the training after {epoch} epochs")


@pytest.mark.skipif(not FULL, reason="its small form is in tests/integration/test_real_training.py")
def test_trainings_that_are_paused_at_random_moments_end_as_undisturbed_ones(
    place: Place, told: Told
) -> None:
    pauses, epochs = 10, 60
    place.start(**REAL)
    expected = weights(place, place.submit(small("undisturbed", epochs)))
    took: list[float] = []
    trainings = spent = differ = 0
    while len(took) < pauses:
        job_id = place.submit(small("paused", epochs))
        while len(took) < pauses:
            if len(took) % 2 == 0:
                place.wait_until_further(job_id)
            place.wait(2.0)
            if place.store.get(job_id).state in FINAL_STATES:
                break
            place.store.request_pause(job_id)
            seconds = place.until(job_id, JobState.PAUSED)
            if place.store.get(job_id).state is JobState.PAUSED:
                took.append(seconds)
                eventually(place.nothing_runs, 10, f"no process of {job_id}")
                place.store.resume(job_id)
        trainings += 1
        differ += weights(place, job_id) != expected
        spent += place.store.get(job_id).attempts - 1
    told(
        3,
        f"{pauses} pauses at random moments of {trainings} real trainings, each resumed",
        f"slowest {max(took):.1f} s, 0 processes left, {spent} attempts spent, {differ} weights differ",
        f"all within {BAR_S:g} s, 0 processes, 0 attempts, weights of an undisturbed run bit for bit",
        held=max(took) <= PATIENCE_S and not spent and not differ,
    )


def weights(place: Place, job_id: str) -> str:
    """Wait for the training's end; return the digest of the weights that it made."""
    eventually(lambda: place.store.get(job_id).state in FINAL_STATES, 300, f"an end of {job_id}")
    job = place.store.get(job_id)
    assert job.state is JobState.SUCCEEDED, job.failure
    teacher = place.artefacts.teachers.current(job.spec.name)
    return sha256_file(place.artefacts.teachers.file(teacher, "model.safetensors"))

"""Jobs that really train: a real worker, its real training process, a real teacher service, a real Redis."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from shared.artefacts.checkpoints import last_checkpoint
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.evaluation import Verdict
from shared.contracts.jobs import FINAL_STATES, JobState, JobView
from shared.contracts.reports import DistillationReport
from shared.contracts.specs import DistillationSpec, JobSpec, TeacherSpec
from shared.contracts.training import Budget, Objective, Regularisation, StudentSpec, TransferSetSpec
from shared.jobs.service import new_job_id
from shared.models.checkpoints import read_tensors
from tests.support.teachers import teacher_process
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = Mlp(hidden_units=(32,))
TEACHER = TeacherSpec(
    name="real-teacher",
    dataset="mnist-5k",
    architecture=Mlp(hidden_units=(64, 64)),
    regularisation=Regularisation(input_dropout=0.1, hidden_dropout=0.3, max_norm=3.0, jitter_px=1),
    budget=Budget(epochs=3),
)
STUDENT = DistillationSpec(
    name="real-student",
    teacher="real-teacher",
    dataset="mnist-5k",
    student=StudentSpec(network=SMALL),
    objective=Objective(temperature=4.0, hard_weight=0.1),
    budget=Budget(epochs=3),
    seeds=(0, 1),
)


INTERRUPTED = TEACHER.model_copy(
    update={"budget": Budget(epochs=25), "architecture": Mlp(hidden_units=(256,))}
)
_undisturbed: list[str] = []


class Place:
    """A state directory with a worker and, where asked for, a teacher service."""

    def __init__(self, redis_url: str, state_dir: Path) -> None:
        self.redis_url = redis_url
        self.state_dir = state_dir
        self.jobs = RedisJobStore(redis_url, resend_first_s=0.3)
        self.dispatcher = CeleryDispatcher(redis_url)
        self.artefacts = ArtefactStore(state_dir / "store")
        self.workers: list[WorkerProcess] = []

    def start_worker(self, **settings: object) -> WorkerProcess:
        real = {
            "training_module": "services.worker.training_process",
            "lease_s": 3,
            "checkpoint_s": 0,
            "shutdown_grace_s": 20,
            "threads": 1,
        }
        worker = WorkerProcess(self.redis_url, self.state_dir, **real | settings)
        self.workers.append(worker)
        return worker.wait_until_ready()

    def submit(self, spec: JobSpec) -> str:
        job, _ = self.jobs.submit(new_job_id(), spec)
        self.dispatcher.send(job.id)
        return job.id

    def final(self, job_id: str, within_s: float = 90) -> JobView:
        eventually(lambda: self.jobs.get(job_id).state in FINAL_STATES, within_s, f"an end of {job_id}")
        return self.jobs.get(job_id)

    def epochs_done(self, job_id: str) -> int:
        progress = self.jobs.get(job_id).progress
        return progress.done if progress is not None and progress.stage == "train" else 0

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.jobs.close()
        self.dispatcher.close()


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    place = Place(redis_url, tmp_path)
    yield place
    place.close()


def weights_of(place: Place) -> str:
    teacher = place.artefacts.teachers.current("real-teacher")
    return hashlib.sha256(
        place.artefacts.teachers.file(teacher, "model.safetensors").read_bytes()
    ).hexdigest()


def undisturbed_weights(place: Place) -> str:
    """Return those of `INTERRUPTED` without an interruption; found out once for all tests of a process."""
    if not _undisturbed:
        job = place.final(place.submit(INTERRUPTED))
        assert job.state is JobState.SUCCEEDED, job.failure
        _undisturbed.append(weights_of(place))
    return _undisturbed[0]


def interrupt_by_kill(place: Place, job_id: str) -> None:
    place.workers[-1].kill()
    place.start_worker()


def interrupt_by_sigterm(place: Place, job_id: str) -> None:
    place.workers[-1].terminate(within_s=30)
    eventually(lambda: place.jobs.get(job_id).state is JobState.QUEUED, 5, "the job is back in the queue")
    place.start_worker()


def interrupt_by_pause(place: Place, job_id: str) -> None:
    place.jobs.request_pause(job_id)
    eventually(lambda: place.jobs.get(job_id).state is JobState.PAUSED, 10, "the job is paused")
    assert place.workers[-1].children() == []
    assert place.jobs.get(job_id).attempts == 0
    place.jobs.resume(job_id)


@pytest.mark.parametrize("interrupt", [interrupt_by_kill, interrupt_by_sigterm, interrupt_by_pause])
def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    place: Place, interrupt: Callable[[Place, str], None]
):
    place.start_worker()
    expected = undisturbed_weights(place)

    job_id = place.submit(INTERRUPTED)
    eventually(lambda: place.epochs_done(job_id) >= 5, 60, "five epochs are done")
    interrupt(place, job_id)
    resumed = place.final(job_id)
    assert resumed.state is JobState.SUCCEEDED, resumed.failure
    assert resumed.epoch == 2
    assert weights_of(place) == expected
    # Resumed, not begun again: the first epochs are not among what the second attempt told.
    told = [
        event.data["done"]
        for event in place.jobs.events(job_id)
        if event.kind == "progress" and event.data["stage"] == "train"
    ]
    second_attempt = told[max(i for i, done in enumerate(told) if done == 0) + 1 :]
    assert min(second_attempt) >= 5


@pytest.fixture
def taught_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The same with a teacher service and a worker that knows it."""
    with teacher_process(place.state_dir) as teacher_url:
        monkeypatch.setenv("TEACHER_URL", teacher_url)
        place.start_worker()
        yield place


def succeed(place: Place, spec: JobSpec) -> JobView:
    job = place.final(place.submit(spec))
    assert job.state is JobState.SUCCEEDED, (job.failure, place.workers[-1].log.read_text())
    return job


def report_of(place: Place, job: JobView) -> DistillationReport:
    return DistillationReport.model_validate_json(place.artefacts.job(job.id).report_json.read_bytes())


def test_a_student_is_distilled_and_its_teacher_is_asked_only_once(taught_place: Place):
    succeed(taught_place, TEACHER)
    first = succeed(taught_place, STUDENT)
    # Another T, another weight: the same transfer set serves.
    second = succeed(taught_place, STUDENT.model_copy(update={"objective": Objective(temperature=20.0)}))
    reports = [report_of(taught_place, job) for job in (first, second)]
    test_rows = reports[0].teacher.examples
    assert test_rows == 1000
    held_out_rows = 500 + test_rows  # validation for the check of the pair, test for the report
    assert reports[0].cost.teacher_rows == 3500 + held_out_rows
    assert (reports[1].cost.teacher_rows, reports[1].cost.cached_rows) == (held_out_rows, 3500)
    assert reports[0].transfer_set_digest == reports[1].transfer_set_digest

    assert first.result is not None
    assert first.result.student is not None
    card = taught_place.artefacts.students.card(first.result.student)
    assert card.evaluation == reports[0].taught
    assert card.evaluation.accuracy > 0.5  # three epochs of teaching; guessing gets 0.1
    assert first.result.verdict in set(Verdict)
    assert {file.name for file in taught_place.artefacts.job(first.id).directory.iterdir()} >= {
        "report.json",
        "report.md",
    }


def test_an_arithmetic_ensemble_teaches_on_jittered_views_at_its_own_temperature(taught_place: Place):
    succeed(taught_place, TEACHER.model_copy(update={"seeds": (0, 1), "merge": "arithmetic"}))
    views = {"transfer_set": TransferSetSpec(views=2, jitter_px=2, seed=5)}
    first = succeed(taught_place, STUDENT.model_copy(update=views))
    # Its softened logits at one T say nothing exact about another: it is asked again.
    other = views | {"objective": Objective(temperature=2.0)}
    second = succeed(taught_place, STUDENT.model_copy(update=other))
    for job in (first, second):
        assert report_of(taught_place, job).cost.teacher_rows == 2 * 3500 + 500 + 1000


def test_a_job_whose_check_fails_says_why_before_it_has_cost_anything(taught_place: Place):
    job = taught_place.final(taught_place.submit(STUDENT))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.code == "teacher-not-found"
    assert job.failure.remedy
    assert job.attempts == 1
    assert not list((taught_place.artefacts.root / "transfer_sets").glob("*"))


def test_a_training_is_cancelled_within_five_seconds(place: Place):
    place.start_worker()
    job_id = place.submit(TEACHER.model_copy(update={"budget": Budget(epochs=5000)}))
    eventually(lambda: place.epochs_done(job_id) >= 1, 60, "an epoch is done")
    place.jobs.request_cancel(job_id)
    eventually(lambda: place.jobs.get(job_id).state is JobState.CANCELLED, 5, "cancelled")
    assert not place.workers[-1].children()
    # What it had learned is kept, and told.
    kept = last_checkpoint(place.artefacts.job(job_id).checkpoints)
    assert kept is not None
    best = [name for name in read_tensors(kept.weights) if name.startswith("0/best/")]
    assert best
    notes = [event.data["text"] for event in place.jobs.events(job_id) if event.kind == "note"]
    assert notes[-1].startswith(f"kept: the training after {kept.state['epoch']} epochs")

"""Which messages a supervisor sends; the training process is `tests.support.training_stub`."""

import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import pytest
from prometheus_client import CollectorRegistry

from services.worker import attempt
from services.worker import supervisor as supervisor_module
from services.worker.metrics import WorkerMetrics
from services.worker.settings import WorkerSettings
from services.worker.supervisor import Supervisor
from shared.artefacts.jobs import JobFiles
from shared.contracts.jobs import JobEventKind, JobState
from shared.contracts.training import Budget
from shared.errors import JobStoreUnavailable
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.ports import Grant
from tests.support.jobs import RememberingDispatcher, teacher_spec

pytestmark = pytest.mark.integration
CHILDREN = ["j-1-000", "j-1-001", "j-1-002"]


class DownDispatcher(RememberingDispatcher):
    """Refuses, and counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__(down=True)
        self.asked = 0

    def send(self, job_id: str) -> None:
        self.asked += 1
        super().send(job_id)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryJobStore:
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path))
    store = MemoryJobStore()
    store.submit("j-1", teacher_spec("parent"))
    return store


def supervisor(store: MemoryJobStore, dispatcher: RememberingDispatcher) -> Supervisor:
    settings = WorkerSettings(training_module="tests.support.training_stub")
    return Supervisor(store, dispatcher, settings, WorkerMetrics(CollectorRegistry()), Event())


def test_children_are_announced_and_the_last_of_them_announces_its_parent(store: MemoryJobStore) -> None:
    dispatcher = RememberingDispatcher()
    supervise = supervisor(store, dispatcher)
    supervise.run("j-1")
    assert store.get("j-1").state is JobState.WAITING
    assert dispatcher.sent == CHILDREN
    for child in CHILDREN:
        assert dispatcher.sent == CHILDREN
        supervise.run(child)
    assert dispatcher.sent == [*CHILDREN, "j-1"]
    supervise.run("j-1")
    assert store.get("j-1").state is JobState.SUCCEEDED


def test_a_broker_that_is_down_is_asked_once_for_a_whole_family(
    store: MemoryJobStore, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = DownDispatcher()
    supervisor(store, dispatcher).run("j-1")
    assert store.get("j-1").state is JobState.WAITING
    assert dispatcher.asked == 1
    assert any("will follow" in record.message for record in caplog.records)


class LossyStore(MemoryJobStore):
    """Gives leases, and its first answers are lost; or refuses them all."""

    def __init__(self, lost: int, *, gives: bool = True) -> None:
        super().__init__()
        self.lost = lost
        self.gives = gives

    def acquire(
        self, job_id: str, lease_s: float, max_attempts: int, taker: str | None = None
    ) -> Grant | None:
        grant = super().acquire(job_id, lease_s, max_attempts, taker) if self.gives else None
        self.lost -= 1
        if self.lost >= 0 or not self.gives:
            raise JobStoreUnavailable("it hangs")
        return grant


def test_a_job_whose_lease_was_given_and_not_heard_of_runs_in_its_first_attempt(
    store: MemoryJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_ASK_AGAIN_S", 0.01)
    lossy = LossyStore(3)
    supervisor(lossy, RememberingDispatcher()).run(submitted(lossy, "quick"))
    job = lossy.get("j-2")
    assert (job.state, job.epoch, job.attempts) == (JobState.SUCCEEDED, 1, 1)


def test_a_store_that_stays_away_for_a_whole_lease_is_left_to_the_reconciler(
    store: MemoryJobStore, caplog: pytest.LogCaptureFixture
) -> None:
    away = LossyStore(0, gives=False)
    settings = WorkerSettings(training_module="tests.support.training_stub", lease_s=0.5)
    metrics, stopping = WorkerMetrics(CollectorRegistry()), Event()
    supervise = Supervisor(away, RememberingDispatcher(), settings, metrics, stopping)
    supervise.run(submitted(away, "quick"))
    assert 2 <= -away.lost <= 3
    assert away.get("j-2").state is JobState.QUEUED
    assert any("was not taken" in record.message for record in caplog.records)


def submitted(store: MemoryJobStore, name: str, job_id: str = "j-2") -> str:
    store.submit(job_id, teacher_spec(name, budget=Budget(epochs=600)))
    return job_id


def test_a_job_whose_teacher_is_away_is_tried_again_later_and_loses_no_attempt(store: MemoryJobStore) -> None:
    dispatcher = RememberingDispatcher()
    supervise, job_id = supervisor(store, dispatcher), submitted(store, "later")
    supervise.run(job_id)
    job = store.get(job_id)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    assert notes(store, job_id) == ["the teacher does not answer"]
    # No message now: the record's own wait brings it back.
    assert dispatcher.sent == []
    supervise.run(job_id)
    assert (store.get(job_id).state, store.get(job_id).attempts) == (JobState.SUCCEEDED, 1)


def test_a_worker_that_can_start_no_process_loses_no_attempt_and_pauses(
    store: MemoryJobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real thing: there is no room for the file with the order."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    dispatcher = RememberingDispatcher()
    supervise, job_id = supervisor(store, dispatcher), submitted(store, "quick")
    monkeypatch.setattr(attempt, "_START_AGAIN_S", 0.5)
    began = time.monotonic()
    supervise.run(job_id)
    assert time.monotonic() - began >= 0.5
    assert (store.get(job_id).state, store.get(job_id).attempts) == (JobState.QUEUED, 0)
    (note,) = notes(store, job_id)
    assert note == "no training process could be started, the job is tried again: No such file or directory"
    assert dispatcher.sent == []
    monkeypatch.undo()
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path))
    supervise.run(job_id)
    assert (store.get(job_id).state, store.get(job_id).attempts) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize(("name", "end"), [("slow", JobState.CANCELLED), ("poison", JobState.FAILED)])
def test_a_job_ends_even_where_its_checkpoints_cannot_be_looked_through(
    store: MemoryJobStore, name: str, end: JobState
) -> None:
    job_id = submitted(store, name)
    supervise = supervisor(store, RememberingDispatcher())
    checkpoints = JobFiles(supervise._settings.store_dir / "jobs", job_id).checkpoints
    checkpoints.mkdir(parents=True)
    in_circles = checkpoints / "00000001.json"
    in_circles.symlink_to(in_circles)
    running = Thread(target=lambda: [supervise.run(job_id) for _ in range(3)])
    running.start()
    while not any(event.kind is JobEventKind.NOTE or name == "poison" for event in store.events(job_id)):
        time.sleep(0.01)
    if name == "slow":
        store.request_cancel(job_id)
    running.join(60)
    job = store.get(job_id)
    assert job.state is end
    if job.failure is not None:
        assert job.failure.detail.endswith("whether a checkpoint was made is not known")


def notes(store: MemoryJobStore, job_id: str) -> list[object]:
    return [event.data["text"] for event in store.events(job_id) if event.kind is JobEventKind.NOTE]

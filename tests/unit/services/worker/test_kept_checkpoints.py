"""Which jobs keep their checkpoints at their end; the training process is `tests.support.training_stub`."""

from pathlib import Path
from threading import Event

import pytest
from prometheus_client import CollectorRegistry

from services.worker import supervisor
from services.worker.metrics import WorkerMetrics
from services.worker.settings import WorkerSettings
from services.worker.supervisor import Supervisor
from shared.artefacts.checkpoints import CheckpointFolder, last_checkpoint
from shared.artefacts.jobs import JobFiles
from shared.contracts.jobs import JobState
from shared.errors import JobStoreUnavailable
from shared.jobs.memory_store import MemoryJobStore
from tests.support.jobs import RememberingDispatcher, teacher_spec

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WorkerSettings:
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path))
    return WorkerSettings(training_module="tests.support.training_stub")


def run(settings: WorkerSettings, name: str, store: MemoryJobStore) -> tuple[JobState, Path]:
    """Run a job that has a checkpoint; return where it is, and the folder of its checkpoints."""
    store.submit("j-1", teacher_spec(name))
    checkpoints = JobFiles(settings.store_dir / "jobs", "j-1").checkpoints
    CheckpointFolder(checkpoints / "of-a-net").save({"epoch": 1}, b"weights")
    metrics = WorkerMetrics(CollectorRegistry())
    Supervisor(store, RememberingDispatcher(), settings, metrics, Event()).run("j-1")
    return store.get("j-1").state, checkpoints


def test_a_job_that_succeeded_keeps_no_checkpoint(settings: WorkerSettings) -> None:
    state, checkpoints = run(settings, "quick", MemoryJobStore())
    assert state is JobState.SUCCEEDED
    assert list(checkpoints.parent.iterdir()) == []


def test_a_job_that_failed_keeps_its_checkpoint(settings: WorkerSettings) -> None:
    state, checkpoints = run(settings, "wrong", MemoryJobStore())
    assert state is JobState.FAILED
    assert last_checkpoint(checkpoints) is not None


def test_a_checkpoint_is_there_until_the_record_says_that_the_job_succeeded(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it gone before, and the worker next, another attempt would begin anew."""
    store, seen = MemoryJobStore(), []
    succeed = store.succeed

    def away_once(*given: object) -> JobState:
        seen.append(last_checkpoint(settings.store_dir / "jobs" / "j-1" / "checkpoints") is not None)
        if len(seen) == 1:
            raise JobStoreUnavailable("it is away")
        return succeed(*given)

    monkeypatch.setattr(store, "succeed", away_once)
    state, checkpoints = run(settings, "quick", store)
    assert (state, seen) == (JobState.SUCCEEDED, [True, True])
    assert not checkpoints.exists()


def test_a_checkpoint_that_cannot_be_removed_is_no_trouble_of_the_job(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(f"not {path}")

    monkeypatch.setattr(supervisor, "remove_directory", refused)
    state, _ = run(settings, "quick", MemoryJobStore())
    assert state is JobState.SUCCEEDED
    assert "checkpoints stay where they are" in caplog.text

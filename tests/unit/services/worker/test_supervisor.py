"""Which messages a supervisor sends; the training process is `tests.support.training_stub`."""

from pathlib import Path
from threading import Event

import pytest
from prometheus_client import CollectorRegistry

from services.worker.metrics import WorkerMetrics
from services.worker.settings import WorkerSettings
from services.worker.supervisor import Supervisor
from shared.contracts.jobs import JobState
from shared.jobs.memory_store import MemoryJobStore
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

import time
from collections.abc import Callable
from threading import Event

import pytest
from prometheus_client import CollectorRegistry

from services.worker.metrics import WorkerMetrics
from services.worker.reconciler import LONGEST_BACKLOG, Reconciler
from shared.contracts.jobs import JobResult
from shared.errors import JobStoreUnavailable
from shared.jobs.memory_store import MemoryJobStore
from tests.support.jobs import RememberingDispatcher, teacher_spec


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def parts() -> tuple[Reconciler, MemoryJobStore, RememberingDispatcher, Clock, Event]:
    clock = Clock()
    store = MemoryJobStore(clock, resend_first_s=5, resend_longest_s=60)
    queue = RememberingDispatcher()
    stopping = Event()
    metrics = WorkerMetrics(CollectorRegistry())
    return Reconciler(store, queue, metrics, stopping, 0.01), store, queue, clock, stopping


def test_a_fresh_job_is_left_to_its_own_message_and_a_forgotten_one_gets_another() -> None:
    reconciler, store, queue, clock, _ = parts()
    store.submit("j-1", teacher_spec())
    assert reconciler.sweep() == 0
    clock.now += 5
    assert reconciler.sweep() == 1
    assert reconciler.sweep() == 0
    assert queue.sent == ["j-1"]


def test_messages_for_a_job_that_nobody_takes_grow_rare() -> None:
    reconciler, store, queue, clock, _ = parts()
    store.submit("j-1", teacher_spec())
    sent = 0
    for _ in range(3600):
        clock.now += 1
        sent += reconciler.sweep()
        queue.sent.clear()
    # 5, 10, 20 and 40 s apart at first, then a minute: some 63 in the hour.
    assert 55 <= sent <= 66


def test_a_running_job_is_left_alone_until_its_lease_lapses() -> None:
    reconciler, store, queue, clock, _ = parts()
    store.submit("j-1", teacher_spec())
    store.acquire("j-1", 15, 3)
    clock.now += 14
    assert reconciler.sweep() == 0
    clock.now += 2
    assert reconciler.sweep() == 1
    assert queue.sent == ["j-1"]


def test_a_waiting_job_is_left_alone_until_its_last_child_has_ended() -> None:
    reconciler, store, queue, clock, _ = parts()
    store.submit("j-1", teacher_spec())
    grant = store.acquire("j-1", 15, 3)
    assert grant is not None
    store.wait("j-1", grant.epoch, [("j-1-000", teacher_spec())])
    child = store.acquire("j-1-000", 7200, 3)
    assert child is not None
    clock.now += 3600
    assert reconciler.sweep() == 0
    store.succeed("j-1-000", child.epoch, JobResult())
    assert reconciler.sweep() == 1
    assert queue.sent == ["j-1"]


def test_a_long_queue_gets_no_further_messages() -> None:
    reconciler, store, queue, clock, _ = parts()
    store.submit("j-1", teacher_spec())
    queue.sent = ["j-other"] * (LONGEST_BACKLOG + 1)
    clock.now += 100
    assert reconciler.sweep() == 0
    queue.sent = []
    assert reconciler.sweep() == 1


def test_a_job_whose_message_still_waits_gets_no_other() -> None:
    reconciler, store, queue, clock, _ = parts()
    for job_id in ("j-late", "j-lost"):
        store.submit(job_id, teacher_spec())
    queue.send("j-late")
    clock.now += 5
    assert reconciler.sweep() == 1
    assert queue.sent == ["j-late", "j-lost"]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_thread_outlives_a_broker_that_is_down_and_tells_of_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reconciler, store, queue, clock, stopping = parts()
    store.submit("j-1", teacher_spec())
    queue.down = True
    clock.now += 5
    with pytest.raises(JobStoreUnavailable):
        reconciler.sweep()
    clock.now += 1000
    caplog.clear()
    reconciler.start()
    time.sleep(0.1)
    queue.down = False
    clock.now += 1000
    eventually(lambda: bool(queue.sent))
    stopping.set()
    reconciler.join(5)
    assert queue.sent == ["j-1"]
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


def test_after_an_outage_those_who_train_on_may_renew_their_leases_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reconciler, store, queue, clock, stopping = parts()
    store.submit("j-1", teacher_spec())
    grant = store.acquire("j-1", 15, 3)
    assert grant is not None
    refused, answered, backlog = Event(), Event(), queue.backlog

    def asked() -> int:
        if queue.down:
            refused.set()
            raise JobStoreUnavailable("down for the test")
        answered.set()
        return backlog()

    monkeypatch.setattr(queue, "backlog", asked)
    queue.down = True
    reconciler.start()
    assert refused.wait(20)
    clock.now += 100
    queue.down = False
    assert answered.wait(20)
    # As `Attempt` does, half a second later.
    time.sleep(0.5)
    store.renew("j-1", grant.epoch, 15)
    store.submit("j-2", teacher_spec())
    clock.now += 5
    eventually(lambda: bool(queue.sent))
    stopping.set()
    reconciler.join(5)
    assert queue.sent == ["j-2"]


def test_the_thread_outlives_what_nobody_foresaw_and_tells_of_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler, store, queue, clock, stopping = parts()
    store.submit("j-1", teacher_spec())
    clock.now += 5
    backlog, failures = queue.backlog, [RuntimeError("as nobody foresaw")]

    def unforeseen() -> int:
        if failures:
            raise failures.pop()
        return backlog()

    monkeypatch.setattr(queue, "backlog", unforeseen)
    reconciler.start()
    eventually(lambda: bool(queue.sent))
    assert reconciler.is_alive()
    stopping.set()
    reconciler.join(5)
    assert "as nobody foresaw" in caplog.text

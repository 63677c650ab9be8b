import re

import pytest

from shared.contracts.jobs import JobState
from shared.errors import DatasetNotFound, IdempotencyConflict
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.service import JobService, new_job_id
from tests.support.jobs import KnownThings, RememberingDispatcher, distillation_spec, teacher_spec


def service(dispatcher: RememberingDispatcher | None = None) -> JobService:
    return JobService(MemoryJobStore(), dispatcher or RememberingDispatcher(), KnownThings())


def test_ids_are_safe_in_urls_and_do_not_repeat() -> None:
    ids = {new_job_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch(r"j-[a-z2-7]{12}", identifier) for identifier in ids)


def test_a_submitted_job_is_recorded_and_a_worker_is_woken() -> None:
    dispatcher = RememberingDispatcher()
    jobs = service(dispatcher)
    job, created = jobs.submit(teacher_spec())
    assert created
    assert dispatcher.sent == [job.id]
    assert jobs.get(job.id).state is JobState.QUEUED
    assert jobs.list().jobs == (job,)
    assert [event.data["state"] for event in jobs.events(job.id)] == ["queued"]


def test_a_refused_job_leaves_no_record() -> None:
    dispatcher = RememberingDispatcher()
    jobs = service(dispatcher)
    with pytest.raises(DatasetNotFound):
        jobs.submit(teacher_spec(dataset="no"))
    assert jobs.list().jobs == ()
    assert dispatcher.sent == []


def test_a_job_is_accepted_while_no_worker_can_be_woken(caplog: pytest.LogCaptureFixture) -> None:
    jobs = service(RememberingDispatcher(down=True))
    job, created = jobs.submit(teacher_spec())
    assert created
    assert jobs.get(job.id).state is JobState.QUEUED
    assert caplog.records[0].__dict__["job_id"] == job.id


def test_a_message_is_left_to_the_reconciler_where_the_record_took_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who submits is answered within 2.5 seconds, and a store in trouble has cost some of them already."""
    ticks = iter((10.0, 11.0))
    monkeypatch.setattr("shared.jobs.service.time.monotonic", lambda: next(ticks))
    dispatcher = RememberingDispatcher()
    job, created = service(dispatcher).submit(teacher_spec())
    assert created
    assert job.state is JobState.QUEUED
    assert dispatcher.sent == []


def test_a_repeated_request_makes_no_second_job_and_wakes_nobody() -> None:
    dispatcher = RememberingDispatcher()
    jobs = service(dispatcher)
    first, _ = jobs.submit(distillation_spec(), "key")
    second, created = jobs.submit(distillation_spec(), "key")
    assert (second.id, created) == (first.id, False)
    assert dispatcher.sent == [first.id]
    with pytest.raises(IdempotencyConflict):
        jobs.submit(distillation_spec(name="other"), "key")


def test_a_waiting_job_is_cancelled() -> None:
    jobs = service()
    job, _ = jobs.submit(teacher_spec())
    assert jobs.cancel(job.id).state is JobState.CANCELLED

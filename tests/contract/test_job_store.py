"""What every job store promises; the same tests for the one in memory and the one in Redis."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from shared.contracts.jobs import JobResult, JobState, Progress
from shared.errors import IdempotencyConflict, JobAlreadyFinal, JobNotFound, LeaseLost
from shared.jobs.ports import Grant, JobStore
from tests.support.job_store import (
    FAILURE,
    LONG_S,
    PROGRESS,
    RESULT,
    SHORT_S,
    running,
    states,
    submitted,
)
from tests.support.jobs import distillation_spec, teacher_spec

# --- submitting --------------------------------------------------------------------------------------------


def test_a_submitted_job_is_queued_and_reads_back_as_it_was_asked_for(store: JobStore) -> None:
    spec = distillation_spec()
    job, created = store.submit("j-one", spec)
    assert created
    assert (job.id, job.state, job.spec, job.attempts, job.epoch) == ("j-one", JobState.QUEUED, spec, 0, 0)
    assert abs(job.created_at - datetime.now(UTC)) < timedelta(seconds=5)
    assert store.get("j-one") == job


def test_an_unknown_job_is_not_found_by_any_method(store: JobStore) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get("j-no"),
        lambda: store.events("j-no"),
        lambda: store.request_cancel("j-no"),
        lambda: store.acquire("j-no", 1, 3),
        lambda: store.renew("j-no", 1, 1),
        lambda: store.look("j-no", 1),
        lambda: store.note("j-no", 1, "hello"),
        lambda: store.succeed("j-no", 1, RESULT),
        lambda: store.release("j-no", 1),
        lambda: store.wait("j-no", 1, [("j-no-000", teacher_spec())]),
    ]
    for call in calls:
        with pytest.raises(JobNotFound):
            call()


def test_the_same_key_and_request_make_one_job(store: JobStore) -> None:
    first, created = store.submit("j-one", teacher_spec(), "key", "digest")
    second, created_again = store.submit("j-two", teacher_spec(), "key", "digest")
    assert created
    assert not created_again
    assert second == first
    with pytest.raises(JobNotFound):
        store.get("j-two")


def test_the_same_key_with_another_request_conflicts(store: JobStore) -> None:
    store.submit("j-one", teacher_spec(), "key", "digest")
    with pytest.raises(IdempotencyConflict):
        store.submit("j-two", teacher_spec("other"), "key", "other digest".replace(" ", "-"))


def test_submitting_again_after_a_lost_answer_reports_the_job_as_new(store: JobStore) -> None:
    store.submit("j-one", teacher_spec(), "key", "digest")
    assert store.submit("j-one", teacher_spec(), "key", "digest")[1]
    assert len(store.list().jobs) == 1


def test_equal_requests_at_once_make_one_job(store: JobStore) -> None:
    answers: list[tuple[str, bool]] = []

    def submit(number: int) -> None:
        job, created = store.submit(f"j-{number}", teacher_spec(), "key", "digest")
        answers.append((job.id, created))

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1


# --- lists -------------------------------------------------------------------------------------------------


def test_pages_show_every_job_once_newest_first(store: JobStore) -> None:
    ids = [submitted(store) for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = store.list(cursor=cursor, limit=3)
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_lists_are_filtered_by_state_and_kind_together(store: JobStore) -> None:
    teacher = submitted(store)
    student = submitted(store, distillation_spec())
    running(store, job_id=teacher)
    assert [job.id for job in store.list(state=JobState.RUNNING).jobs] == [teacher]
    assert [job.id for job in store.list(kind="distillation").jobs] == [student]
    assert [job.id for job in store.list(JobState.QUEUED, "distillation").jobs] == [student]
    assert store.list(JobState.QUEUED, "teacher").jobs == ()


# --- the lease ---------------------------------------------------------------------------------------------


def test_only_one_of_many_workers_gets_the_lease(store: JobStore) -> None:
    job_id = submitted(store)
    grants: list[Grant | None] = []
    threads = [
        threading.Thread(target=lambda: grants.append(store.acquire(job_id, LONG_S, 3))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(grant is not None for grant in grants) == 1
    job = store.get(job_id)
    assert (job.state, job.epoch, job.attempts) == (JobState.RUNNING, 1, 1)
    assert job.started_at is not None


def test_a_lapsed_lease_goes_to_the_next_and_fences_the_first(store: JobStore) -> None:
    first = running(store, SHORT_S)
    time.sleep(2 * SHORT_S)
    second = running(store, job_id=first.job_id)
    assert (second.epoch, second.attempts) == (2, 2)
    late: list[Callable[[], object]] = [
        lambda: store.renew(first.job_id, first.epoch, 1),
        lambda: store.look(first.job_id, first.epoch),
        lambda: store.progress(first.job_id, first.epoch, PROGRESS),
        lambda: store.note(first.job_id, first.epoch, "still here"),
        lambda: store.succeed(first.job_id, first.epoch, RESULT),
        lambda: store.fail(first.job_id, first.epoch, FAILURE),
        lambda: store.cancelled(first.job_id, first.epoch),
        lambda: store.release(first.job_id, first.epoch),
        lambda: store.wait(first.job_id, first.epoch, [(f"{first.job_id}-000", teacher_spec())]),
    ]
    before = store.get(first.job_id), len(store.events(first.job_id))
    for write in late:
        with pytest.raises(LeaseLost):
            write()
    assert (store.get(first.job_id), len(store.events(first.job_id))) == before
    assert [job.id for job in store.list().jobs] == [first.job_id]


def test_a_renewed_lease_is_nobody_elses(store: JobStore) -> None:
    grant = running(store, SHORT_S)
    assert not store.renew(grant.job_id, grant.epoch, LONG_S).cancel_requested
    time.sleep(2 * SHORT_S)
    assert store.acquire(grant.job_id, LONG_S, 3) is None


def test_a_lapsed_lease_that_nobody_took_can_be_kept(store: JobStore) -> None:
    grant = running(store, SHORT_S)
    time.sleep(2 * SHORT_S)
    store.renew(grant.job_id, grant.epoch, LONG_S)
    assert store.acquire(grant.job_id, LONG_S, 3) is None


def test_a_job_whose_workers_die_fails_after_its_attempts_and_says_why(store: JobStore) -> None:
    job_id = submitted(store)
    for _ in range(3):
        running(store, SHORT_S, job_id)
        time.sleep(2 * SHORT_S)
    assert store.acquire(job_id, LONG_S, 3) is None
    job = store.get(job_id)
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.code == "worker-died"
    assert "3 attempts" in job.failure.detail
    assert "lease ran out" in job.failure.detail


def test_a_stopped_attempt_is_not_counted_and_one_that_died_is(store: JobStore) -> None:
    job_id = submitted(store)
    stopped = running(store, job_id=job_id)
    assert store.release(job_id, stopped.epoch) is JobState.QUEUED
    assert store.get(job_id).attempts == 0
    died = running(store, job_id=job_id)
    store.release(job_id, died.epoch, died="killed by signal 9")
    assert store.get(job_id).attempts == 1
    assert running(store, job_id=job_id).epoch == 3


def test_what_the_last_attempt_died_of_is_told_when_a_job_is_given_up(store: JobStore) -> None:
    grant = running(store)
    store.release(grant.job_id, grant.epoch, died='killed by signal 9 ("out of memory")')
    assert store.acquire(grant.job_id, LONG_S, 1) is None
    failure = store.get(grant.job_id).failure
    assert failure is not None
    assert 'killed by signal 9 ("out of memory")' in failure.detail


# --- ends --------------------------------------------------------------------------------------------------


def test_a_success_keeps_its_result_and_a_failure_its_reason(store: JobStore) -> None:
    good, bad = running(store), running(store)
    assert store.succeed(good.job_id, good.epoch, RESULT) is JobState.SUCCEEDED
    assert store.fail(bad.job_id, bad.epoch, FAILURE) is JobState.FAILED
    assert store.get(good.job_id).result == RESULT
    assert store.get(bad.job_id).failure == FAILURE
    for job_id in (good.job_id, bad.job_id):
        job = store.get(job_id)
        assert job.finished_at is not None
        assert job.finished_at >= job.created_at
        assert store.acquire(job_id, LONG_S, 3) is None


def test_ending_a_job_again_after_a_lost_answer_changes_nothing(store: JobStore) -> None:
    grant = running(store)
    store.succeed(grant.job_id, grant.epoch, RESULT)
    before = store.get(grant.job_id), len(store.events(grant.job_id))
    assert store.succeed(grant.job_id, grant.epoch, RESULT) is JobState.SUCCEEDED
    assert (store.get(grant.job_id), len(store.events(grant.job_id))) == before


def test_a_waiting_job_is_cancelled_at_once(store: JobStore) -> None:
    job_id = submitted(store)
    assert store.request_cancel(job_id).state is JobState.CANCELLED
    assert store.request_cancel(job_id).state is JobState.CANCELLED
    assert store.acquire(job_id, LONG_S, 3) is None
    assert states(store, job_id) == ["queued", "cancelled"]


def test_a_running_job_is_asked_to_stop_and_ends_cancelled(store: JobStore) -> None:
    grant = running(store)
    assert not store.look(grant.job_id, grant.epoch).cancel_requested
    job = store.request_cancel(grant.job_id)
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert store.look(grant.job_id, grant.epoch).cancel_requested
    assert store.renew(grant.job_id, grant.epoch, LONG_S).cancel_requested
    assert store.cancelled(grant.job_id, grant.epoch) is JobState.CANCELLED


@pytest.mark.parametrize("end", ["succeed", "fail", "release", "die"])
def test_after_an_acknowledged_cancel_every_end_is_cancelled(store: JobStore, end: str) -> None:
    grant = running(store)
    store.request_cancel(grant.job_id)
    {
        "succeed": lambda: store.succeed(grant.job_id, grant.epoch, RESULT),
        "fail": lambda: store.fail(grant.job_id, grant.epoch, FAILURE),
        "release": lambda: store.release(grant.job_id, grant.epoch),
        "die": lambda: store.release(grant.job_id, grant.epoch, died="killed"),
    }[end]()
    job = store.get(grant.job_id)
    assert (job.state, job.result, job.failure) == (JobState.CANCELLED, None, None)


def test_a_job_whose_worker_vanished_is_cancelled_without_it(store: JobStore) -> None:
    before, after = running(store, SHORT_S), running(store, SHORT_S)
    store.request_cancel(after.job_id)
    time.sleep(2 * SHORT_S)
    assert store.request_cancel(before.job_id).state is JobState.CANCELLED
    assert store.acquire(after.job_id, LONG_S, 3) is None
    assert store.get(after.job_id).state is JobState.CANCELLED


def test_a_finished_job_cannot_be_cancelled(store: JobStore) -> None:
    grant = running(store)
    store.succeed(grant.job_id, grant.epoch, RESULT)
    with pytest.raises(JobAlreadyFinal):
        store.request_cancel(grant.job_id)


# --- events ------------------------------------------------------------------------------------------------


def test_events_tell_the_whole_story_in_order_and_resume_behind_an_id(store: JobStore) -> None:
    grant = running(store)
    store.progress(grant.job_id, grant.epoch, PROGRESS)
    store.note(grant.job_id, grant.epoch, 'a "quoted" note\n')
    store.succeed(grant.job_id, grant.epoch, RESULT)
    events = store.events(grant.job_id)
    assert [event.kind.value for event in events] == ["state", "state", "progress", "note", "state"]
    assert states(store, grant.job_id) == ["queued", "running", "succeeded"]
    assert Progress.model_validate(events[2].data) == PROGRESS
    assert events[3].data == {"text": 'a "quoted" note\n'}
    assert JobResult.model_validate(events[4].data["result"]) == RESULT
    assert list(store.events(grant.job_id, after=events[2].id)) == list(events[3:])
    assert list(store.events(grant.job_id, limit=2)) == list(events[:2])
    assert store.get(grant.job_id).progress == PROGRESS


def test_an_event_id_that_is_none_of_ours_reads_from_the_start(store: JobStore) -> None:
    job_id = submitted(store)
    assert store.events(job_id, after="yesterday") == store.events(job_id)


# --- what the reconciler asks ------------------------------------------------------------------------------


def test_a_job_without_a_worker_comes_due_once_for_all_with_growing_waits(store: JobStore) -> None:
    # Each wait is timed from before the call that began it to behind the one that saw its end.
    began = time.monotonic()
    job_id = submitted(store)
    assert list(store.claim_due()) == []
    waits = []
    for _ in range(4):
        asked = time.monotonic()
        while list(store.claim_due()) != [job_id]:
            assert time.monotonic() - began < 100 * SHORT_S
            time.sleep(0.002)
            asked = time.monotonic()
        waits.append(time.monotonic() - began)
        began = asked
    assert list(store.claim_due()) == []
    # First, first, twice, and four times the first wait, from then on no longer.
    assert all(wait >= 0.9 * factor * SHORT_S for wait, factor in zip(waits, (1, 1, 2, 4), strict=True))


def test_a_running_job_comes_due_when_its_lease_lapses_and_a_final_one_never(store: JobStore) -> None:
    lapsing, held, done = running(store, SHORT_S), running(store), running(store)
    store.succeed(done.job_id, done.epoch, RESULT)
    time.sleep(2 * SHORT_S)
    assert list(store.claim_due()) == [lapsing.job_id]
    store.request_cancel(held.job_id)
    store.cancelled(held.job_id, held.epoch)
    time.sleep(2 * SHORT_S)
    assert held.job_id not in store.claim_due()

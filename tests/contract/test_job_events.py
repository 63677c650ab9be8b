"""Who reads a job's events, piece by piece, reads each once, in order, to the end."""

import threading
import time
from collections.abc import Callable

import pytest

from shared.contracts.jobs import FINAL_STATES, JobEvent, JobEventKind, JobState
from shared.jobs.ports import JobStore
from tests.support.job_store import FAILURE, LONG_S, RESULT, SHORT_S, running, submitted
from tests.support.jobs import teacher_spec

KEPT = 500


def is_end(event: JobEvent) -> bool:
    return event.kind is JobEventKind.STATE and event.data["state"] in FINAL_STATES


def followed(store: JobStore, job_id: str, at_once: int) -> list[JobEvent]:
    """Read from behind the last event again and again, until the end."""
    seen: list[JobEvent] = []
    until = time.monotonic() + 30
    while not (seen and is_end(seen[-1])):
        assert time.monotonic() < until
        seen += store.events(job_id, seen[-1].id if seen else None, at_once)
        time.sleep(0.002)
    return seen


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_follower_sees_what_was_and_what_comes_once_each(store: JobStore, at_once: int) -> None:
    job_id = submitted(store)

    def work() -> None:
        grant = running(store, job_id=job_id)
        for number in range(20):
            store.note(job_id, grant.epoch, str(number))
            time.sleep(0.003)
        store.succeed(job_id, grant.epoch, RESULT)

    worker = threading.Thread(target=work)
    worker.start()
    seen = followed(store, job_id, at_once)
    worker.join()
    assert seen == list(store.events(job_id))
    assert [event.data.get("text") for event in seen][2:-1] == [str(number) for number in range(20)]


def test_a_parent_tells_of_its_wait_and_goes_on(store: JobStore) -> None:
    grant = running(store)
    child = f"{grant.job_id}-000"
    store.wait(grant.job_id, grant.epoch, [(child, teacher_spec())])
    store.succeed(child, running(store, job_id=child).epoch, RESULT)
    store.succeed(grant.job_id, running(store, job_id=grant.job_id).epoch, RESULT)
    told = [event.data.get("state", "progress") for event in followed(store, grant.job_id, 3)]
    assert told == [
        "queued", "running", "waiting", "progress", "progress", "queued", "running", "succeeded"
    ]  # fmt: skip


def test_behind_the_last_event_there_is_nothing(store: JobStore) -> None:
    job_id = submitted(store)
    (first,) = store.events(job_id)
    assert list(store.events(job_id, first.id)) == []
    store.request_cancel(job_id)
    _, last = store.events(job_id)
    assert list(store.events(job_id, first.id)) == [last]
    assert list(store.events(job_id, last.id)) == []


# --- what is kept of a job that ended ----------------------------------------------------------------------


def told_at_length(store: JobStore, notes: int, lease_s: float = LONG_S) -> tuple[str, int]:
    """A job that was queued, runs, and has told so many notes besides."""
    grant = running(store)
    for number in range(notes):
        store.note(grant.job_id, grant.epoch, str(number))
    store.renew(grant.job_id, grant.epoch, lease_s)
    return grant.job_id, grant.epoch


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (JobState.SUCCEEDED, lambda store, job, epoch: store.succeed(job, epoch, RESULT)),
        (JobState.FAILED, lambda store, job, epoch: store.fail(job, epoch, FAILURE)),
        (JobState.CANCELLED, lambda store, job, epoch: store.cancelled(job, epoch)),
    ],
)
def test_of_a_job_that_ended_the_newest_500_events_are_kept(
    store: JobStore, state: JobState, end: Callable[[JobStore, str, int], object]
) -> None:
    job_id, epoch = told_at_length(store, KEPT + 20)
    before = list(store.events(job_id))
    assert len(before) == KEPT + 22
    end(store, job_id, epoch)
    after = list(store.events(job_id))
    assert after[:-1] == before[-KEPT + 1 :]
    assert after[-1].data["state"] == state
    # A follower that saw no more than the first of all goes on with the oldest that is kept.
    assert list(store.events(job_id, before[0].id, 2)) == after[:2]
    assert list(store.events(job_id, after[-2].id)) == after[-1:]


def test_of_a_job_that_is_cancelled_without_its_worker_no_more_are_kept_either(store: JobStore) -> None:
    job_id, _ = told_at_length(store, KEPT, SHORT_S)
    time.sleep(2 * SHORT_S)
    store.request_cancel(job_id)
    events = store.events(job_id)
    assert len(events) == KEPT
    assert is_end(events[-1])


def test_a_job_that_told_500_events_in_all_keeps_them_all(store: JobStore) -> None:
    job_id, epoch = told_at_length(store, KEPT - 3)
    before = list(store.events(job_id))
    store.succeed(job_id, epoch, RESULT)
    after = list(store.events(job_id))
    assert (after[:-1], len(after)) == (before, KEPT)

"""What both stores promise at the edges: what has ended stays so, pages have an end, moves are told."""

import itertools
import time

import pytest

from shared.contracts.jobs import JobEventKind, JobState
from shared.errors import JobAlreadyFinal
from shared.jobs.ports import JobStore
from tests.support.job_store import FAILURE, LONG_S, RESULT, SHORT_S, running, submitted
from tests.support.jobs import teacher_spec


def ended(store: JobStore, how: str) -> str:
    grant = running(store)
    if how == "succeeded":
        store.succeed(grant.job_id, grant.epoch, RESULT)
    elif how == "failed":
        store.fail(grant.job_id, grant.epoch, FAILURE)
    else:
        store.request_cancel(grant.job_id)
        store.cancelled(grant.job_id, grant.epoch)
    return grant.job_id


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled"])
def test_a_job_that_has_ended_stays_as_it_is(store: JobStore, how: str) -> None:
    job_id = ended(store, how)
    before, events = store.get(job_id), len(store.events(job_id))
    assert before.state == how
    with pytest.raises(JobAlreadyFinal):
        store.request_pause(job_id)
    if how == "cancelled":
        # Whoever asks twice has what they want.
        assert store.request_cancel(job_id) == before
    else:
        with pytest.raises(JobAlreadyFinal):
            store.request_cancel(job_id)
    assert store.acquire(job_id, LONG_S, 3) is None
    assert list(store.claim_due()) == []
    assert (store.get(job_id), len(store.events(job_id))) == (before, events)


def test_every_move_is_told_with_epoch_and_attempts(store: JobStore) -> None:
    job_id = submitted(store)
    grant = running(store, job_id=job_id)
    store.release(job_id, grant.epoch, died="killed")
    told = [event.data for event in store.events(job_id) if event.kind is JobEventKind.STATE]
    assert [(one["state"], one["epoch"], one["attempts"]) for one in told] == [
        ("queued", 0, 0),
        ("running", 1, 1),
        ("queued", 1, 1),
    ]


def test_a_pause_that_is_taken_back_is_told(store: JobStore) -> None:
    grant = running(store)
    store.request_pause(grant.job_id)
    assert store.look(grant.job_id, grant.epoch).pause_requested
    assert not store.resume(grant.job_id).pause_requested
    assert not store.look(grant.job_id, grant.epoch).pause_requested
    told = [event.data.get("pause_requested") for event in store.events(grant.job_id)]
    assert told[-2:] == [True, False]
    # It may be asked for again.
    assert store.request_pause(grant.job_id).pause_requested


def test_a_cancel_takes_the_place_of_a_pause(store: JobStore) -> None:
    grant = running(store)
    store.request_pause(grant.job_id)
    store.request_cancel(grant.job_id)
    signal = store.look(grant.job_id, grant.epoch)
    assert (signal.cancel_requested, signal.pause_requested) == (True, False)
    assert store.events(grant.job_id)[-1].data.get("cancel_requested") is True
    assert store.release(grant.job_id, grant.epoch) is JobState.CANCELLED


def test_a_job_that_is_handed_back_comes_due_after_a_moment_and_not_at_once(store: JobStore) -> None:
    """Whoever hands it back sends its message as well."""
    grant = running(store)
    began = time.monotonic()
    store.release(grant.job_id, grant.epoch)
    while list(store.claim_due()) != [grant.job_id]:
        assert time.monotonic() - began < 10
    assert time.monotonic() - began >= 0.95 * SHORT_S - 0.002


def test_each_message_is_sent_again_after_twice_the_wait_up_to_the_longest(store: JobStore) -> None:
    job_id = submitted(store)
    sent_at: list[tuple[float, float]] = []
    deadline = time.monotonic() + 20
    while len(sent_at) < 6 and time.monotonic() < deadline:
        asked_at = time.monotonic()
        if list(store.claim_due()) == [job_id]:
            sent_at.append((asked_at, time.monotonic()))
        time.sleep(SHORT_S / 10)
    # From before one was asked for to after the next was given: at least what lay between both.
    waits = [given - asked for (asked, _), (_, given) in itertools.pairwise(sent_at)]
    # The first wait, twice that, and four times it from then on; a slow machine only makes them longer.
    for wait, least in zip(waits, (1, 2, 4, 4, 4), strict=True):
        assert wait >= 0.95 * least * SHORT_S - 0.002


def test_a_page_has_50_jobs_and_a_claim_50_where_nothing_else_is_asked(store: JobStore) -> None:
    for _ in range(51):
        submitted(store, teacher_spec())
    assert len(store.list().jobs) == 50
    time.sleep(2 * SHORT_S)
    assert len(list(store.claim_due())) == 50


# --- parents -----------------------------------------------------------------------------------------------


def waiting(store: JobStore, count: int) -> tuple[str, list[str]]:
    grant = running(store)
    children = [f"{grant.job_id}-{number:03}" for number in range(count)]
    store.wait(grant.job_id, grant.epoch, [(child, teacher_spec()) for child in children])
    return grant.job_id, children


def end(store: JobStore, job_id: str) -> None:
    store.succeed(job_id, running(store, job_id=job_id).epoch, RESULT)


def test_a_parent_that_wakes_comes_due_at_once_and_again_after_the_first_wait(store: JobStore) -> None:
    parent, (child,) = waiting(store, 1)
    end(store, child)
    assert store.get(parent).state is JobState.QUEUED
    began = time.monotonic()
    assert list(store.claim_due()) == [parent]
    while list(store.claim_due()) != [parent]:
        assert time.monotonic() - began < 10
    assert time.monotonic() - began >= 0.95 * SHORT_S - 0.002


def test_the_estimate_of_a_waiting_parent_is_by_the_pace_of_its_children(store: JobStore) -> None:
    """Two of four have ended: the other two take as long again."""
    began = time.monotonic()
    parent, children = waiting(store, 4)
    time.sleep(0.2)
    for child in children[:2]:
        end(store, child)
    progress = store.get(parent).progress
    assert progress is not None
    assert (progress.done, progress.total) == (2, 4)
    assert progress.eta_s is not None
    assert 0.15 <= progress.eta_s <= time.monotonic() - began + 0.1


def test_after_a_pause_the_estimate_counts_from_the_resume(store: JobStore) -> None:
    parent, children = waiting(store, 3)
    end(store, children[0])
    store.request_pause(parent)
    began = time.monotonic()
    store.resume(parent)
    progress = store.get(parent).progress
    assert progress is not None
    assert (progress.done, progress.eta_s) == (1, None)
    time.sleep(0.2)
    end(store, children[1])
    progress = store.get(parent).progress
    assert progress is not None
    # One since then, one to go.
    assert progress.eta_s is not None
    assert 0.15 <= progress.eta_s <= time.monotonic() - began + 0.1


def test_a_parent_put_aside_is_not_due_and_its_children_neither(store: JobStore) -> None:
    parent, children = waiting(store, 2)
    store.request_pause(parent)
    time.sleep(2 * SHORT_S)
    assert list(store.claim_due()) == []
    assert [store.get(child).state for child in children] == [JobState.PAUSED] * 2

"""Pause and resume: what both stores promise to jobs in every state, to parents and to children."""

import time
from collections.abc import Callable

import pytest

from shared.contracts.jobs import FINAL_STATES, JobEventKind, JobState
from shared.errors import JobAlreadyFinal, JobNotFound, JobNotPaused, LeaseLost
from shared.jobs.ports import Grant, JobStore
from tests.support.job_store import FAILURE, LONG_S, RESULT, SHORT_S, running, states, submitted
from tests.support.jobs import teacher_spec


def paused(store: JobStore) -> str:
    job_id = submitted(store)
    assert store.request_pause(job_id).state is JobState.PAUSED
    return job_id


def waiting(store: JobStore, count: int) -> tuple[str, list[str]]:
    grant = running(store)
    children = [f"{grant.job_id}-{number:03}" for number in range(count)]
    specs = [(child, teacher_spec()) for child in children]
    assert store.wait(grant.job_id, grant.epoch, specs) is JobState.WAITING
    return grant.job_id, children


def end(store: JobStore, job_id: str) -> None:
    store.succeed(job_id, running(store, job_id=job_id).epoch, RESULT)


def states_of(store: JobStore, jobs: list[str]) -> list[str]:
    return [store.get(job_id).state.value for job_id in jobs]


# --- alone -------------------------------------------------------------------------------------------------


def test_a_queued_job_is_paused_at_once_and_nobody_gets_its_lease(store: JobStore) -> None:
    job_id = paused(store)
    assert store.acquire(job_id, LONG_S, 3) is None
    assert store.request_pause(job_id).state is JobState.PAUSED
    assert states(store, job_id) == ["queued", "paused"]
    job = store.get(job_id)
    assert (job.epoch, job.attempts, job.finished_at, job.pause_requested) == (0, 0, None, False)


def test_a_paused_job_never_comes_due(store: JobStore) -> None:
    job_id = paused(store)
    time.sleep(3 * SHORT_S)
    assert list(store.claim_due()) == []
    store.resume(job_id)
    assert list(store.claim_due()) == [job_id]


def test_a_resumed_job_is_queued_due_at_once_and_runs(store: JobStore) -> None:
    job_id = paused(store)
    assert store.resume(job_id).state is JobState.QUEUED
    assert list(store.claim_due()) == [job_id]
    grant = running(store, job_id=job_id)
    assert (grant.epoch, grant.attempts) == (1, 1)
    assert states(store, job_id) == ["queued", "paused", "queued", "running"]


def test_a_running_job_is_asked_and_is_paused_once_its_holder_leaves(store: JobStore) -> None:
    grant = running(store)
    assert not store.look(grant.job_id, grant.epoch).pause_requested
    job = store.request_pause(grant.job_id)
    assert (job.state, job.pause_requested) == (JobState.RUNNING, True)
    before = len(store.events(grant.job_id))
    store.request_pause(grant.job_id)
    assert len(store.events(grant.job_id)) == before
    assert store.look(grant.job_id, grant.epoch).pause_requested
    assert store.renew(grant.job_id, grant.epoch, LONG_S).pause_requested
    assert store.release(grant.job_id, grant.epoch) is JobState.PAUSED
    job = store.get(grant.job_id)
    assert (job.attempts, job.pause_requested) == (0, False)
    # Its answer was lost: the same again changes nothing.
    assert store.release(grant.job_id, grant.epoch) is JobState.PAUSED
    assert states(store, grant.job_id) == ["queued", "running", "running", "paused"]
    told = [e.data for e in store.events(grant.job_id) if e.kind is JobEventKind.STATE]
    assert told[2]["pause_requested"] is True
    with pytest.raises(LeaseLost):
        store.renew(grant.job_id, grant.epoch, LONG_S)


def test_a_job_that_ends_before_it_can_pause_has_ended(store: JobStore) -> None:
    good, bad = running(store), running(store)
    for grant in (good, bad):
        store.request_pause(grant.job_id)
    assert store.succeed(good.job_id, good.epoch, RESULT) is JobState.SUCCEEDED
    assert store.fail(bad.job_id, bad.epoch, FAILURE) is JobState.FAILED
    assert not store.get(good.job_id).pause_requested
    assert not store.get(bad.job_id).pause_requested


def test_an_attempt_that_dies_while_it_is_to_pause_is_counted_and_not_run_again(store: JobStore) -> None:
    grant = running(store)
    store.request_pause(grant.job_id)
    assert store.release(grant.job_id, grant.epoch, died="killed by signal 9") is JobState.PAUSED
    assert store.get(grant.job_id).attempts == 1
    store.resume(grant.job_id)
    assert store.acquire(grant.job_id, LONG_S, 1) is None
    failure = store.get(grant.job_id).failure
    assert failure is not None
    assert "killed by signal 9" in failure.detail


def settle_by_message(store: JobStore, job_id: str) -> None:
    assert store.acquire(job_id, LONG_S, 3) is None


def settle_by_reconciler(store: JobStore, job_id: str) -> None:
    assert job_id not in store.claim_due()


@pytest.mark.parametrize("settle", [settle_by_message, settle_by_reconciler])
def test_a_job_that_was_to_pause_when_its_worker_died_is_paused_when_the_lease_lapses(
    store: JobStore, settle: Callable[[JobStore, str], None]
) -> None:
    job_id = submitted(store)
    grant = store.acquire(job_id, 4 * SHORT_S, 3)
    assert grant is not None
    assert store.request_pause(job_id).state is JobState.RUNNING
    time.sleep(5 * SHORT_S)
    settle(store, job_id)
    assert store.get(job_id).state is JobState.PAUSED
    assert store.acquire(job_id, LONG_S, 3) is None
    with pytest.raises(LeaseLost):
        store.succeed(job_id, grant.epoch, RESULT)


def test_a_job_whose_worker_vanished_is_paused_without_it(store: JobStore) -> None:
    grant = running(store, SHORT_S)
    time.sleep(2 * SHORT_S)
    assert store.request_pause(grant.job_id).state is JobState.PAUSED
    with pytest.raises(LeaseLost):
        store.renew(grant.job_id, grant.epoch, LONG_S)
    store.resume(grant.job_id)
    assert running(store, job_id=grant.job_id).epoch == 2


def test_a_pause_that_its_holder_has_not_made_yet_is_withdrawn_by_resume(store: JobStore) -> None:
    grant = running(store)
    store.request_pause(grant.job_id)
    job = store.resume(grant.job_id)
    assert (job.state, job.pause_requested) == (JobState.RUNNING, False)
    # The holder may have begun to leave.
    assert store.release(grant.job_id, grant.epoch) is JobState.QUEUED
    assert store.get(grant.job_id).attempts == 0


def test_only_a_paused_job_is_resumed_and_only_an_unfinished_one_paused(store: JobStore) -> None:
    queued, held = submitted(store), running(store)
    parent, _ = waiting(store, 1)
    done = running(store)
    store.succeed(done.job_id, done.epoch, RESULT)
    cancelled = submitted(store)
    store.request_cancel(cancelled)
    for job_id in (queued, held.job_id, parent, done.job_id, cancelled):
        with pytest.raises(JobNotPaused):
            store.resume(job_id)
    for job_id in (done.job_id, cancelled):
        with pytest.raises(JobAlreadyFinal):
            store.request_pause(job_id)
    for call in (store.request_pause, store.resume):
        with pytest.raises(JobNotFound):
            call("j-no")


def test_a_paused_job_is_cancelled_at_once_and_an_asked_one_by_its_holder(store: JobStore) -> None:
    job_id = paused(store)
    assert store.request_cancel(job_id).state is JobState.CANCELLED
    grant = running(store)
    store.request_pause(grant.job_id)
    job = store.request_cancel(grant.job_id)
    assert (job.cancel_requested, job.pause_requested) == (True, False)
    # A pause does not undo a cancel.
    assert not store.request_pause(grant.job_id).pause_requested
    assert store.release(grant.job_id, grant.epoch) is JobState.CANCELLED


def test_paused_jobs_are_listed(store: JobStore) -> None:
    job_id, _ = paused(store), submitted(store)
    assert [job.id for job in store.list(JobState.PAUSED).jobs] == [job_id]
    store.resume(job_id)
    assert store.list(JobState.PAUSED).jobs == ()


# --- parents and children ----------------------------------------------------------------------------------


def test_a_parent_that_waits_is_paused_with_its_unfinished_children(store: JobStore) -> None:
    parent, children = waiting(store, 4)
    end(store, children[0])
    held = running(store, job_id=children[1])
    assert store.request_pause(parent).state is JobState.PAUSED
    assert states_of(store, children) == ["succeeded", "running", "paused", "paused"]
    assert store.look(held.job_id, held.epoch).pause_requested
    assert store.release(held.job_id, held.epoch) is JobState.PAUSED
    assert list(store.claim_due()) == []


def test_a_resumed_parent_waits_again_for_its_resumed_children_and_goes_on(store: JobStore) -> None:
    parent, children = waiting(store, 3)
    end(store, children[0])
    held = running(store, job_id=children[1])
    store.request_pause(parent)
    job = store.resume(parent)
    assert job.state is JobState.WAITING
    assert job.progress is not None
    assert (job.progress.done, job.progress.total) == (1, 3)
    # The one that ran had not left yet, and stays.
    assert states_of(store, children) == ["succeeded", "running", "queued"]
    assert not store.look(held.job_id, held.epoch).pause_requested
    store.succeed(held.job_id, held.epoch, RESULT)
    end(store, children[2])
    assert store.get(parent).state is JobState.QUEUED
    assert len(running(store, job_id=parent).children) == 3
    assert states(store, parent) == ["queued", "running", "waiting", "paused", "waiting", "queued", "running"]


def test_children_that_end_while_their_parent_is_paused_do_not_wake_it(store: JobStore) -> None:
    parent, children = waiting(store, 2)
    grants = [running(store, job_id=child) for child in children]
    store.request_pause(parent)
    for grant in grants:
        store.succeed(grant.job_id, grant.epoch, RESULT)
    job = store.get(parent)
    assert job.state is JobState.PAUSED
    assert job.progress is not None
    assert job.progress.done == 2
    assert store.resume(parent).state is JobState.QUEUED
    assert [child.state for child in running(store, job_id=parent).children] == [JobState.SUCCEEDED] * 2


def test_a_child_that_fails_while_its_parent_is_paused_takes_its_siblings_along(store: JobStore) -> None:
    parent, children = waiting(store, 2)
    grant = running(store, job_id=children[0])
    store.request_pause(parent)
    store.fail(grant.job_id, grant.epoch, FAILURE)
    assert states_of(store, [parent, *children]) == ["paused", "failed", "cancelled"]
    assert store.resume(parent).state is JobState.QUEUED


def test_a_paused_child_keeps_its_parent_waiting(store: JobStore) -> None:
    parent, children = waiting(store, 2)
    store.request_pause(children[0])
    end(store, children[1])
    assert store.get(parent).state is JobState.WAITING
    store.resume(children[0])
    end(store, children[0])
    assert store.get(parent).state is JobState.QUEUED


def test_grandchildren_pause_and_resume_with_a_parent(store: JobStore) -> None:
    parent, (child,) = waiting(store, 1)
    grant = running(store, job_id=child)
    grandchild = f"{child}-000"
    store.wait(child, grant.epoch, [(grandchild, teacher_spec())])
    store.request_pause(parent)
    family = [parent, child, grandchild]
    assert states_of(store, family) == ["paused"] * 3
    store.resume(parent)
    assert states_of(store, family) == ["waiting", "waiting", "queued"]
    store.request_pause(parent)
    store.request_cancel(parent)
    assert states_of(store, family) == ["cancelled"] * 3


def test_a_parent_that_is_to_pause_makes_its_children_and_pauses_with_them(store: JobStore) -> None:
    grant: Grant = running(store)
    store.request_pause(grant.job_id)
    child = f"{grant.job_id}-000"
    assert store.wait(grant.job_id, grant.epoch, [(child, teacher_spec())]) is JobState.PAUSED
    assert states_of(store, [grant.job_id, child]) == ["paused", "paused"]
    assert store.get(grant.job_id).attempts == 0
    # Its answer was lost.
    assert store.wait(grant.job_id, grant.epoch, [(child, teacher_spec())]) is JobState.PAUSED
    store.resume(grant.job_id)
    assert states_of(store, [grant.job_id, child]) == ["waiting", "queued"]


def test_a_parent_that_is_to_pause_and_whose_children_have_ended_is_paused(store: JobStore) -> None:
    parent, (child,) = waiting(store, 1)
    end(store, child)
    again = running(store, job_id=parent)
    store.request_pause(parent)
    assert store.wait(parent, again.epoch, [(child, teacher_spec())]) is JobState.PAUSED
    assert store.resume(parent).state is JobState.QUEUED
    assert store.get(child).state in FINAL_STATES

"""Jobs that make jobs: what both stores promise to parents, children and siblings."""

import time

import pytest

from shared.contracts.jobs import ChildJob, JobEventKind, JobResult, JobState, Progress, Stage
from shared.contracts.specs import JobSpec
from shared.errors import JobAlreadyFinal, LeaseLost
from shared.jobs.ports import Grant, JobStore
from shared.jobs.service import new_job_id
from tests.support.job_store import FAILURE, LONG_S, RESULT, SHORT_S, running, states, submitted
from tests.support.jobs import distillation_spec, teacher_spec


def plan(parent: str, count: int, begin: int = 0) -> list[tuple[str, JobSpec]]:
    return [
        (f"{parent}-{number:03}", teacher_spec(f"member-{number}")) for number in range(begin, begin + count)
    ]


def waiting(store: JobStore, count: int = 3) -> tuple[Grant, list[str]]:
    """A parent that waits, and its children."""
    grant = running(store)
    children = plan(grant.job_id, count)
    assert store.wait(grant.job_id, grant.epoch, children) is JobState.WAITING
    return grant, [child for child, _ in children]


def succeed(store: JobStore, job_id: str, result: JobResult = RESULT) -> None:
    grant = running(store, job_id=job_id)
    assert store.succeed(job_id, grant.epoch, result) is JobState.SUCCEEDED


def counts(store: JobStore, job_id: str) -> list[tuple[int, int]]:
    events = [event for event in store.events(job_id) if event.kind is JobEventKind.PROGRESS]
    return [(event.data["done"], event.data["total"]) for event in events]  # type: ignore[misc]


def due_soon(store: JobStore, within_s: float = 20 * SHORT_S) -> set[str]:
    found: set[str] = set()
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found |= set(store.claim_due())
        time.sleep(0.005)
    return found


# --- to wait -----------------------------------------------------------------------------------------------


def test_children_are_queued_in_order_know_their_parent_and_are_known_by_it(store: JobStore) -> None:
    grant, children = waiting(store)
    parent = store.get(grant.job_id)
    assert (parent.state, parent.children, parent.parent) == (JobState.WAITING, tuple(children), None)
    for number, child in enumerate(map(store.get, children)):
        assert (child.state, child.parent, child.children) == (JobState.QUEUED, grant.job_id, ())
        assert child.spec == teacher_spec(f"member-{number}")
        assert states(store, child.id) == ["queued"]
    assert states(store, grant.job_id) == ["queued", "running", "waiting"]
    told = store.events(grant.job_id)[2]
    assert told.data["children"] == children


def test_to_wait_costs_no_attempt_and_nobody_gets_the_lease_meanwhile(store: JobStore) -> None:
    grant, children = waiting(store)
    assert store.get(grant.job_id).attempts == 0
    assert store.acquire(grant.job_id, LONG_S, 3) is None
    for child in children:
        succeed(store, child)
    again = running(store, job_id=grant.job_id)
    assert (again.epoch, again.attempts) == (2, 1)


def test_a_job_can_wait_more_often_than_it_may_die(store: JobStore) -> None:
    job_id = submitted(store)
    for number in range(5):
        grant = store.acquire(job_id, LONG_S, 1)
        assert grant is not None
        store.wait(job_id, grant.epoch, plan(job_id, 1, begin=number))
        succeed(store, f"{job_id}-{number:03}")
    assert len(store.get(job_id).children) == 5


def test_waiting_again_after_a_lost_answer_makes_nothing_new(store: JobStore) -> None:
    grant, children = waiting(store)
    before = store.get(grant.job_id), len(store.events(grant.job_id)), store.list().jobs
    assert store.wait(grant.job_id, grant.epoch, plan(grant.job_id, 3)) is JobState.WAITING
    assert (store.get(grant.job_id), len(store.events(grant.job_id)), store.list().jobs) == before
    for child in children:
        succeed(store, child)
    assert store.wait(grant.job_id, grant.epoch, plan(grant.job_id, 3)) is JobState.QUEUED
    assert store.get(grant.job_id).attempts == 0


def test_an_attempt_that_asks_for_the_same_children_leaves_them_as_they_are(store: JobStore) -> None:
    grant, children = waiting(store)
    for child in children:
        succeed(store, child)
    before = [store.get(child) for child in children]
    again = running(store, job_id=grant.job_id)
    assert store.wait(again.job_id, again.epoch, plan(again.job_id, 3)) is JobState.QUEUED
    assert [store.get(child) for child in children] == before
    assert store.get(grant.job_id).children == tuple(children)


def test_a_job_without_an_unfinished_child_does_not_wait(store: JobStore) -> None:
    grant = running(store)
    assert store.wait(grant.job_id, grant.epoch, []) is JobState.QUEUED
    assert states(store, grant.job_id) == ["queued", "running", "queued"]


def test_a_lease_that_passed_on_makes_no_children(store: JobStore) -> None:
    first = running(store, SHORT_S)
    time.sleep(2 * SHORT_S)
    running(store, job_id=first.job_id)
    with pytest.raises(LeaseLost):
        store.wait(first.job_id, first.epoch, plan(first.job_id, 3))
    assert [job.id for job in store.list().jobs] == [first.job_id]


def test_a_holder_of_before_writes_nothing_while_the_job_waits(store: JobStore) -> None:
    grant, _ = waiting(store)
    for write in (
        lambda: store.renew(grant.job_id, grant.epoch, 1),
        lambda: store.note(grant.job_id, grant.epoch, "still here"),
        lambda: store.succeed(grant.job_id, grant.epoch, RESULT),
        lambda: store.release(grant.job_id, grant.epoch),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.get(grant.job_id).state is JobState.WAITING


# --- the last child ----------------------------------------------------------------------------------------


def test_the_end_of_the_last_child_queues_the_parent_with_all_ends(store: JobStore) -> None:
    grant, children = waiting(store)
    results = [JobResult(artefact=f"train-{number}") for number in range(3)]
    # Not in their order.
    for number in (2, 0, 1):
        assert store.get(grant.job_id).state is JobState.WAITING
        succeed(store, children[number], results[number])
    assert store.get(grant.job_id).state is JobState.QUEUED
    again = running(store, job_id=grant.job_id)
    assert again.children == tuple(
        ChildJob(id=child, kind="teacher", state=JobState.SUCCEEDED, result=result)
        for child, result in zip(children, results, strict=True)
    )
    assert running(store).children == ()
    assert states(store, grant.job_id) == ["queued", "running", "waiting", "queued", "running"]


def test_a_child_that_is_acquired_knows_its_parent(store: JobStore) -> None:
    grant, children = waiting(store)
    assert running(store, job_id=children[0]).parent == grant.job_id
    assert grant.parent is None


def test_progress_of_a_parent_counts_the_ends_of_its_children(store: JobStore) -> None:
    grant, children = waiting(store)
    for child in children[:2]:
        time.sleep(SHORT_S)
        succeed(store, child)
    progress = store.get(grant.job_id).progress
    assert progress is not None
    assert (progress.stage, progress.done, progress.total, progress.unit) == (Stage.TRAIN, 2, 3, "jobs")
    # Two ends took at least 2 * SHORT_S, so the third one should take at least SHORT_S.
    assert progress.eta_s is not None
    assert 0.9 * SHORT_S <= progress.eta_s < 100 * SHORT_S
    succeed(store, children[2])
    assert counts(store, grant.job_id) == [(0, 3), (1, 3), (2, 3), (3, 3)]
    last = [event for event in store.events(grant.job_id) if event.kind is JobEventKind.PROGRESS][-1]
    assert Progress.model_validate(last.data) == store.get(grant.job_id).progress


def test_a_parent_comes_due_at_once_where_nobody_sent_its_message(store: JobStore) -> None:
    grant, children = waiting(store, 1)
    assert due_soon(store) == set(children)
    succeed(store, children[0])
    assert list(store.claim_due()) == [grant.job_id]


def test_a_parent_that_made_more_children_is_queued_by_the_last_of_all(store: JobStore) -> None:
    grant, first = waiting(store, 2)
    for child in first:
        succeed(store, child)
    again = running(store, job_id=grant.job_id)
    more = plan(grant.job_id, 2, begin=2)
    assert store.wait(again.job_id, again.epoch, more) is JobState.WAITING
    assert store.get(grant.job_id).children == (*first, *(child for child, _ in more))
    assert counts(store, grant.job_id)[-1] == (2, 4)
    for child, _ in more:
        succeed(store, child)
    assert len(running(store, job_id=grant.job_id).children) == 4


def test_a_child_whose_worker_died_runs_again_and_its_parent_waits_on(store: JobStore) -> None:
    grant, children = waiting(store, 1)
    running(store, SHORT_S, children[0])
    time.sleep(2 * SHORT_S)
    assert children[0] in store.claim_due()
    assert store.get(grant.job_id).state is JobState.WAITING
    succeed(store, children[0])
    assert store.get(children[0]).attempts == 2
    assert counts(store, grant.job_id) == [(0, 1), (1, 1)]


def test_a_child_may_make_children_of_its_own(store: JobStore) -> None:
    grant, children = waiting(store, 1)
    child = running(store, job_id=children[0])
    grandchildren = plan(child.job_id, 2)
    assert store.wait(child.job_id, child.epoch, grandchildren) is JobState.WAITING
    for grandchild, _ in grandchildren:
        succeed(store, grandchild)
    assert store.get(grant.job_id).state is JobState.WAITING
    succeed(store, child.job_id)
    assert store.get(grant.job_id).state is JobState.QUEUED


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_a_failed_child_has_its_siblings_cancelled_and_wakes_the_parent(store: JobStore) -> None:
    grant, children = waiting(store, 4)
    succeed(store, children[0])
    failing, held = running(store, job_id=children[1]), running(store, job_id=children[2])
    store.fail(failing.job_id, failing.epoch, FAILURE)
    # The queued one at once, the running one by its holder; the parent waits for that.
    assert store.get(children[3]).state is JobState.CANCELLED
    assert store.look(held.job_id, held.epoch).cancel_requested
    assert store.get(grant.job_id).state is JobState.WAITING
    assert store.cancelled(held.job_id, held.epoch) is JobState.CANCELLED
    ends = running(store, job_id=grant.job_id).children
    assert [end.state.value for end in ends] == ["succeeded", "failed", "cancelled", "cancelled"]
    assert ends[1].failure == FAILURE
    assert counts(store, grant.job_id) == [(0, 4), (1, 4), (3, 4), (4, 4)]


def test_a_child_given_up_because_its_workers_die_counts_as_failed(store: JobStore) -> None:
    grant, children = waiting(store, 2)
    for _ in range(3):
        died = running(store, job_id=children[0])
        store.release(died.job_id, died.epoch, died="killed")
    assert store.acquire(children[0], LONG_S, 3) is None
    ends = running(store, job_id=grant.job_id).children
    assert [end.state.value for end in ends] == ["failed", "cancelled"]
    assert ends[0].failure is not None
    assert ends[0].failure.code == "worker-died"


def test_a_cancelled_child_has_its_siblings_cancelled_too(store: JobStore) -> None:
    grant, children = waiting(store, 3)
    assert store.request_cancel(children[1]).state is JobState.CANCELLED
    assert {store.get(child).state for child in children} == {JobState.CANCELLED}
    assert store.get(grant.job_id).state is JobState.QUEUED
    assert counts(store, grant.job_id) == [(0, 3), (3, 3)]


def test_a_waiting_parent_is_cancelled_at_once_and_its_children_with_it(store: JobStore) -> None:
    grant, children = waiting(store)
    succeed(store, children[0])
    held = running(store, job_id=children[1])
    assert store.request_cancel(grant.job_id).state is JobState.CANCELLED
    assert store.get(children[0]).state is JobState.SUCCEEDED
    assert store.get(children[1]).cancel_requested
    assert store.get(children[2]).state is JobState.CANCELLED
    before = store.get(grant.job_id), len(store.events(grant.job_id))
    # The child that ran ends after its parent, which takes no more notice.
    assert store.succeed(held.job_id, held.epoch, RESULT) is JobState.CANCELLED
    assert (store.get(grant.job_id), len(store.events(grant.job_id))) == before
    assert states(store, grant.job_id) == ["queued", "running", "waiting", "cancelled"]
    assert store.request_cancel(grant.job_id).state is JobState.CANCELLED
    assert not due_soon(store) & {grant.job_id, *children}


def test_a_child_of_a_cancelled_parent_whose_worker_vanished_is_cancelled_without_a_worker(
    store: JobStore,
) -> None:
    grant, children = waiting(store, 1)
    store.acquire(children[0], 4 * SHORT_S, 3)
    store.request_cancel(grant.job_id)
    assert store.get(children[0]).state is JobState.RUNNING
    time.sleep(5 * SHORT_S)
    assert list(store.claim_due()) == []
    assert store.get(children[0]).state is JobState.CANCELLED


def test_grandchildren_are_cancelled_with_a_waiting_parent(store: JobStore) -> None:
    grant, children = waiting(store, 1)
    child = running(store, job_id=children[0])
    store.wait(child.job_id, child.epoch, plan(child.job_id, 2))
    store.request_cancel(grant.job_id)
    family = [grant.job_id, child.job_id, *(grandchild for grandchild, _ in plan(child.job_id, 2))]
    assert {store.get(job_id).state for job_id in family} == {JobState.CANCELLED}


def test_a_job_that_is_to_be_cancelled_makes_no_children(store: JobStore) -> None:
    grant = running(store)
    store.request_cancel(grant.job_id)
    assert store.wait(grant.job_id, grant.epoch, plan(grant.job_id, 3)) is JobState.CANCELLED
    assert [job.id for job in store.list().jobs] == [grant.job_id]


def test_a_running_parent_with_children_is_cancelled_as_any_other_job(store: JobStore) -> None:
    grant, children = waiting(store, 1)
    succeed(store, children[0])
    again = running(store, job_id=grant.job_id)
    assert store.request_cancel(grant.job_id).state is JobState.RUNNING
    assert store.cancelled(again.job_id, again.epoch) is JobState.CANCELLED
    assert store.get(children[0]).state is JobState.SUCCEEDED
    with pytest.raises(JobAlreadyFinal):
        store.request_cancel(children[0])


# --- lists -------------------------------------------------------------------------------------------------


def test_a_parents_children_are_listed_newest_first_by_state_kind_and_page(store: JobStore) -> None:
    grant = running(store)
    children = [
        *plan(grant.job_id, 4),
        (f"{grant.job_id}-004", distillation_spec()),
    ]
    store.wait(grant.job_id, grant.epoch, children)
    submitted(store)
    succeed(store, children[1][0])
    ids = [child for child, _ in children][::-1]
    parent = grant.job_id
    assert [job.id for job in store.list(parent=parent).jobs] == ids
    assert [job.id for job in store.list(kind="teacher", parent=parent).jobs] == ids[1:]
    assert [job.id for job in store.list(JobState.SUCCEEDED, parent=parent).jobs] == [children[1][0]]
    first = store.list(parent=parent, limit=3)
    rest = store.list(parent=parent, limit=3, cursor=first.next_cursor)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == ids
    assert rest.next_cursor is None
    assert store.list(parent="j-no").jobs == ()
    assert [job.id for job in store.list(JobState.WAITING).jobs] == [parent]


def test_a_grant_knows_the_key_that_its_job_was_submitted_with_and_so_do_those_of_its_children(
    store: JobStore,
) -> None:
    job, _ = store.submit(new_job_id(), teacher_spec("parent"), owner="anna", key_id="abcdefgh0123")
    grant = store.acquire(job.id, LONG_S, 3)
    assert grant is not None
    assert (grant.owner, grant.key_id) == ("anna", "abcdefgh0123")
    children = plan(job.id, 2)
    store.wait(job.id, grant.epoch, children)
    for child, _ in children:
        found = store.acquire(child, LONG_S, 3)
        assert found is not None
        assert found.key_id == "abcdefgh0123"


def test_a_grant_of_a_job_without_a_key_has_none(store: JobStore) -> None:
    job, _ = store.submit(new_job_id(), teacher_spec("alone"))
    grant = store.acquire(job.id, LONG_S, 3)
    assert grant is not None
    assert grant.key_id is None

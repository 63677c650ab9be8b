"""Whose jobs are whose, in both stores: lists, children, idempotency keys, and records from before."""

import pytest

from shared.adapters.redis_client import connect
from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import JobState
from shared.errors import IdempotencyConflict
from shared.jobs.ports import JobStore
from shared.jobs.service import new_job_id
from tests.support.job_store import running
from tests.support.jobs import distillation_spec, teacher_spec


def owned(store: JobStore, owner: str | None, count: int = 1) -> list[str]:
    return [store.submit(new_job_id(), teacher_spec(), owner=owner)[0].id for _ in range(count)]


def test_a_job_and_its_grant_say_whose_it_is(store: JobStore) -> None:
    (ada,), (nobodys,) = owned(store, "ada"), owned(store, None)
    assert (store.get(ada).owner, store.get(nobodys).owner) == ("ada", None)
    assert running(store, job_id=ada).owner == "ada"
    assert running(store, job_id=nobodys).owner is None


def test_children_and_their_children_belong_to_the_owner_of_their_parent(store: JobStore) -> None:
    (parent,) = owned(store, "ada")
    child, grandchild = f"{parent}-000", f"{parent}-000-000"
    store.wait(parent, running(store, job_id=parent).epoch, [(child, teacher_spec())])
    grant = running(store, job_id=child)
    store.wait(child, grant.epoch, [(grandchild, teacher_spec())])
    assert grant.owner == store.get(child).owner == store.get(grandchild).owner == "ada"
    assert [job.id for job in store.list(owner="ada").jobs] == [grandchild, child, parent]
    assert [job.id for job in store.list(parent=parent, owner="ada").jobs] == [child]
    assert store.list(parent=parent, owner="bob").jobs == ()


def test_pages_of_an_owner_show_every_job_of_theirs_once_among_those_of_others(store: JobStore) -> None:
    mine: list[str] = []
    for _ in range(7):
        mine += owned(store, "ada")
        owned(store, "bob", 2)
        owned(store, None)
    seen: list[str] = []
    cursor = None
    while True:
        page = store.list(cursor=cursor, limit=3, owner="ada")
        assert len(page.jobs) == 3 or page.next_cursor is None
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == mine[::-1]
    assert len(store.list(limit=100).jobs) == 28
    assert store.list(owner="carl").jobs == ()


def test_lists_of_an_owner_are_filtered_by_state_and_kind(store: JobStore) -> None:
    first, second = owned(store, "ada", 2)
    student = store.submit(new_job_id(), distillation_spec(), owner="ada")[0].id
    running(store, job_id=first)
    running(store, job_id=owned(store, "bob")[0])
    assert [job.id for job in store.list(JobState.RUNNING, owner="ada").jobs] == [first]
    assert [job.id for job in store.list(JobState.QUEUED, owner="ada").jobs] == [student, second]
    assert [job.id for job in store.list(JobState.QUEUED, "distillation", owner="ada").jobs] == [student]
    store.request_cancel(second)
    assert [job.id for job in store.list(JobState.CANCELLED, owner="ada").jobs] == [second]
    assert [job.id for job in store.list(JobState.QUEUED, owner="ada").jobs] == [student]


def test_two_owners_with_the_same_key_do_not_meet(store: JobStore) -> None:
    made = {
        owner: store.submit(new_job_id(), teacher_spec(), "key", digest, owner)[0].id
        for owner, digest in (("ada", "one"), ("bob", "two"), (None, "three"))
    }
    assert len(set(made.values())) == 3
    for owner, digest in (("ada", "one"), ("bob", "two"), (None, "three")):
        again, created = store.submit(new_job_id(), teacher_spec(), "key", digest, owner)
        assert (again.id, created) == (made[owner], False)
    with pytest.raises(IdempotencyConflict):
        store.submit(new_job_id(), teacher_spec(), "key", "two", "ada")


@pytest.mark.integration
def test_a_record_from_before_there_were_owners_and_pauses_goes_on(redis_url: str) -> None:
    store = RedisJobStore(redis_url)
    (job_id,) = owned(store, None)
    # Fields that were not there are missing, not empty.
    redis = connect(redis_url)
    assert not set(redis.hgetall(f"imago:job:{job_id}")) & {"owner", "pause"}
    redis.close()
    grant = running(store, job_id=job_id)
    assert store.release(job_id, grant.epoch) is JobState.QUEUED
    assert store.request_cancel(job_id).owner is None
    store.close()

"""One owner cannot fill the store: so many jobs of theirs may be there that have not ended, and no more."""

from collections.abc import Callable, Iterator

import pytest

from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import MOST_UNFINISHED, JobState
from shared.errors import IdempotencyConflict, JobNotFound, TooManyJobs
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.ports import JobStore
from shared.jobs.service import new_job_id
from tests.support.job_store import RESULT, running
from tests.support.jobs import teacher_spec

MOST = 3


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(most_unfinished=MOST)
        return
    store = RedisJobStore(request.getfixturevalue("redis_url"), most_unfinished=MOST)
    yield store
    store.close()


def of_ada(store: JobStore, count: int = 1) -> list[str]:
    return [store.submit(new_job_id(), teacher_spec(), owner="ada")[0].id for _ in range(count)]


def is_full(store: JobStore, owner: str = "ada") -> bool:
    job_id = new_job_id()
    try:
        store.submit(job_id, teacher_spec(), owner=owner)
    except TooManyJobs:
        with pytest.raises(JobNotFound):
            store.get(job_id)
        return True
    store.request_cancel(job_id)
    return False


def test_an_owner_with_as_many_as_there_may_be_gets_no_more_and_others_do(store: JobStore) -> None:
    of_ada(store, MOST - 1)
    assert not is_full(store)
    of_ada(store)
    assert is_full(store)
    store.submit(new_job_id(), teacher_spec(), owner="bob")
    for _ in range(MOST + 1):
        store.submit(new_job_id(), teacher_spec())


def waits(store: JobStore, job_id: str) -> None:
    """For one child, which counts as well."""
    store.wait(job_id, running(store, job_id=job_id).epoch, [(f"{job_id}-000", teacher_spec())])
    store.request_cancel(of_ada_queued(store, job_id))


def of_ada_queued(store: JobStore, but: str) -> str:
    theirs = store.list(JobState.QUEUED, owner="ada").jobs
    return next(job.id for job in theirs if job.parent is None and job.id != but)


@pytest.mark.parametrize(
    "done",
    [
        pytest.param(lambda store, job_id: running(store, job_id=job_id), id="running"),
        pytest.param(lambda store, job_id: store.request_pause(job_id), id="paused"),
        pytest.param(waits, id="waiting"),
    ],
)
def test_what_runs_waits_or_is_paused_has_not_ended(
    store: JobStore, done: Callable[[JobStore, str], object]
) -> None:
    job_id, *_ = of_ada(store, MOST)
    done(store, job_id)
    assert is_full(store)


def test_what_ended_makes_room_however_it_ended(store: JobStore) -> None:
    done, cancelled, _ = of_ada(store, MOST)
    store.succeed(done, running(store, job_id=done).epoch, RESULT)
    assert not is_full(store)
    of_ada(store)
    assert is_full(store)
    store.request_cancel(cancelled)
    assert not is_full(store)


def test_a_key_of_before_is_answered_as_before_and_a_new_one_stays_unused(store: JobStore) -> None:
    first, _ = store.submit("j-one", teacher_spec(), "key", "digest", "ada")
    of_ada(store, MOST - 1)
    assert store.submit("j-two", teacher_spec(), "key", "digest", "ada") == (first, False)
    assert store.submit("j-one", teacher_spec(), "key", "digest", "ada") == (first, True)
    with pytest.raises(IdempotencyConflict):
        store.submit("j-two", teacher_spec(), "key", "other", "ada")
    with pytest.raises(TooManyJobs):
        store.submit("j-three", teacher_spec(), "another", "digest", "ada")
    store.request_cancel("j-one")
    assert store.submit("j-four", teacher_spec(), "another", "digest", "ada")[0].id == "j-four"


def test_the_last_that_fits_may_be_sent_again_where_its_answer_was_lost(store: JobStore) -> None:
    *_, last = of_ada(store, MOST)
    job, created = store.submit(last, teacher_spec(), owner="ada")
    assert (job.id, created) == (last, True)


def test_ten_thousand_are_the_most_where_nothing_else_is_asked() -> None:
    store = MemoryJobStore()
    (parent,) = of_ada(store)
    children = [(f"{parent}-{number}", teacher_spec()) for number in range(MOST_UNFINISHED - 2)]
    store.wait(parent, running(store, job_id=parent).epoch, children)
    of_ada(store)
    with pytest.raises(TooManyJobs, match="10000 jobs"):
        of_ada(store)

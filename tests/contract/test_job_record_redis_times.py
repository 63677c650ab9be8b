"""When a job comes due by the record in Redis: read from its keys, with time gone by written into them."""

import json
from collections.abc import Iterator

import pytest
import redis

from shared.adapters.redis_jobs import RedisJobStore
from shared.adapters.redis_jobs_records import PREFIX
from tests.support.job_store import RESULT, running, submitted
from tests.support.jobs import teacher_spec

pytestmark = pytest.mark.integration

FIRST_S, LONGEST_S, LEASE_S = 1000.0, 3500.0, 700.0
SLACK_S = 30.0
"""More than a test takes, less than what any two waits differ by."""


@pytest.fixture
def server(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url, resend_first_s=FIRST_S, resend_longest_s=LONGEST_S)
    yield store
    store.close()


def due_in(server: "redis.Redis", job_id: str) -> float:
    score = server.zscore(f"{PREFIX}due", job_id)
    assert score is not None
    seconds, microseconds = server.time()
    return score / 1000 - seconds - microseconds / 1e6


def about(seconds: float) -> object:
    return pytest.approx(seconds, abs=SLACK_S)


def waits(server: "redis.Redis", store: RedisJobStore, job_id: str, count: int) -> list[float]:
    """For how long it waits now, and after each message that is sent again because that time is over."""
    found = [due_in(server, job_id)]
    while len(found) < count:
        server.zadd(f"{PREFIX}due", {job_id: 0})
        assert store.claim_due() == [job_id]
        found.append(due_in(server, job_id))
    return found


def let_lapse(server: "redis.Redis", job_id: str) -> None:
    server.hset(f"{PREFIX}job:{job_id}", "until", "1")
    server.zadd(f"{PREFIX}due", {job_id: 1})


def test_a_job_is_sent_again_after_the_first_wait_then_twice_that_up_to_the_longest(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    found = waits(server, store, submitted(store), 5)
    assert found == [about(FIRST_S), about(FIRST_S), about(2 * FIRST_S), about(LONGEST_S), about(LONGEST_S)]


@pytest.mark.parametrize("died", [None, "killed"])
def test_what_is_handed_back_waits_as_if_it_were_new(
    server: "redis.Redis", store: RedisJobStore, died: str | None
) -> None:
    """Also where messages went out meanwhile, as for a holder that was paused beyond its lease."""
    grant = running(store, LEASE_S)
    assert waits(server, store, grant.job_id, 3) == [about(LEASE_S), about(FIRST_S), about(2 * FIRST_S)]
    store.release(grant.job_id, grant.epoch, died=died)
    assert waits(server, store, grant.job_id, 3) == [about(FIRST_S), about(FIRST_S), about(2 * FIRST_S)]


def test_a_job_that_is_taken_waits_for_its_lease_and_then_as_if_it_were_new(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    job_id = submitted(store)
    waits(server, store, job_id, 3)
    running(store, LEASE_S, job_id)
    assert waits(server, store, job_id, 3) == [about(LEASE_S), about(FIRST_S), about(2 * FIRST_S)]


def test_a_renewal_moves_what_is_due_to_the_end_of_the_lease(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    grant = running(store, LEASE_S)
    store.renew(grant.job_id, grant.epoch, 2 * LEASE_S)
    assert due_in(server, grant.job_id) == about(2 * LEASE_S)


def test_a_lease_that_is_granted_again_lasts_from_the_second_answer(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    job_id = submitted(store)
    first = store.acquire(job_id, LEASE_S, 3, "one")
    assert store.acquire(job_id, 2 * LEASE_S, 3, "one") == first
    assert due_in(server, job_id) == about(2 * LEASE_S)
    until = server.hget(f"{PREFIX}job:{job_id}", "until")
    assert float(until or 0) == server.zscore(f"{PREFIX}due", job_id)


def test_a_parent_that_wakes_waits_as_if_it_were_new(server: "redis.Redis", store: RedisJobStore) -> None:
    parent = running(store, LEASE_S)
    waits(server, store, parent.job_id, 3)
    store.wait(parent.job_id, parent.epoch, [("j-child", teacher_spec())])
    assert server.zscore(f"{PREFIX}due", parent.job_id) is None
    assert due_in(server, "j-child") == about(FIRST_S)
    child = running(store, LEASE_S, "j-child")
    store.succeed(child.job_id, child.epoch, RESULT)
    assert server.zscore(f"{PREFIX}due", child.job_id) is None
    assert waits(server, store, parent.job_id, 3) == [about(0), about(FIRST_S), about(2 * FIRST_S)]


def test_a_parent_whose_children_had_all_ended_is_due_at_once(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    parent = running(store, LEASE_S)
    store.wait(parent.job_id, parent.epoch, [])
    assert due_in(server, parent.job_id) == about(0)


def test_what_is_put_aside_is_not_due_and_is_due_at_once_when_it_resumes(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    job_id = submitted(store)
    waits(server, store, job_id, 3)
    store.request_pause(job_id)
    assert server.zscore(f"{PREFIX}due", job_id) is None
    store.resume(job_id)
    assert waits(server, store, job_id, 3) == [about(0), about(FIRST_S), about(2 * FIRST_S)]


def test_a_lapsed_lease_goes_to_the_next_with_the_reason_kept(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    grant = running(store, LEASE_S)
    let_lapse(server, grant.job_id)
    assert store.claim_due() == [grant.job_id]
    again = running(store, LEASE_S, grant.job_id)
    assert (again.epoch, again.attempts) == (2, 2)
    assert server.hget(f"{PREFIX}job:{grant.job_id}", "reason") == (
        "its worker was not heard of before the lease ran out"
    )


def test_what_has_gone_from_the_queue_is_forgotten_by_the_claim(
    server: "redis.Redis", store: RedisJobStore
) -> None:
    """A due entry without a job, and one of a job that ended: neither is sent, neither stays."""
    grant = running(store, LEASE_S)
    store.succeed(grant.job_id, grant.epoch, RESULT)
    server.zadd(f"{PREFIX}due", {"j-none": 0, grant.job_id: 0})
    assert store.claim_due() == []
    assert server.zcard(f"{PREFIX}due") == 0


def test_an_idempotency_key_is_kept_for_a_day(server: "redis.Redis", store: RedisJobStore) -> None:
    store.submit("j-one", teacher_spec(), "key", "digest")
    (key,) = server.keys(f"{PREFIX}idempotency:*")
    assert server.ttl(key) == about(24 * 3600)


def test_about_ten_thousand_events_of_a_job_are_kept(server: "redis.Redis", store: RedisJobStore) -> None:
    """Redis drops whole nodes of 100 entries."""
    grant = running(store, LEASE_S)
    stream = f"{PREFIX}job:{grant.job_id}:events"
    with server.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.xadd(stream, {"kind": "note", "data": f'{{"text":"{number}"}}'})
        pipe.execute()
    store.note(grant.job_id, grant.epoch, "the last")
    assert 10_000 <= server.xlen(stream) < 10_100
    assert json.loads(server.xrevrange(stream, count=1)[0][1]["data"]) == {"text": "the last"}

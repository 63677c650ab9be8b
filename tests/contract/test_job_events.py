"""Followers of a job's events see each once, in order, to the end."""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from shared.adapters.redis_jobs import RedisJobStore
from shared.adapters.redis_jobs_events import JobEventReader
from shared.contracts.jobs import JobEvent, JobResult
from shared.errors import JobNotFound, JobStoreUnavailable
from tests.support.job_store import running
from tests.support.jobs import teacher_spec
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.integration


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url)
    yield store
    store.close()


def seen(
    url: str, read: Callable[[JobEventReader], AsyncIterator[JobEvent | None]], most: int = 1000
) -> list[JobEvent | None]:
    async def collect() -> list[JobEvent | None]:
        reader = JobEventReader(url)
        events: list[JobEvent | None] = []
        try:
            async for event in read(reader):
                events.append(event)
                if len(events) == most:
                    break
        finally:
            await reader.close()
        return events

    return asyncio.run(collect())


def test_a_follower_sees_what_was_and_what_comes_and_leaves_with_the_job(
    store: RedisJobStore, redis_url: str
) -> None:
    store.submit("j-1", teacher_spec())

    def work() -> None:
        grant = store.acquire("j-1", 60, 3)
        assert grant is not None
        for number in range(20):
            store.note("j-1", grant.epoch, str(number))
            time.sleep(0.01)
        store.succeed("j-1", grant.epoch, JobResult())

    worker = threading.Timer(0.2, work)
    worker.start()
    events = seen(redis_url, lambda reader: reader.follow("j-1"))
    worker.join()
    assert events == list(store.events("j-1"))
    assert [event.data.get("text") for event in events if event is not None][2:-1] == [
        str(number) for number in range(20)
    ]


def test_a_follower_of_a_parent_stays_while_it_waits_for_its_children(
    store: RedisJobStore, redis_url: str
) -> None:
    grant = running(store)
    child = f"{grant.job_id}-000"
    store.wait(grant.job_id, grant.epoch, [(child, teacher_spec())])

    def work() -> None:
        store.succeed(child, running(store, job_id=child).epoch, JobResult())
        again = running(store, job_id=grant.job_id)
        store.succeed(grant.job_id, again.epoch, JobResult())

    worker = threading.Timer(0.2, work)
    worker.start()
    events = seen(redis_url, lambda reader: reader.follow(grant.job_id))
    worker.join()
    told = [event.data.get("state", "progress") for event in events if event is not None]
    assert told == [
        "queued", "running", "waiting", "progress", "progress", "queued", "running", "succeeded"
    ]  # fmt: skip


def test_a_stream_resumes_behind_the_last_event_and_ends_where_nothing_can_come(
    store: RedisJobStore, redis_url: str
) -> None:
    store.submit("j-1", teacher_spec())
    store.request_cancel("j-1")
    first, last = store.events("j-1")
    assert seen(redis_url, lambda reader: reader.follow("j-1", first.id)) == [last]
    assert seen(redis_url, lambda reader: reader.follow("j-1", last.id)) == []


def test_a_quiet_stream_beats(store: RedisJobStore, redis_url: str) -> None:
    store.submit("j-1", teacher_spec())
    events = seen(redis_url, lambda reader: reader.follow_with_beats("j-1", beat_s=0.5), most=2)
    assert events == [*store.events("j-1"), None]


def test_an_unknown_job_cannot_be_followed(redis_url: str) -> None:
    with pytest.raises(JobNotFound):
        seen(redis_url, lambda reader: reader.follow("j-no"))


def test_a_follower_is_told_within_seconds_that_redis_hangs(
    store: RedisJobStore, redis_url: str, redis_server: RedisServer
) -> None:
    store.submit("j-1", teacher_spec())
    hang = threading.Timer(0.3, redis_server.send, [signal.SIGSTOP])
    hang.start()
    began = time.monotonic()
    try:
        with pytest.raises(JobStoreUnavailable):
            seen(redis_url, lambda reader: reader.follow("j-1"))
    finally:
        hang.join()
        redis_server.send(signal.SIGCONT)
    assert time.monotonic() - began < 4

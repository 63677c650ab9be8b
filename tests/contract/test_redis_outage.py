"""A Redis that is down or hangs costs a caller 2.5 seconds at most, and nothing acknowledged is lost."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from shared.adapters.dispatch import CeleryDispatcher, broker_url
from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import JobResult, JobState
from shared.errors import JobStoreUnavailable
from tests.support.job_store import running
from tests.support.jobs import teacher_spec
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.integration
MOST_S = 2.5


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url)
    yield store
    store.close()


@pytest.fixture
def dispatcher(redis_url: str) -> Iterator[CeleryDispatcher]:
    dispatcher = CeleryDispatcher(redis_url)
    yield dispatcher
    dispatcher.close()


@contextmanager
def down(server: RedisServer) -> Iterator[None]:
    server.stop(signal.SIGKILL)
    try:
        yield
    finally:
        server.start()


@contextmanager
def hanging(server: RedisServer) -> Iterator[None]:
    server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send(signal.SIGCONT)


def refused_within_the_limit(call: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(JobStoreUnavailable):
        call()
    assert time.monotonic() - began < MOST_S


@pytest.mark.parametrize("trouble", [down, hanging])
def test_a_redis_that_is_gone_is_told_in_time_and_found_again(
    trouble: Callable[[RedisServer], Iterator[None]],
    store: RedisJobStore,
    dispatcher: CeleryDispatcher,
    redis_server: RedisServer,
) -> None:
    store.submit("j-before", teacher_spec())
    dispatcher.send("j-before")
    with trouble(redis_server):
        refused_within_the_limit(lambda: store.submit("j-during", teacher_spec()))
        refused_within_the_limit(lambda: store.events("j-before"))
        refused_within_the_limit(lambda: dispatcher.send("j-before"))
        refused_within_the_limit(dispatcher.backlog)
    store.submit("j-after", teacher_spec())
    dispatcher.send("j-after")
    # What hung may still have arrived; what was acknowledged must be there.
    assert {"j-before", "j-after"} <= {job.id for job in store.list().jobs}
    assert dispatcher.backlog() >= 2


def test_a_parent_and_its_children_outlive_a_redis_that_was_killed(
    store: RedisJobStore, redis_server: RedisServer
) -> None:
    grant = running(store)
    children = [(f"{grant.job_id}-{number:03}", teacher_spec()) for number in range(2)]
    store.wait(grant.job_id, grant.epoch, children)
    for child, _ in children:
        with down(redis_server):
            pass
        assert store.get(grant.job_id).state is JobState.WAITING
        store.succeed(child, running(store, job_id=child).epoch, JobResult())
    with down(redis_server):
        pass
    assert store.get(grant.job_id).state is JobState.QUEUED
    assert [child.id for child in running(store, job_id=grant.job_id).children] == [
        child for child, _ in children
    ]


def test_a_first_send_to_a_redis_that_hangs_gives_up_in_time(
    redis_url: str, redis_server: RedisServer
) -> None:
    fresh = CeleryDispatcher(redis_url)
    with hanging(redis_server):
        refused_within_the_limit(lambda: fresh.send("j-1"))
    fresh.close()


def test_a_redis_without_memory_is_an_unavailable_store_and_not_an_error_of_ours(
    store: RedisJobStore, redis_server: RedisServer
) -> None:
    store.submit("j-before", teacher_spec())
    with Redis(port=redis_server.port) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(JobStoreUnavailable):
                store.submit("j-1", teacher_spec())
        finally:
            client.config_set("maxmemory", 0)
    assert store.get("j-before").id == "j-before"


def test_a_unix_socket_is_written_as_celery_wants_it() -> None:
    assert broker_url("unix:///run/redis.sock?db=3") == "redis+socket:///run/redis.sock?virtual_host=3"
    assert broker_url("redis://redis:6379/0") == "redis://redis:6379/0"

"""A lease that was granted and whose answer was lost: whoever asks again by the same name has it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import JobState
from shared.errors import JobStoreUnavailable, LeaseLost
from shared.jobs.ports import JobStore
from shared.jobs.service import new_job_id
from tests.support.job_store import LONG_S, RESULT, SHORT_S, running, submitted
from tests.support.jobs import teacher_spec
from tests.support.redis_server import RedisServer


def test_the_same_taker_gets_the_same_grant_and_spends_one_attempt(store: JobStore) -> None:
    job_id = store.submit(new_job_id(), teacher_spec(), owner="ada", key_id="k" * 12)[0].id
    parent = running(store, job_id=job_id)
    store.wait(job_id, parent.epoch, [(f"{job_id}-000", teacher_spec())])
    child = running(store, job_id=f"{job_id}-000")
    store.succeed(child.job_id, child.epoch, RESULT)
    first = store.acquire(job_id, LONG_S, 3, "one")
    before = store.get(job_id), store.events(job_id)
    assert first is not None
    assert (first.epoch, first.attempts, first.owner, len(first.children)) == (2, 1, "ada", 1)
    assert store.acquire(job_id, LONG_S, 3, "one") == first
    assert (store.get(job_id), store.events(job_id)) == before
    assert store.renew(job_id, first.epoch, LONG_S).cancel_requested is False


@pytest.mark.parametrize("taker", ["two", None])
def test_another_taker_gets_nothing_while_the_lease_lasts(store: JobStore, taker: str | None) -> None:
    job_id = submitted(store)
    assert store.acquire(job_id, LONG_S, 3, "one") is not None
    assert store.acquire(job_id, LONG_S, 3, taker) is None


def test_who_gives_no_name_is_nobody_twice(store: JobStore) -> None:
    job_id = submitted(store)
    assert store.acquire(job_id, LONG_S, 3) is not None
    assert store.acquire(job_id, LONG_S, 3) is None


def test_a_lease_that_lapsed_meanwhile_is_a_new_one_and_an_attempt(store: JobStore) -> None:
    job_id = submitted(store)
    store.acquire(job_id, SHORT_S, 3, "one")
    time.sleep(2 * SHORT_S)
    again = store.acquire(job_id, LONG_S, 3, "one")
    assert again is not None
    assert (again.epoch, again.attempts) == (2, 2)


def test_a_taker_of_before_has_nothing_once_another_took_the_job(store: JobStore) -> None:
    job_id = submitted(store)
    first = store.acquire(job_id, LONG_S, 3, "one")
    assert first is not None
    store.release(job_id, first.epoch)
    store.acquire(job_id, LONG_S, 3, "two")
    assert store.acquire(job_id, LONG_S, 3, "one") is None
    with pytest.raises(LeaseLost):
        store.look(job_id, first.epoch)


def test_a_taker_who_gave_the_job_back_takes_it_anew(store: JobStore) -> None:
    job_id = submitted(store)
    first = store.acquire(job_id, LONG_S, 3, "one")
    assert first is not None
    store.release(job_id, first.epoch, died="killed")
    again = store.acquire(job_id, LONG_S, 3, "one")
    assert again is not None
    assert (again.epoch, again.attempts) == (2, 2)


def test_a_taker_of_a_job_that_ended_gets_nothing(store: JobStore) -> None:
    job_id = submitted(store)
    grant = store.acquire(job_id, LONG_S, 3, "one")
    assert grant is not None
    store.succeed(job_id, grant.epoch, RESULT)
    assert store.acquire(job_id, LONG_S, 3, "one") is None


# --- on the wire -------------------------------------------------------------------------------------------


@contextmanager
def losing_grants(port: int, most: int) -> Iterator[int]:
    """A way to Redis that dies with the first `most` answers that grant a lease; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    lost: list[None] = []

    def back(client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while answer := server.recv(65536):
                if b"granted" in answer and len(lost) < most:
                    lost.append(None)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(answer)

    def forth(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while question := client.recv(65536):
                server.sendall(question)
            server.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for way in (back, forth):
                    threading.Thread(target=way, args=(client, server), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    assert len(lost) == most


@pytest.mark.integration
@pytest.mark.parametrize("taker", [None, "one"])
def test_a_grant_whose_answer_is_lost_arrives_with_the_second_try(
    redis_server: RedisServer, redis_url: str, taker: str | None
) -> None:
    with losing_grants(redis_server.port, 1) as port:
        store = RedisJobStore(redis_url.replace(f":{redis_server.port}", f":{port}"))
        job_id = submitted(store)
        grant = store.acquire(job_id, LONG_S, 3, taker)
        assert grant is not None
        assert (grant.epoch, grant.attempts, store.get(job_id).attempts) == (1, 1, 1)
        store.close()


@pytest.mark.integration
def test_a_taker_who_was_told_that_redis_is_gone_asks_again_and_has_the_job(
    redis_server: RedisServer, redis_url: str
) -> None:
    with losing_grants(redis_server.port, 2) as port:
        store = RedisJobStore(redis_url.replace(f":{redis_server.port}", f":{port}"))
        job_id = submitted(store)
        with pytest.raises(JobStoreUnavailable):
            store.acquire(job_id, LONG_S, 3, "one")
        grant = store.acquire(job_id, LONG_S, 3, "one")
        assert grant is not None
        assert (grant.epoch, grant.attempts) == (1, 1)
        assert store.get(job_id).state is JobState.RUNNING
        store.close()

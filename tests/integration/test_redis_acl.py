"""Each role does its work on a Redis that lets it do that and nothing else; strangers do nothing."""

import asyncio
import base64
import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_acl import GATEWAY, HEALTH, RULES, WORKER
from shared.adapters.redis_jobs import RedisJobStore
from shared.adapters.redis_limits import RedisLimits, Spent
from shared.adapters.redis_studies import RedisJournal
from shared.contracts.jobs import JobState
from shared.contracts.task_names import JOBS_QUEUE
from shared.errors import JobStoreUnavailable
from tests.support.acl_redis import AclRedis
from tests.support.gateway_process import GatewayProcess
from tests.support.jobs import teacher_spec
from tests.support.worker_jobs import Jobs
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AclRedis]:
    server = AclRedis(tmp_path)
    yield server
    server.close()


@pytest.fixture
def jobs(server: AclRedis, tmp_path: Path) -> Iterator[Jobs]:
    store, dispatcher = RedisJobStore(server.url(GATEWAY)), CeleryDispatcher(server.url(GATEWAY))
    yield Jobs(store, dispatcher, tmp_path)
    store.close()
    dispatcher.close()


@pytest.fixture
def worker(server: AclRedis, tmp_path: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(server.url(WORKER), tmp_path)
    yield worker.wait_until_ready()
    worker.close()


def test_jobs_of_all_kinds_of_ends_are_denied_nothing(
    server: AclRedis, jobs: Jobs, worker: WorkerProcess
) -> None:
    parent = jobs.submit("parent", 2)
    assert jobs.final(parent).state is JobState.SUCCEEDED
    stopped, lost = jobs.submit("slow", 1000), jobs.submit("quick", send=False)
    jobs.training(stopped)
    jobs.store.request_cancel(stopped)
    assert jobs.final(stopped).state is JobState.CANCELLED
    assert jobs.final(lost, 30).state is JobState.SUCCEEDED, "the worker sends what was not sent"
    jobs.store.list(parent=parent)
    jobs.store.submit("j-twice", teacher_spec(), "a key", "digest")
    jobs.store.submit("j-twice-2", teacher_spec(), "a key", "digest")
    assert jobs.store.events(parent)
    asyncio.run(limited(server.url(GATEWAY)))
    studied(server.url(WORKER))
    worker.terminate()
    assert server.denials() == []


async def limited(url: str) -> None:
    limits = RedisLimits(url)
    try:
        await limits.settle([Spent("k" * 12, 1, 10, 1, 100, int(time.time() // 86_400), 1)])
    finally:
        await limits.close()


def studied(url: str) -> None:
    journal = RedisJournal(url, "study")
    journal.append_logs([{"op": 1}])
    assert list(journal.read_logs(0)) == [{"op": 1}]
    journal.delete()
    journal.close()


def test_a_gateway_takes_jobs_and_pauses_and_cancels_them_and_is_denied_nothing(
    server: AclRedis, tmp_path: Path
) -> None:
    gateway = GatewayProcess(tmp_path, server.url(GATEWAY)).start()
    try:
        spec = teacher_spec().model_dump(mode="json") | {"dataset": "mnist-5k"}
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            for end in ("cancel", "pause"):
                location = client.post("/v1/jobs", json=spec).raise_for_status().headers["Location"]
                client.post(f"{location}/{end}").raise_for_status()
                client.get(location).raise_for_status()
            client.post(f"{location}/resume").raise_for_status()
            client.get("/v1/jobs").raise_for_status()
    finally:
        gateway.stop()
    assert server.denials() == []


@pytest.mark.parametrize("user", [GATEWAY, WORKER, HEALTH])
@pytest.mark.parametrize(
    "command",
    [
        ["FLUSHALL"], ["CONFIG", "GET", "*"], ["CONFIG", "SET", "dir", "/tmp"], ["KEYS", "*"],
        ["ACL", "LIST"], ["SAVE"], ["SHUTDOWN"], ["DEBUG", "SLEEP", "0"], ["REPLICAOF", "evil", "1"],
        ["MODULE", "LIST"], ["SCRIPT", "FLUSH"], ["MONITOR"], ["MIGRATE", "h", "1", "k", "0", "1"],
        ["PUBLISH", "/0.celery.pidbox", "{}"], ["SUBSCRIBE", "/0.celery.pidbox"],
        ["SET", "other", "1"], ["EVAL", "return redis.call('SET', 'other', '1')", "0"],
    ],
    ids=lambda words: "-".join(words[:2]).lower()[:20],
)  # fmt: skip
def test_no_role_has_the_server_in_its_hands(server: AclRedis, user: str, command: list[str]) -> None:
    with server.client(user) as client, pytest.raises(redis.ResponseError, match=r"permission|user exec"):
        client.execute_command(*command)
    assert server.admin.get("other") is None


def test_the_gateway_takes_no_work_and_health_may_ask_whether_redis_lives(server: AclRedis) -> None:
    with server.client(GATEWAY) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.brpop([JOBS_QUEUE], 1)
    with server.client(HEALTH) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("imago:job:x")


def test_what_was_written_is_there_after_a_restart(server: AclRedis, jobs: Jobs) -> None:
    """Redis reads its file by the rights of the default user, who is off."""
    kept = jobs.submit("kept")
    server.stop()
    server.start()
    assert jobs.store.get(kept).state is JobState.QUEUED
    jobs.dispatcher.send(kept)
    assert server.denials() == []


def test_a_stranger_is_refused_before_anything(server: AclRedis) -> None:
    with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    for user in ("default", *RULES):
        url = f"redis://{user}:guess@127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url) as guessing, pytest.raises(redis.AuthenticationError):
            guessing.ping()


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("nobody:at-all", "WRONGPASS|invalid username"),
        ("", "already authenticated|Authentication"),
        (HEALTH, "permission"),
    ],
)
def test_a_user_that_redis_refuses_is_an_unavailable_store_in_words(
    server: AclRedis, user: str, says: str
) -> None:
    url = server.url(user) if user == HEALTH else f"redis://{user and user + '@'}127.0.0.1:{server.port}/0"
    store, dispatcher = RedisJobStore(url), CeleryDispatcher(url)
    with pytest.raises(JobStoreUnavailable, match=f"REDIS_URL: .*({says})") as refused:
        store.list()
    assert "at-all" not in str(refused.value)
    with pytest.raises(JobStoreUnavailable):
        dispatcher.send("j-1")
    with pytest.raises(JobStoreUnavailable, match="REDIS_URL"):
        asyncio.run(limited(url))
    store.close()
    dispatcher.close()


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/json"])
def test_a_forged_message_is_dropped_and_the_worker_goes_on(
    server: AclRedis, jobs: Jobs, worker: WorkerProcess, tmp_path: Path, content_type: str
) -> None:
    jobs.dispatcher.send("j-template")  # is dropped as well: there is no such job
    template = json.loads(recorded(server, jobs))
    body = pickle.dumps((("j-1",), {"bomb": Bomb(tmp_path / "executed")}, {}))
    forged = template | {"body": base64.b64encode(body).decode(), "content-type": content_type}
    server.admin.lpush(JOBS_QUEUE, json.dumps(forged), json.dumps({"body": "x"}))
    assert jobs.final(jobs.submit("after"), 30).state is JobState.SUCCEEDED
    assert not (tmp_path / "executed").exists()
    assert worker.process.poll() is None


def recorded(server: AclRedis, jobs: Jobs) -> str:
    """Return a message as the gateway sends it."""
    sent = CeleryDispatcher(f"{server.url('test-admin').removesuffix('/0')}/1")
    sent.send("j-1")
    sent.close()
    with redis.Redis.from_url(
        f"{server.url('test-admin').removesuffix('/0')}/1", decode_responses=True
    ) as other:
        return str(other.rpop(JOBS_QUEUE))

"""What lies in the queue or happens to it costs its worker nothing: not its process, and not its place."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from services.worker.app import create_consumer
from services.worker.settings import WorkerSettings
from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.queue_entries import Transport, is_job
from shared.contracts.jobs import JobState
from shared.contracts.task_names import JOBS_QUEUE
from tests.support.worker_jobs import Jobs, StartWorker
from tests.support.worker_process import ROOT, eventually

pytestmark = pytest.mark.integration

Message = dict[str, Any]


@pytest.fixture
def queue(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def template(queue: redis.Redis, dispatcher: CeleryDispatcher) -> bytes:
    """A message as the gateway sends it."""
    dispatcher.send("j-nobodys")
    sent = queue.rpop(JOBS_QUEUE)
    assert isinstance(sent, bytes)
    return sent


def changed(template: bytes, *path: str, to: object = None, leave_out: bool = False) -> bytes:
    message: Message = json.loads(template)
    part = message
    for name in path[:-1]:
        part = part[name]
    if leave_out:
        del part[path[-1]]
    else:
        part[path[-1]] = to
    return json.dumps(message).encode()


def with_body(template: bytes, body: str) -> bytes:
    return changed(template, "body", to=base64.b64encode(body.encode()).decode())


def poisonous(template: bytes) -> list[bytes]:
    return [
        b"no json",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"properties": null}',
        template.decode().encode("utf-16"),
        changed(template, "properties", "delivery_info"),
        changed(template, "properties", "delivery_info", leave_out=True),
        changed(template, "properties", "delivery_tag", to={}),
        changed(template, "properties", "body_encoding", to="rot13"),
        changed(template, "headers"),
        changed(template, "headers", "id", leave_out=True),
        changed(template, "headers", "task", to="another"),
        changed(template, "headers", "compression", to="none-such"),
        changed(template, "headers", "timelimit", to=[None]),
        changed(template, "headers", "eta", to="2999-01-01T00:00:00"),
        changed(template, "headers", "lang", to={"__type__": "none-such", "__value__": 1}),
        changed(template, "content-type", to="application/x-python-serialize"),
        changed(template, "body", to="&"),
        with_body(template, "[1]"),
        with_body(template, "[" * 100_000),
        with_body(template, '[["j-1"], {}, "x"]'),
        with_body(template, '[["j-1"], {"and": 1}, {}]'),
        with_body(template, '[["j-1"], {}, {"chain": [1]}]'),
        with_body(template, "[[{}], {}, {}]"),
    ]


def test_our_messages_are_known_and_what_is_almost_one_is_not(template: bytes) -> None:
    assert is_job(template)
    for redelivered in (("headers", "redelivered"), ("properties", "delivery_info", "redelivered")):
        assert is_job(changed(template, *redelivered, to=True))
    assert [entry[:80] for entry in poisonous(template) if is_job(entry)] == []


def test_entries_that_are_no_messages_end_no_worker_and_take_no_place_in_it(
    jobs: Jobs, start_worker: StartWorker, queue: redis.Redis, template: bytes
) -> None:
    worker = start_worker(concurrency=1)
    entries = poisonous(template)
    queue.lpush(JOBS_QUEUE, *entries)
    assert jobs.final(jobs.submit("quick"), 30).state is JobState.SUCCEEDED
    assert worker.process.poll() is None
    assert worker.log.read_text().count("dropped what is no job") == len(entries)
    eventually(lambda: queue.exists("unacked", JOBS_QUEUE) == 0, 5, "nothing is kept to come again")


@pytest.mark.parametrize("url", ["redis://127.0.0.1/0", "unix:///run/redis.sock?db=2"])
def test_every_way_to_redis_leads_past_the_look_at_each_entry(url: str) -> None:
    with create_consumer(WorkerSettings(redis_url=url)).connection_for_read() as connection:
        assert type(connection.transport) is Transport


def test_a_redis_that_refuses_to_be_written_to_for_a_while_ends_no_idle_worker(
    jobs: Jobs, start_worker: StartWorker, queue: redis.Redis
) -> None:
    """As where its disk is full. With BRPOP it is asked to write each second."""
    worker = start_worker()
    queue.config_set("min-replicas-to-write", 1)
    try:
        eventually(lambda: "NOREPLICAS" in worker.log.read_text(), 10, "the worker was refused")
        time.sleep(0.5)
    finally:
        queue.config_set("min-replicas-to-write", 0)
    assert jobs.final(jobs.submit("quick"), 30).state is JobState.SUCCEEDED
    assert worker.process.poll() is None


BREAKS = """
import sys
from pathlib import Path
from services.worker.app import run
from services.worker.settings import WorkerSettings
from shared.adapters import queue_entries

def broken(entry):
    raise RuntimeError("as nobody foresaw")

queue_entries.is_job = lambda entry: broken(entry) if b"break" in entry else True
sys.exit(run(WorkerSettings()))
"""


def test_where_celery_gives_up_jobs_are_handed_back_at_once_and_the_worker_fails(
    jobs: Jobs, queue: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        **{"REDIS_URL": redis_url, "IMAGO_STATE_DIR": str(tmp_path), "WORKER_HEALTH_PORT": "0"},
        **{"WORKER_TRAINING_MODULE": "tests.support.training_stub", "WORKER_CONCURRENCY": "2"},
    }
    worker = subprocess.Popen([sys.executable, "-c", BREAKS], cwd=ROOT, env=environment)
    try:
        job_id = jobs.submit("slow", 3000)
        jobs.training(job_id)
        queue.lpush(JOBS_QUEUE, "break")
        assert worker.wait(30) == 1
    finally:
        worker.kill()
        worker.wait()
    job = jobs.store.get(job_id)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)

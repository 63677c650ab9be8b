"""Celery as a carrier of hints: who sends and who takes job ids, and how they reach the broker.

The task's name and queue are all that both sides share (`shared.contracts.task_names`). The truth about a job
is in its record; a message that is lost or comes twice costs time, never a job.
"""

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from shared.contracts.task_names import JOBS_QUEUE, RUN_JOB
from shared.errors import JobStoreUnavailable

SEVEN_DAYS_S = 7 * 24 * 3600
"""Longer than any job: recovery is the lease's business, and a redelivery during a job would be noise."""


def broker_url(redis_url: str) -> str:
    """Return Celery's way of writing the address: it differs for Unix sockets."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


def consumer_options() -> dict[str, Any]:
    """Return the broker options of a worker: it may wait long, and is told soon of a dead connection."""
    return {
        "visibility_timeout": SEVEN_DAYS_S,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 5,
    }


def producer_options() -> dict[str, Any]:
    """Return the broker options of a sender: it gives up within 2 seconds, for the record is kept."""
    return {
        "visibility_timeout": SEVEN_DAYS_S,
        "socket_timeout": 1.5,
        "socket_connect_timeout": 1,
        "max_retries": 0,
    }


def create_app(redis_url: str, options: dict[str, Any]) -> Celery:
    """Return a Celery app for ids as JSON, without results: the job record is the state."""
    app = Celery("imago", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        broker_transport_options=options,
        task_default_queue=JOBS_QUEUE,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
    )
    return app


class CeleryDispatcher:
    """`Dispatcher` by Celery. Safe to share between threads."""

    def __init__(self, redis_url: str) -> None:
        self._app = create_app(redis_url, producer_options())

    def send(self, job_id: str) -> None:
        """Send the id to the queue of jobs; raises `JobStoreUnavailable` within 2 seconds."""
        try:
            self._app.send_task(RUN_JOB, (job_id,), queue=JOBS_QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise JobStoreUnavailable(str(error)) from error

    def backlog(self) -> int:
        """Return how many messages wait in the queue; raises `JobStoreUnavailable`."""
        try:
            with self._app.connection_or_acquire() as connection:
                return int(connection.default_channel.client.llen(JOBS_QUEUE))
        except (OperationalError, RedisError, OSError) as error:
            raise JobStoreUnavailable(str(error)) from error

    def waiting(self, most: int) -> frozenset[str]:
        """Return the jobs of up to `most` messages in the queue; raises `JobStoreUnavailable`."""
        try:
            with self._app.connection_or_acquire() as connection:
                messages = connection.default_channel.client.lrange(JOBS_QUEUE, 0, most - 1)
        except (OperationalError, RedisError, OSError) as error:
            raise JobStoreUnavailable(str(error)) from error
        return frozenset(job_id for job_id in map(_job_of, messages) if job_id is not None)

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()


def _job_of(message: bytes) -> str | None:
    """Return the id that a message carries in Celery's form (protocol 2); None where it is none of ours."""
    try:
        (job_id,), *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
        return str(job_id)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

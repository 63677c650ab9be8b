"""Takes from the queue what our own senders put there, and drops everything else before Celery sees it.

Celery and kombu trust their broker: an entry that is no message of theirs ends the worker that takes it, and
one that is only half of a message goes back into the queue first, to end the next worker, too. So each is
looked at where it comes out of Redis, before it counts as delivered.
"""

import base64
import logging
from typing import Any, Final

import redis
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads

from shared.contracts.task_names import RUN_JOB

log = logging.getLogger(__name__)

_NAME: Final = "imago"
_SHOWN_BYTES: Final = 200
_MEANT_FOR_CELERY: Final = ("eta", "expires", "shadow", "compression", "stamps", "stamped_headers")


def take_only_ours(app: Celery) -> None:
    """Let the app's consumer take jobs and nothing else from its queue; its broker is a Redis."""
    TRANSPORT_ALIASES[_NAME] = f"{__name__}:Transport"
    app.conf.broker_transport = _NAME
    # In the address of a Unix socket the transport is named, too, and counts for more.
    app.conf.broker_url = app.conf.broker_url.replace("redis+socket:", f"{_NAME}+socket:", 1)


def is_job(entry: bytes) -> bool:
    """Say whether a queue's entry is a message in Celery's form (protocol 2) that names a job to run.

    All that Celery goes by must be what it is in our messages: a time to wait for, a limit or a callback that
    somebody added would be acted upon.
    """
    try:
        # By kombu's own reading, which knows more types than JSON, and trips over some.
        message = loads(entry.decode())  # type: ignore[no-untyped-call]
        headers, properties = message["headers"], message["properties"]
        delivery = properties["delivery_info"]
        body = base64.b64decode(message["body"], validate=True).decode()
        (job_id,), keywords, more = loads(body)  # type: ignore[no-untyped-call]
        names = (headers["id"], properties["delivery_tag"], delivery["exchange"], delivery["routing_key"])
        return (
            headers["task"] == RUN_JOB
            and (message["content-type"], message["content-encoding"]) == ("application/json", "utf-8")
            and properties["body_encoding"] == "base64"
            and all(isinstance(name, str) for name in (job_id, *names))
            and not keywords
            and not any(more.values())
            and not any(headers.get(name) for name in _MEANT_FOR_CELERY)
            and headers.get("timelimit") in (None, [None, None])
        )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return False


class _Client(redis.Redis):
    """Answers a read from the queue with nothing, as after its time-out, where it brought no job."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Read an answer of the server."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and answer and not is_job(answer[1]):
            log.warning(
                "dropped what is no job from the queue", extra={"entry": repr(answer[1][:_SHOWN_BYTES])}
            )
            return None
        return answer


class _Channel(kombu_redis.Channel):
    def _get_client(self) -> type[redis.Redis]:
        return _Client


class Transport(kombu_redis.Transport):
    """Kombu's way to Redis, with a look at each entry."""

    Channel = _Channel

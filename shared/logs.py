"""JSON logs: one line an event, with the ids of the request and of the job that it belongs to."""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


_NOISY = (
    "PIL",
    "aiobotocore",
    "amqp",
    "botocore",
    "fsspec",
    "httpcore",
    "httpx",
    "kombu",
    "multipart",
    "python_multipart",
    "s3fs",
    "urllib3",
    "uvicorn.access",
)


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON; what came in as `extra` becomes fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. JSON escapes control characters, so no input can forge a second line.

        What JSON has no form for (NaN, a key that is no text, a circle) is told as Python writes it: a record
        that cannot be written would be a traceback on standard error, which is no line of JSON.
        """
        event: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, variable in (("request_id", request_id), ("job_id", job_id)):
            if (value := variable.get()) is not None:
                event[name] = value
        event |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            event["error"] = record.exc_info[0].__name__
            event["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            return json.dumps(event, default=str, ensure_ascii=True, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            return json.dumps({key: _plain(value) for key, value in event.items()}, ensure_ascii=True)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | bool | None) else repr(value)


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send every log record of this process to standard error as JSON. `level` is a name of `logging`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What these say for debugging repeats what others sent: headers, credentials, pieces of bodies.
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for own in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery"):
        logging.getLogger(own).handlers[:] = []
        logging.getLogger(own).propagate = True


@contextmanager
def job_context(identifier: str) -> Iterator[None]:
    """Stamp the job's id on every event that is logged inside."""
    token = job_id.set(identifier)
    try:
        yield
    finally:
        job_id.reset(token)

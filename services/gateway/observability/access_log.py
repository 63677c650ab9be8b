"""The access log: one line of JSON a request, without bodies, headers, addresses or values of the query.

The lines of one turn of the event loop are one write. They go where the other events go, to standard error,
in the same form, with `"event": "request"`.
"""

import asyncio
import select
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from services.gateway.hot.answered import Observer
from services.gateway.observability.ended import UNTOLD, Ended, plain

_MOST_NAMES = 16


def to_standard_error(lines: bytes) -> None:
    """Write whole lines behind what is there already."""
    sys.stderr.flush()
    sys.stderr.buffer.write(lines)
    sys.stderr.buffer.flush()


class AccessLog:
    """Writes a line for each request; a `Watcher`."""

    observers: tuple[Observer, ...] = ()

    def __init__(self, write: Callable[[bytes], None] = to_standard_error) -> None:
        self._write = write
        self._requests: list[Ended] = []

    def start(self) -> None:
        """Do nothing: the first request starts it."""

    def stop(self) -> None:
        """Write what waits."""
        self._flush()

    def ended(self, request: Ended) -> None:
        """Take note of a request; its line is written with those of this turn of the event loop."""
        self._requests.append(request)
        if len(self._requests) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        requests, self._requests = self._requests, []
        ahead = time.time() - time.perf_counter()
        lines = [line(request, ahead) for request in requests]
        try:
            for chunk in whole(lines):
                self._write(chunk)
        except (OSError, ValueError):  # nobody reads any more, or it was closed: answering goes on
            UNTOLD.labels("access_log").inc(len(lines))


def line(request: Ended, ahead: float) -> bytes:
    """Return the line of a request. JSON escapes control characters, so no input can forge a second one.

    Args:
        request: what is to be told.
        ahead: seconds by which Unix time is ahead of `time.perf_counter()`.
    """
    event: dict[str, object] = {
        "at": datetime.fromtimestamp(request.ended + ahead, UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "service": "gateway",
        "logger": __name__,
        "event": "request",
        "request_id": request.request_id,
        "method": request.method,
        "path": request.path,
        "status": request.status,
        "ms": round((request.ended - request.began) * 1e3, 3),
        "received_bytes": request.received_bytes,
        "sent_bytes": request.sent_bytes,
    }
    if request.query:
        event["query"] = names_of(request.query)
    if request.key_id is not None:
        event["key_id"] = request.key_id
    if request.student is not None:
        event["student"] = request.student
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


def names_of(query: bytes) -> list[str]:
    """Return the names of a query's parameters. Values may be secrets, and so may be words without one."""
    pairs = query.split(b"&", _MOST_NAMES)[:_MOST_NAMES]
    return [plain(name) for name, equals, _ in (pair.partition(b"=") for pair in pairs) if equals]


def whole(lines: list[bytes]) -> list[bytes]:
    """Return the lines in as few pieces as processes can write to one pipe without mixing them."""
    pieces: list[bytes] = []
    piece = b""
    for one in lines:
        if piece and len(piece) + len(one) > select.PIPE_BUF:
            pieces.append(piece)
            piece = b""
        piece += one
    return [*pieces, piece] if piece else pieces

"""What a connection may cost: its head, its time, its requests, its place, the answer that it does not read.

uvicorn bounds none of it. A client that sends a byte a second, or nothing, keeps its connection for as long
as it likes; a head may have any length; every request in one piece of data becomes a task that waits; an
answer that nobody reads stays in memory. Here a head has a size and a time, a body that arrives and an answer
that leaves have a least speed, requests sent ahead have a number, what all connections hold has a sum, and
where there is no descriptor left, those go who hold one and ask nothing.
"""

import asyncio
import math
import resource
import socket
import struct
import time
from collections.abc import MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared import logs
from shared.adapters.web.boundary import request_id_of
from shared.adapters.web.problems import problem_response
from shared.contracts.problems import Problem

MOST_HEAD_BYTES: Final = 2**16
"""Of a request's head, beside the one or two pieces of data in which it began; also of what a chunked body
has around its bytes, such as trailers."""
MOST_HEADERS: Final = 100
MOST_AHEAD: Final = 64
"""Requests of one connection that wait for the answer to the one before them, or came in one piece."""
HEAD_S: Final = 10.0
"""How long a head may take to arrive, or a first byte after the connection was made."""
BODY_S: Final = 30.0
"""Within each such time a body must come with `LEAST_BYTES_PER_S` on average."""
ANSWER_S: Final = 30.0
"""Within each such time an answer must be read with `LEAST_BYTES_PER_S` on average, or to its end."""
LEAST_BYTES_PER_S: Final = 500
MOST_HELD_BYTES: Final = 256 * 2**20
"""Of all connections of a process: of answers that were not read, and of what a protocol keeps of bodies that
are not whole. Above it, those end who hold most."""
_LOOK_S: Final = 1.0
_RESERVED: Final = 160
"""Descriptors that are no connections: the store's files, listeners, Redis, pipes."""
_MOST_CONNECTIONS: Final = 4096
"""Of one process, about 10 KiB of memory each."""
_NEVER: Final = math.inf
_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""What SO_LINGER takes: on, for no second."""


class _TooMuchError(Exception):
    """Ends the parsing of what a client has sent."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection that cannot cost more than this."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._since = _NEVER
        """When the request that arrives began, by `time.perf_counter()`; `_NEVER` once it is whole."""
        self._in_head = True
        """Whether no head was read since then."""
        self._begun = 0
        """Requests that the parser has seen begin."""
        self._begun_before = 0
        """The same before the last piece of data came."""
        self._wire = 0
        """Bytes that came for the request, but for those in the piece of data in which it began."""
        self._body = 0
        """Bytes of the body among them."""
        self._body_mark = (_NEVER, 0.0, 0)
        """When the request began whose body was looked at, when that was, and how much of it had come."""
        self._unread_mark: tuple[float, int] | None = None
        """Since when bytes wait to be read and become no fewer, and how many at most; None if none wait."""
        self._refused: HTTPStatus | None = None
        self._answering: Any = None
        """The exchange that the app answers; `cycle` is the last that has come, and may wait behind it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or send it away where all places are taken by others who ask something."""
        if len(self.connections) >= most_connections() and not _make_room(self.connections):
            transport.write(_answer(HTTPStatus.SERVICE_UNAVAILABLE, "all connections are in use"))
            transport.close()
        super().connection_made(transport)
        self._since = time.perf_counter()
        _look_after(self.loop, self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the app that nobody waits for its answer; uvicorn tells the last exchange alone."""
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the parser what has come, and count it."""
        begun = self._begun_before = self._begun
        super().data_received(data)
        if self._begun != begun:
            return
        if self._since != _NEVER:
            self._wire += len(data)
            # Sixteen: a body may come in chunks of a byte, each with five around it.
            if self._wire - 16 * self._body > MOST_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self.asks_nothing and not self.transport.is_closing():
            # Empty lines, which the parser passes over, or the end of a body that was answered before: they
            # have stopped uvicorn's timer, and no answer will start it again.
            self._since, self._in_head = time.perf_counter(), True

    def head_begins(self) -> None:
        """Note that the parser has come to a new request."""
        self._begun += 1
        self._since = time.perf_counter()
        self._in_head = True
        self._wire = self._body = 0

    def head_ends(self) -> None:
        """Note that the head is whole; ends the parsing where it is too large."""
        self._in_head = False
        if len(self.headers) > MOST_HEADERS or len(self.url) > MOST_HEAD_BYTES:
            self._refused = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _TooMuchError
        # Those that were answered at once count as well: others wait while all of a piece is parsed.
        if max(len(self.pipeline), self._begun - self._begun_before) > MOST_AHEAD:
            self._refused = HTTPStatus.TOO_MANY_REQUESTS
            raise _TooMuchError

    def body_comes(self, size: int) -> None:
        """Count bytes of the body."""
        self._body += size

    def request_ends(self) -> None:
        """Note that the request is whole."""
        self._since = _NEVER

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.head_begins()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass the request on."""
        self.head_ends()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        self.body_comes(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Pass the end on."""
        self.request_ends()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too much of it, as every refusal here: as a problem with an id."""
        self._refuse(self._refused or HTTPStatus.BAD_REQUEST)

    def is_overdue(self, now: float) -> bool:
        """Tell whether a request takes longer to arrive than it may; to be asked again and again."""
        if self._in_head:
            return now - self._since > HEAD_S
        if self._since == _NEVER:
            return False
        began, at, body = self._body_mark
        if began != self._since:
            at, body = self._since, 0
        # A body that the app is slow to take is not its sender's fault.
        if self.flow.read_paused or (now - at > BODY_S and self._body - body >= BODY_S * LEAST_BYTES_PER_S):
            at, body = now, self._body
        self._body_mark = self._since, at, body
        return now - at > BODY_S

    def is_unread(self, now: float) -> bool:
        """Tell whether the client takes longer to read than it may; to be asked again and again."""
        left = self.transport.get_write_buffer_size()
        if left == 0:
            self._unread_mark = None
            return False
        since, most = self._unread_mark or (now, left)
        if most - left >= ANSWER_S * LEAST_BYTES_PER_S:
            since, most = now, left
        self._unread_mark = since, max(most, left)
        return now - since > ANSWER_S

    def resume_writing(self) -> None:
        """Go on with an answer of which most was read."""
        self._unread_mark = None
        super().resume_writing()

    def reset(self) -> None:
        """End the connection at once, with what waits for it here and in the kernel."""
        with suppress(OSError):  # it has ended by itself
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    @property
    def held_bytes(self) -> int:
        """What waits in memory for the client: to be read, or to become whole."""
        return self.transport.get_write_buffer_size()

    @property
    def asks_nothing(self) -> bool:
        """Whether no request of it is being answered, or has had its head read."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and (self._in_head or self._since == _NEVER)

    def _refuse(self, status: HTTPStatus) -> None:
        self._since = _NEVER
        # In the middle of another answer, this one would be read as a part of it; and who never asked, waits
        # for none.
        if self._begun == 0 or (self.cycle is not None and not self.cycle.response_complete):
            self.transport.abort()
            return
        self.transport.write(_answer(status, _WORDS[status]))
        self.transport.close()


_WORDS: Final = {
    HTTPStatus.BAD_REQUEST: "what was sent is no HTTP request",
    HTTPStatus.REQUEST_TIMEOUT: "the request did not arrive in time",
    HTTPStatus.TOO_MANY_REQUESTS: f"more than {MOST_AHEAD} requests were sent before the first was answered",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the head of a request has at most {MOST_HEADERS} lines and "
    f"{MOST_HEAD_BYTES:,} bytes",
}


def most_connections() -> int:
    """Return how many connections this process takes, by the descriptors that it may have.

    It may have as many as the system allows: the lower limit that it was started with is lifted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(soft, wanted) - _RESERVED)


def _make_room(connections: set[Any]) -> bool:
    """Close a sixteenth of the connections: of those that ask nothing, first who never did, then the eldest.

    So many at a time, because looking for them walks over all.
    """
    idle = [one for one in connections if isinstance(one, BoundedProtocol) and one.asks_nothing]
    idle.sort(key=lambda one: (one.cycle is not None, one._since))
    chosen = idle[: max(1, len(connections) // 16)]
    for one in chosen:
        connections.discard(one)
        one.transport.abort()
    return bool(chosen)


_looked_after: MutableMapping[asyncio.AbstractEventLoop, None] = WeakKeyDictionary()


def _look_after(loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
    """Look at all connections of the loop each second, while there are any; one timer for all of them."""
    if loop in _looked_after:
        return
    _looked_after[loop] = None

    def look() -> None:
        now = time.perf_counter()
        left = []
        for one in [one for one in connections if isinstance(one, BoundedProtocol)]:
            if one.is_unread(now):
                one.reset()
                continue
            if one.is_overdue(now):
                one._refuse(HTTPStatus.REQUEST_TIMEOUT)
            left.append(one)
        _hold_less(left)
        if connections:
            loop.call_later(_LOOK_S, look)
        else:
            del _looked_after[loop]

    loop.call_later(_LOOK_S, look)


def _hold_less(connections: list[BoundedProtocol]) -> None:
    """End those that hold most, until all together hold no more than they may."""
    held = [(size, one) for one in connections if (size := one.held_bytes)]
    excess = sum(size for size, _ in held) - MOST_HELD_BYTES
    if excess <= 0:
        return
    held.sort(key=lambda pair: -pair[0])
    for size, one in held:
        one.reset()
        excess -= size
        if excess <= 0:
            return


def _answer(status: HTTPStatus, detail: str) -> bytes:
    token = logs.request_id.set(identifier := request_id_of(None))
    try:
        response = problem_response(
            Problem(
                title=status.phrase,
                status=status,
                code=status.phrase.lower().replace(" ", "-"),
                detail=detail,
                remedy="Send one plain HTTP/1.1 request after the other, each without delay.",
            ),
            {"Connection": "close", "X-Request-ID": identifier},
        )
    finally:
        logs.request_id.reset(token)
    head = b"".join(b"%b: %b\r\n" % pair for pair in response.raw_headers)
    return b"%b%b\r\n%b" % (STATUS_LINE[status], head, bytes(response.body))

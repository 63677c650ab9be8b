"""The short way for `POST /v1/predictions`: from uvicorn's HTTP parser to the student and back.

ASGI costs a request a task, a scope, a dozen awaited messages and dictionaries of headers: more than decoding
the image and running the student together. A plain request for one image needs none of it. This protocol
answers those itself and leaves everything else (other paths, forms, large or chunked bodies, HTTP/1.0, a
request that comes before the last was answered) to the class of uvicorn that it extends, and so to the app,
which gives the same answers. Tests send the same requests both ways.
"""

import logging
import time
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.gateway.errors import STATUSES
from services.gateway.hot.asked import DEADLINE_HEADER, Options
from services.gateway.routes.predictions import (
    CANARY_HEADER,
    IMAGE_TYPES,
    PATH,
    STUDENT_HEADER,
    answer_apart,
    ask,
    is_small,
    options_of,
)
from services.gateway.state import Gateway
from shared import logs
from shared.adapters.web.boundary import Tally, request_id_of
from shared.adapters.web.problems import CLIENT_GONE, refusal
from shared.errors import DistillationError, NoImages
from shared.serving.images import EncodedImage
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

_PATH = PATH.encode()
_QUERY = _PATH + b"?"
_MOST_BYTES = 2**18
"""Of a body that is answered here; a larger one takes so long to decode that the way does not matter."""
_FAREWELL_S = 0.25
"""How long an idle connection is kept when the process stops."""
_TYPES = frozenset(name.encode() for name in IMAGE_TYPES)
_DEADLINE = DEADLINE_HEADER.lower().encode()
_CANARY = CANARY_HEADER.lower().encode()
_STUDENT = STUDENT_HEADER.lower().encode()

_tally = Tally(PATH, "POST")


class HotProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._gateway = _gateway_of(self.app)
        self._taking: _Exchange | None = None
        self.last = False
        """Whether the next answer is the last one of the connection."""

    def on_message_begin(self) -> None:
        """Begin a request; the scope of ASGI is made where it is needed."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Take the request, or pass it on."""
        url = self.url
        if url.startswith(_PATH) and (url == _PATH or url.startswith(_QUERY)):
            exchange = self._exchange()
            if exchange is not None:
                # In the place of uvicorn's own: pipelining, draining and time-outs then work as ever.
                self.cycle = cast(Any, exchange)
                self._taking = exchange
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        if self.last and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        if self._taking is None:
            super().on_body(body)
        else:
            self._taking.pieces.append(body)

    def on_message_complete(self) -> None:
        """Answer: the request is whole."""
        if self._taking is None:
            super().on_message_complete()
            return
        exchange, self._taking = self._taking, None
        exchange.answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a client that left before its request was whole."""
        if self._taking is not None:
            exchange, self._taking = self._taking, None
            exchange.count(CLIENT_GONE)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End the connection without losing a request that is on its way already.

        An idle connection is kept for a moment; a request that comes on it is answered, and the answer says
        that it was the last.
        """
        if self.last or (self.cycle is not None and not self.cycle.response_complete):
            super().shutdown()
            return
        self.last = True
        self.loop.call_later(_FAREWELL_S, self.shutdown)

    def _exchange(self) -> "_Exchange | None":
        """Return what takes the request, or None where it is not as plain as can be."""
        parser = self.parser
        if (
            self._gateway is None
            or parser.get_method() != b"POST"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.expect_100_continue
            or self.flow.write_paused
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
        ):
            return None
        length = -1
        identifier = deadline = key = None
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 10 else -1
            elif name == b"content-type":
                # Parameters and other ways to write it are for the long way.
                if value and value not in _TYPES:
                    return None
            elif name == b"transfer-encoding":
                return None
            elif name == b"x-request-id":
                identifier = value.decode("latin-1") if identifier is None else identifier
            elif name == _DEADLINE:
                deadline = value.decode("latin-1") if deadline is None else deadline
            elif name == _CANARY:
                key = value.decode("latin-1") if key is None else key
        if not 0 <= length <= min(_MOST_BYTES, self._gateway.settings.max_prediction_bytes):
            return None
        return _Exchange(self, self._gateway, self.url[len(_QUERY) :], identifier, deadline, key)


class _Exchange:
    """A request and its answer. It has what uvicorn's protocol asks of an exchange that is under way."""

    __slots__ = (
        "_began",
        "_deadline",
        "_gateway",
        "_identifier",
        "_key",
        "_protocol",
        "_query",
        "_student",
        "disconnected",
        "keep_alive",
        "pieces",
        "response_complete",
    )

    def __init__(
        self,
        protocol: HotProtocol,
        gateway: Gateway,
        query: bytes,
        identifier: str | None,
        deadline: str | None,
        key: str | None,
    ) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = not protocol.last
        self.pieces: list[bytes] = []
        self._began = time.perf_counter()
        self._protocol = protocol
        self._gateway = gateway
        self._query = query
        self._identifier = request_id_of(identifier)
        self._deadline = deadline
        self._key = key
        self._student: StudentSession | None = None

    @property
    def message_event(self) -> "_Exchange":
        """What uvicorn's protocol sets when the connection is lost."""
        return self

    def set(self) -> None:
        """Do nothing: nobody waits for a message here."""

    def answer(self) -> None:
        """Answer now, or with the next call of the student."""
        try:
            options = options_of(self._query, self._deadline, self._began)
            if not self.pieces:
                raise NoImages("the body is empty")
            data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.pieces = []
            images = (EncodedImage(data),)
            gateway = self._gateway
            self._student = student = gateway.traffic.student(self._key)
            if is_small(student, images):
                ask(gateway, student, images, options, self._done)
                return
        except Exception as error:  # noqa: BLE001 - the last line of defence, as the boundary is
            self._done(error)
            return
        task = self._protocol.loop.create_task(self._answer_apart(student, images, options))
        tasks = self._protocol.tasks  # uvicorn waits for them when it stops
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def count(self, status: int) -> None:
        """Count the answer, with all those of this turn of the event loop."""
        if _tally.add(status, time.perf_counter() - self._began):
            self._protocol.loop.call_soon(_tally.count)

    async def _answer_apart(
        self, student: StudentSession, images: tuple[EncodedImage], options: Options
    ) -> None:
        try:
            answer = await answer_apart(self._gateway, student, images, options)
        except Exception as error:  # noqa: BLE001 - see above
            self._done(error)
        else:
            self._done(answer)

    def _done(self, found: bytes | Exception) -> None:
        if isinstance(found, Exception):
            self._refuse(found)
            return
        assert self._student is not None
        head = b"content-type: application/json\r\n%b: %b\r\n" % (_STUDENT, self._student.version.encode())
        self._send(200, head, found)

    def _refuse(self, error: Exception) -> None:
        token = logs.request_id.set(self._identifier)
        try:
            response = refusal(error, STATUSES)
            if response.status_code == 500 and not isinstance(error, DistillationError):
                log.error("unhandled error", extra={"path": PATH}, exc_info=error)
        finally:
            logs.request_id.reset(token)
        head = b"".join(b"%b: %b\r\n" % pair for pair in response.raw_headers if pair[0] != b"content-length")
        self._send(response.status_code, head, bytes(response.body))

    def _send(self, status: int, head: bytes, body: bytes) -> None:
        protocol = self._protocol
        self.response_complete = True
        self.count(status)
        if self.disconnected:
            return
        lines = [STATUS_LINE[status]]
        for pair in protocol.server_state.default_headers:  # the date
            lines.append(b"%b: %b\r\n" % pair)
        lines.append(head)
        lines.append(b"content-length: %d\r\nx-request-id: %b\r\n" % (len(body), self._identifier.encode()))
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        lines.append(body)
        protocol.transport.write(b"".join(lines))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


def _gateway_of(app: Any) -> Gateway | None:
    """Return the parts that the app under its wrappers holds, or None where it is another app."""
    while app is not None:
        gateway = getattr(getattr(app, "state", None), "gateway", None)
        if isinstance(gateway, Gateway):
            return gateway
        app = getattr(app, "app", None)
    return None

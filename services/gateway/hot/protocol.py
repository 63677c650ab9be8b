"""The short way for `POST /v1/predictions`: from uvicorn's HTTP parser to the student and back.

ASGI costs a request a task, a scope, a dozen awaited messages and dictionaries of headers: more than decoding
the image and running the student together. A plain request for one image needs none of it. This protocol
answers those itself and leaves everything else (other paths, forms, large or chunked bodies, HTTP/1.0, a
request that comes before the last was answered) to the class of uvicorn that it extends, and so to the app,
which gives the same answers. Tests send the same requests both ways.
"""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.gateway.errors import STATUSES
from services.gateway.hot import heads
from services.gateway.hot.apart import is_small
from services.gateway.hot.asked import DEADLINE_HEADER, Asked, Options
from services.gateway.hot.heads import Head
from services.gateway.routes.predictions import (
    CANARY_HEADER,
    IMAGE_TYPES,
    PATH,
    STUDENT_HEADER,
    answer_apart,
    ask,
    options_of,
)
from services.gateway.state import Gateway
from shared import logs
from shared.adapters.web.boundary import Tally, request_id_of
from shared.adapters.web.problems import CLIENT_GONE, refusal
from shared.errors import DistillationError, NoImages
from shared.serving.images import EncodedImage, plain_pixels
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

_NO_FILE = (None,)
_NEVER = math.inf

_tally = Tally(PATH, "POST")


class HotProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._gateway = _gateway_of(self.app)
        self._taking: _Exchange | None = None
        self._missing = 0
        """Bytes that the body of `_taking` lacks, where its head was known and the parser is passed by."""
        self._parsing = False
        """Whether the parser has begun a request and not ended it."""
        self._head: bytes | None = None
        """With which the data begins that the parser is given, where it may be worth keeping."""
        self._quiet_since = _NEVER
        """When the last answer ended, by the event loop's clock, if nothing came since."""
        self.last = False
        """Whether the next answer is the last one of the connection."""

    def data_received(self, data: bytes) -> None:
        """Take what has come: a request whose head is known here and now, all else by the parser."""
        if self._missing:
            self._take(data)
            return
        head = None
        if not self._parsing and (self.cycle is None or self.cycle.response_complete):
            head = heads.head_of(data)
            found = None if head is None else heads.known(head)
            gateway = self._gateway
            if head and found and gateway and self._may_take(found.length):
                self._begin(_Exchange(self, gateway, found))
                self._missing = found.length
                self._take(data[len(head) :])
                return
        self._head = head
        super().data_received(data)

    def _take(self, data: bytes) -> None:
        """Take a piece of the body of a request whose head was known."""
        exchange = self._taking
        assert exchange is not None
        lacking = self._missing
        self._missing = max(0, lacking - len(data))
        if data:
            exchange.pieces.append(data if len(data) <= lacking else data[:lacking])
        if self._missing:
            return
        self._taking = None
        exchange.answer()
        if len(data) > lacking:
            self.data_received(data[lacking:])

    def on_message_begin(self) -> None:
        """Begin a request; the scope of ASGI is made where it is needed."""
        self._parsing = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Take the request, or pass it on."""
        url = self.url
        given, self._head = self._head, None
        if url.startswith(_PATH) and (url == _PATH or url.startswith(_QUERY)):
            head = self._plain_head()
            if head is not None:
                assert self._gateway is not None
                if given is not None:
                    heads.keep(given, head)
                self._begin(_Exchange(self, self._gateway, head))
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
        self._parsing = False
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
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    # A timer for each answer, made and cancelled again, is a tenth of what uvicorn spends on a request. Here
    # a connection has one, which looks when it rings whether the connection was quiet for so long.

    def on_response_complete(self) -> None:
        """Go on with the next request that has come, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._quiet_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._ring_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._quiet_since = _NEVER

    def timeout_keep_alive_handler(self) -> None:
        """End the connection if it was quiet for long enough."""
        self.timeout_keep_alive_task = None
        if self._quiet_since == _NEVER:
            return  # the next answer sets the timer
        left_s = self._quiet_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._ring_in(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _ring_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

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

    def _begin(self, exchange: "_Exchange") -> None:
        # In the place of uvicorn's own: pipelining, draining and time-outs then work as ever.
        self.cycle = cast(Any, exchange)
        self._taking = exchange
        self._quiet_since = _NEVER

    def _may_take(self, length: int) -> bool:
        gateway = self._gateway
        return (
            gateway is not None
            and not self.flow.write_paused
            and 0 <= length <= min(_MOST_BYTES, gateway.settings.max_prediction_bytes)
        )

    def _plain_head(self) -> Head | None:
        """Return what the parser has read, or None where it is not as plain as can be."""
        parser = self.parser
        if (
            parser.get_method() != b"POST"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.expect_100_continue
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
        if not self._may_take(length):
            return None
        return Head(self.url[len(_QUERY) :], length, identifier, deadline, key)


class _Exchange:
    """A request and its answer. It has what uvicorn's protocol asks of an exchange that is under way."""

    __slots__ = (
        "_began",
        "_gateway",
        "_head",
        "_identifier",
        "_protocol",
        "_student",
        "disconnected",
        "keep_alive",
        "pieces",
        "response_complete",
    )

    def __init__(self, protocol: HotProtocol, gateway: Gateway, head: Head) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = not protocol.last
        self.pieces: list[bytes] = []
        self._began = time.perf_counter()
        self._protocol = protocol
        self._gateway = gateway
        self._head = head
        self._identifier = request_id_of(head.identifier)
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
            head = self._head
            options = options_of(head.query, head.deadline, self._began)
            if not self.pieces:
                raise NoImages("the body is empty")
            data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.pieces = []
            gateway = self._gateway
            self._student = student = gateway.traffic.student(head.key)
            if self._ask_plain(student, data, options):
                return
            images = (EncodedImage(data),)
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

    def _ask_plain(self, student: StudentSession, data: bytes, options: Options) -> bool:
        """Ask about an image that comes as the student takes it, or return False; as `ask` does."""
        gateway = self._gateway
        decoding = time.perf_counter()
        pixels = plain_pixels(data, student.plain_png, gateway.image_limits)
        if pixels is None:
            return False
        decode_s = time.perf_counter() - decoding
        gateway.batches.need_room(student, 1)
        threshold = options.threshold
        if threshold is None:
            threshold = gateway.traffic.threshold(student)
        gateway.batches.submit(
            Asked(
                student,
                (pixels,),
                _NO_FILE,
                options,
                decode_s=decode_s,
                done=self._done,
                threshold=threshold,
            )
        )
        return True

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
        self._send(200, _answer_head(self._protocol.server_state.default_headers, self._student), found)

    def _refuse(self, error: Exception) -> None:
        token = logs.request_id.set(self._identifier)
        try:
            response = refusal(error, STATUSES)
            if response.status_code == 500 and not isinstance(error, DistillationError):
                log.error("unhandled error", extra={"path": PATH}, exc_info=error)
        finally:
            logs.request_id.reset(token)
        headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        default = self._protocol.server_state.default_headers
        head = _lines(response.status_code, [*default, *headers])
        self._send(response.status_code, head, bytes(response.body))

    def _send(self, status: int, head: bytes, body: bytes) -> None:
        protocol = self._protocol
        self.response_complete = True
        self.count(status)
        if self.disconnected:
            return
        ends = b"" if self.keep_alive else b"connection: close\r\n"
        protocol.transport.write(
            b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (head, len(body), self._identifier.encode(), ends, body)
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


_answers: tuple[object, object, bytes] = (None, None, b"")
"""The head of the last answer, with the default headers and the student that it was made of."""


def _answer_head(default: list[tuple[bytes, bytes]], student: StudentSession) -> bytes:
    """Return what all answers of a student within a second have in common; the date is new each second."""
    global _answers
    made_of, of, head = _answers
    if made_of is not default or of is not student:
        version = student.version.encode()
        head = _lines(200, [*default, (b"content-type", b"application/json"), (_STUDENT, version)])
        _answers = default, student, head
    return head


def _lines(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % pair for pair in headers)


def _gateway_of(app: Any) -> Gateway | None:
    """Return the parts that the app under its wrappers holds, or None where it is another app."""
    while app is not None:
        gateway = getattr(getattr(app, "state", None), "gateway", None)
        if isinstance(gateway, Gateway):
            return gateway
        app = getattr(app, "app", None)
    return None

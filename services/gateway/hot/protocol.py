"""The short way for `POST /v1/predictions`: from uvicorn's HTTP parser to the student and back.

ASGI costs a request a task, a scope, a dozen awaited messages and dictionaries of headers: more than decoding
the image and running the student together. A plain request with an image or a form of them needs none of it.
This protocol answers those itself and leaves everything else (other paths, large or chunked bodies, HTTP/1.0,
a request that comes before the last was answered) to the class of uvicorn that it extends, and so to the app,
which gives the same answers. Tests send the same requests both ways.
"""

import math
from sys import getsizeof
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.hot import heads
from services.gateway.hot.asked import DEADLINE_HEADER
from services.gateway.hot.exchange import Exchange
from services.gateway.hot.heads import Head
from services.gateway.routes.predictions import CANARY_HEADER, IMAGE_TYPES, PATH
from services.gateway.state import Gateway
from shared.adapters.web.access import ANYBODY, Caller
from shared.adapters.web.bounded import BODY_S, BoundedProtocol
from shared.adapters.web.problems import CLIENT_GONE

_PATH = PATH.encode()
_QUERY = _PATH + b"?"
_MOST_BYTES = 2**18
"""Of a body that is answered here; a larger one takes so long to decode that the way does not matter."""
_FAREWELL_S = 0.25
"""How long an idle connection is kept when the process stops."""
_TYPES = frozenset(name.encode() for name in IMAGE_TYPES)
_DEADLINE = DEADLINE_HEADER.lower().encode()
_CANARY = CANARY_HEADER.lower().encode()

_NEVER = math.inf


class HotProtocol(BoundedProtocol):
    """One connection."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._gateway = _gateway_of(self.app)
        self._taking: Exchange | None = None
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
                caller = _caller(gateway, found)
                if caller is not None:
                    # Nobody waits for a head: the parser, which would say so, is passed by.
                    self._since = _NEVER
                    self._begin(Exchange(self, gateway, found, caller))
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
            # By the parser, whatever follows: to come back here would go deeper with each of many requests.
            self._head = None
            super().data_received(data[lacking:])

    def on_message_begin(self) -> None:
        """Begin a request; the scope of ASGI is made where it is needed."""
        self._parsing = True
        self.head_begins()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Take the request, or pass it on."""
        self.head_ends()
        url = self.url
        given, self._head = self._head, None
        if url.startswith(_PATH) and (url == _PATH or url.startswith(_QUERY)):
            head, gateway = self._plain_head(), self._gateway
            caller = None if head is None or gateway is None else _caller(gateway, head)
            if head is not None and gateway is not None and caller is not None:
                if given is not None:
                    heads.keep(given, head)
                self._begin(Exchange(self, gateway, head, caller))
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        # Not of `BoundedProtocol`, which would count the request again.
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        HttpToolsProtocol.on_headers_complete(self)
        if self.last and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        if self._taking is None:
            super().on_body(body)
        else:
            self.body_comes(len(body))
            self._taking.pieces.append(body)

    def on_message_complete(self) -> None:
        """Answer: the request is whole."""
        self._parsing = False
        if self._taking is None:
            super().on_message_complete()
            return
        self.request_ends()
        exchange, self._taking = self._taking, None
        exchange.answer()

    def is_overdue(self, now: float) -> bool:
        """Tell whether a request takes longer to arrive than it may."""
        if self._missing and self._taking is not None:
            return now - self._taking.began > BODY_S
        return super().is_overdue(now)

    @property
    def held_bytes(self) -> int:
        """What waits in memory for the client: to be read, or to become whole."""
        pieces = () if self._taking is None else self._taking.pieces
        return super().held_bytes + sum(map(getsizeof, pieces))

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a client that left before its request was whole."""
        if self._taking is not None:
            exchange, self._taking = self._taking, None
            exchange.count(CLIENT_GONE)
            exchange.tell(CLIENT_GONE)
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

    def _begin(self, exchange: "Exchange") -> None:
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
        typed = False
        media_type: bytes | None = None
        identifier = deadline = key = parent = state = None
        authorization: bytes | None = None
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 10 else -1
            elif name == b"content-type":
                if typed:
                    return None  # for the app to say which of them counts
                typed = True
                if value and value not in _TYPES:
                    media_type = value
            elif name == b"transfer-encoding":
                return None
            elif name == b"authorization":
                if authorization is not None:
                    return None  # for the guard to refuse
                authorization = value
            elif name == b"x-request-id":
                identifier = value.decode("latin-1") if identifier is None else identifier
            elif name == _DEADLINE:
                deadline = value.decode("latin-1") if deadline is None else deadline
            elif name == _CANARY:
                key = value.decode("latin-1") if key is None else key
            elif name == b"traceparent":
                parent = value.decode("latin-1")
            elif name == b"tracestate":
                state = value.decode("latin-1")
        if not self._may_take(length):
            return None
        return Head(
            self.url[len(_QUERY) :],
            length,
            identifier,
            deadline,
            key,
            media_type,
            parent,
            state,
            authorization,
        )


def _caller(gateway: Gateway, head: Head) -> Caller | None:
    """Return who asks; None for a stranger, whom the guard of the app refuses."""
    ring = gateway.ring
    return ANYBODY if ring is None else ring.known(head.authorization)


def _gateway_of(app: Any) -> Gateway | None:
    """Return the parts that the app under its wrappers holds, or None where it is another app."""
    while app is not None:
        gateway = getattr(getattr(app, "state", None), "gateway", None)
        if isinstance(gateway, Gateway):
            return gateway
        app = getattr(app, "app", None)
    return None

"""What is told of a request once it has been answered, and who is told: the access log and the traces.

Both are options. Where none is on, the short way pays one comparison a request, and no wrapper stands around
the app.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.hot.answered import Observer
from shared.adapters.web.access import caller_of

UNTOLD = Counter("imago_untold_requests_total", "Requests that the access log or the traces lack", ["what"])
BEGAN = "imago.began"
"""In a scope: `time.perf_counter()` when the request came, where somebody watches."""
_MOST_PATH = 256


class Ended(NamedTuple):
    """One request after its answer. Every word that a client chose is plain ASCII."""

    began: float
    """`time.perf_counter()`; the same as in the `Asked` of the request, where it asked a student."""
    ended: float
    request_id: str
    method: str
    path: str
    """As it was sent, escapes and all, without the query; cut off where it is long."""
    route: str | None
    """The route that answered, such as `/v1/jobs/{id}`."""
    query: bytes
    status: int
    """499 where the client left before its request was whole."""
    received_bytes: int
    """Of the body, as far as it was read."""
    sent_bytes: int
    """Of the answer's body."""
    student: str | None = None
    """The version that answered."""
    traceparent: str | None = None
    tracestate: str | None = None
    key_id: str | None = None
    """Of the key that was sent, where it was a valid one."""


class Watcher(Protocol):
    """Is told of requests. All of it is called on the event loop, must not block and never raises."""

    observers: tuple[Observer, ...]
    """Of calls of the student, for `Batches`."""

    def start(self) -> None:
        """Begin, on the running event loop."""
        ...

    def stop(self) -> None:
        """Hand on what is left; this one may block."""
        ...

    def ended(self, request: Ended) -> None:
        """Take note of a request."""
        ...


def began_of(scope: Scope) -> float:
    """Return when a request came, as `time.perf_counter()`: what its watchers call it, else now."""
    found: float | None = scope.get(BEGAN)
    return time.perf_counter() if found is None else found


def plain(word: bytes) -> str:
    """Return what a client sent as ASCII; other bytes, at some of which readers break lines, are escaped."""
    return word[:_MOST_PATH].decode("ascii", "backslashreplace")


class Watched:
    """Wraps the app and tells watchers of each request that comes this way."""

    def __init__(self, app: ASGIApp, watchers: Sequence[Watcher]) -> None:
        self.app = app
        self.watchers = tuple(watchers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = scope[BEGAN] = time.perf_counter()
        status = received = sent = 0
        identifier = ""
        student: str | None = None

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def seen(message: Message) -> None:
            nonlocal status, sent, identifier, student
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message["headers"]:
                    lower = name.lower()
                    if lower == b"x-request-id":
                        identifier = value.decode("latin-1")
                    elif lower == b"x-student-version":
                        student = value.decode("latin-1")
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, counted, seen)
        finally:
            given = {name: value for name, value in scope["headers"] if name.startswith(b"trace")}
            route = getattr(scope.get("route"), "path", None)
            request = Ended(
                began=began,
                ended=time.perf_counter(),
                request_id=identifier,
                method=plain(scope["method"].encode("latin-1", "replace")),
                path=plain(scope.get("raw_path") or scope["path"].encode()),
                route=route,
                query=scope["query_string"],
                status=status or 500,
                received_bytes=received,
                sent_bytes=sent,
                student=student,
                traceparent=_header(given, b"traceparent"),
                tracestate=_header(given, b"tracestate"),
                key_id=caller_of(scope).key_id,
            )
            for watcher in self.watchers:
                watcher.ended(request)


def _header(headers: dict[bytes, bytes], name: bytes) -> str | None:
    found = headers.get(name)
    return None if found is None else found.decode("latin-1")

"""The outermost layer of an HTTP service: request ids, body limits, metrics, a last answer.

Pure ASGI, because it is on the way of every prediction: a dictionary look-up or two, no task and no thread.
"""

import logging
import random
import re
import time
from collections.abc import Collection, Mapping
from http import HTTPStatus

from prometheus_client import Counter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs
from shared.adapters.web.metrics import BatchHistogram
from shared.adapters.web.problems import error_response, unexpected
from shared.errors import BodyTooLarge, DistillationError, QueueFull

log = logging.getLogger(__name__)

REQUESTS = Counter("imago_http_requests_total", "Requests answered", ["route", "method", "status"])
SECONDS = BatchHistogram(
    "imago_http_request_seconds",
    "Time from the request's head to the end of the answer",
    ["route"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_DRAINED_BYTES = 2**16
_SMALL_BYTES = 2**16
"""Of a body that is taken however much others hold."""
_HELD_RETRY_S = 1.0
_SANE_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


def request_id_of(given: str | None) -> str:
    """Return the id of a request: the one that the client gave, where it is a sane one, or a new one."""
    if given and _SANE_ID.match(given):
        return given
    # Unique, which is all it has to be: no secret, so no system call.
    return f"{random.getrandbits(64):016x}"


class Tally:
    """Counts the answers of one route that do not pass the boundary, as it would, many in one step."""

    def __init__(self, route: str, method: str) -> None:
        self._route = route
        self._method = method
        self._statuses: list[int] = []
        self._seconds: list[float] = []

    def add(self, status: int, seconds: float) -> bool:
        """Note an answer; return whether it is the first since the last `count`."""
        self._statuses.append(status)
        self._seconds.append(seconds)
        return len(self._statuses) == 1

    def count(self) -> None:
        """Add what was noted to the metrics."""
        for status in set(self._statuses):
            REQUESTS.labels(self._route, self._method, status).inc(self._statuses.count(status))
        SECONDS.labels(self._route).observe_many(self._seconds)
        self._statuses.clear()
        self._seconds.clear()


class Boundary:
    """Wraps the whole app.

    Args:
        app: whose answers are its own, unless it fails.
        limit_bytes: of one body.
        limits_bytes: the same by path prefix; the longest prefix counts.
        most_held_bytes: of all bodies together that requests have sent and wait with for their answers; one
            that would be above it is refused with 503.
        to_disk: paths whose bodies do not stay in memory and do not count as held.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit_bytes: int,
        limits_bytes: Mapping[str, int] | None = None,
        most_held_bytes: int = 2**29,
        to_disk: Collection[str] = (),
    ) -> None:
        self.app = app
        self.limit_bytes = limit_bytes
        self.limits_bytes = sorted((limits_bytes or {}).items(), key=lambda item: -len(item[0]))
        self.most_held_bytes = most_held_bytes
        self._to_disk = frozenset(to_disk)
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identifier = request_id_of(_header(scope, b"x-request-id"))
        token = logs.request_id.set(identifier)
        try:
            await self._answer(scope, receive, send, identifier)
        finally:
            logs.request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, identifier: str) -> None:
        began = time.perf_counter()
        limit = next(
            (size for prefix, size in self.limits_bytes if scope["path"].startswith(prefix)), self.limit_bytes
        )
        status = 0
        taken = 0
        refused: DistillationError | None = None
        complete = False
        read = False
        is_held = scope["path"] not in self._to_disk

        def refusal(size: int, more_held: int) -> DistillationError | None:
            if size > limit:
                return BodyTooLarge(limit)
            if is_held and size > _SMALL_BYTES and self._held_bytes + more_held > self.most_held_bytes:
                return QueueFull("bytes of bodies", self.most_held_bytes, _HELD_RETRY_S)
            return None

        async def counted() -> Message:
            nonlocal taken, refused, read
            message = await receive()
            if message["type"] == "http.request":
                read = not message.get("more_body", False)
                size = len(message.get("body", b""))
                taken += size
                self._held_bytes += size if is_held else 0
                refused = refused or refusal(taken, 0)
                if refused is not None:
                    raise refused
            return message

        async def stamped(message: Message) -> None:
            nonlocal status, complete
            if refused is not None and status == 0:
                return  # frameworks make a 400 of what `counted` raised; the answer comes below
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = identifier
                if not read and _sends_much(scope):
                    # Else a client that was refused early could go on sending for as long as it likes.
                    headers["Connection"] = "close"
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        declared = _header(scope, b"content-length")
        if declared and declared.isdigit():
            refused = refusal(int(declared), int(declared))
        try:
            if refused is None:
                await self.app(scope, counted, stamped)
        except Exception as error:  # the last line of defence: see below
            # Not raised on: uvicorn would close the connection under the client's next request.
            if refused is None:
                log.exception("unhandled error", extra={"path": scope["path"]})
            if status == 0 and refused is None:
                await unexpected()(scope, receive, stamped)
            elif status != 0 and not complete:
                # The answer has begun: only breaking the connection still says that it is not whole.
                raise error
        finally:
            if is_held:
                self._held_bytes -= taken
        if refused is not None and status == 0:
            answer = error_response(
                refused,
                HTTPStatus.SERVICE_UNAVAILABLE
                if isinstance(refused, QueueFull)
                else HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
            refused = None
            await answer(scope, receive, stamped)
        route = getattr(scope.get("route"), "path", "unmatched")
        REQUESTS.labels(route, scope["method"], status).inc()
        SECONDS.labels(route).observe(time.perf_counter() - began)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("request", extra={"path": scope["path"], "status": status})


def _sends_much(scope: Scope) -> bool:
    """Tell whether the request's body is longer than what is worth reading to keep the connection."""
    declared = _header(scope, b"content-length")
    if declared and declared.isdigit():
        return int(declared) > _DRAINED_BYTES
    return _header(scope, b"transfer-encoding") is not None


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None

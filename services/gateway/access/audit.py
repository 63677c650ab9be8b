"""Who was refused, and what administrators did: a line of the log each, and a metric.

Not on the way of a prediction that is answered: the short way calls `refused` where it refuses, and the
wrapper only looks at the status of everything else.
"""

import logging
import time
from typing import Final

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.observability.ended import plain
from shared.adapters.web.access import ANYBODY, CALLER, Caller
from shared.adapters.web.scopes import scope_of
from shared.contracts.keys import Scope as KeyScope

log = logging.getLogger(__name__)

REFUSED: Final = Counter("imago_access_refused_total", "Requests without a valid key, or its scope", ["code"])
CODES: Final = {401: "unauthenticated", 403: "scope-missing"}
_READING: Final = ("GET", "HEAD", "OPTIONS")
_MOST_LINES: Final = 50
"""A second, of refusals with one status: whoever knocks without end fills no disk. All are counted."""


class _Lines:
    """Says whether another line may be written in this second."""

    def __init__(self) -> None:
        self._second = 0
        self._left = _MOST_LINES

    def take(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, _MOST_LINES
        self._left -= 1
        return self._left >= 0


_lines = {status: _Lines() for status in CODES}
"""Apart: strangers who knock without end hide no key that asks for more than it may."""


def refused(status: int, caller: Caller | None, method: str, route: str | None, path: bytes) -> None:
    """Count and tell of a request that was refused as its key is missing, invalid, or lacks the scope.

    Args:
        status: 401 or 403.
        caller: whose the key is, where it is valid.
        method: of the request.
        route: such as `/v1/jobs/{job_id}`, where it was found already.
        path: as it was sent, without the query; in it stands which object was asked for.
    """
    code = CODES[status]
    REFUSED.labels(code).inc()
    if _lines[status].take():
        log.warning("access refused", extra={"code": code, **_who(caller), **_what(method, route, path)})


class Audited:
    """Wraps the guard, and tells of what it or a route refused, and of what administrators changed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._told(scope, message["status"])
            await send(message)

        await self.app(scope, receive, seen)

    def _told(self, scope: Scope, status: int) -> None:
        caller: Caller | None = scope.get(CALLER)
        if status in CODES:
            refused(status, caller, *_request(scope))
        elif caller is not None and caller.is_admin and _changes(scope):
            extra = {"status": status, **_who(caller), **_what(*_request(scope))}
            log.info("an administrator's request", extra=extra)


def _changes(scope: Scope) -> bool:
    """Tell whether a request asks for more than an answer; a prediction does not."""
    route = scope.get("route")
    return scope["method"] not in _READING and (route is None or scope_of(route) is not KeyScope.PREDICT)


def _request(scope: Scope) -> tuple[str, str | None, bytes]:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return scope["method"], getattr(scope.get("route"), "path", None), path


def _who(caller: Caller | None) -> dict[str, str | None]:
    known = caller if caller is not None else ANYBODY
    return {"key_id": known.key_id, "owner": known.owner}


def _what(method: str, route: str | None, path: bytes) -> dict[str, str | None]:
    return {"method": plain(method.encode("latin-1", "replace")), "route": route, "path": plain(path)}

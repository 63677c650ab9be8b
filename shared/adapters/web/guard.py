"""Lets in who has a key: nothing of a stranger's request is read but its head.

Pure ASGI, as the boundary around it, which stamps and counts what is refused here too.
"""

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.adapters.web.access import CALLER, Caller
from shared.adapters.web.keyring import KeyRing
from shared.adapters.web.problems import StatusTable, refusal
from shared.errors import DistillationError, Unauthenticated

NOBODY: Final = Caller("-", None, frozenset())
"""Who asks on a public path: may do nothing, and owns nothing, as no owner is called that."""

_PUBLIC: Final = ("/metrics", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
_PUBLIC_BELOW: Final = ("/health/", "/v2/health/")

Charge = Callable[[Caller, int], None]
"""Takes so many requests from what a caller may ask for; raises `RateExceeded` or `QuotaExceeded`."""


class Guard:
    """Wraps the app: every path needs a key, but for health, metrics and the description of the API.

    Args:
        app: is handed the caller in `scope[CALLER]`.
        ring: the valid keys.
        statuses: of errors, of the service.
        charge: is called once for each request; the routes charge what costs more than one.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing, statuses: StatusTable, charge: Charge) -> None:
        self.app = app
        self._ring = ring
        self._statuses = statuses
        self.charge = charge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # no service has any
            return
        if scope["type"] == "http":
            if is_public(scope["path"]):
                scope[CALLER] = NOBODY
            else:
                try:
                    scope[CALLER] = caller = self._ring.caller(authorization_of(scope))
                    self.charge(caller, 1)
                except DistillationError as error:
                    response = refusal(error, self._statuses)
                    await response(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def is_public(path: str) -> bool:
    """Tell whether anybody may ask for a path."""
    return path in _PUBLIC or path.startswith(_PUBLIC_BELOW)


def authorization_of(scope: Scope) -> bytes | None:
    """Return the value of the header `Authorization`, None where there is none.

    Raises:
        Unauthenticated: there are several, and who reads the first is not who reads the last.
    """
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) > 1:
        raise Unauthenticated
    return given[0] if given else None

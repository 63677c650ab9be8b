"""Which scope a route needs: said where the route is, checked before it runs, and told in its OpenAPI."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.params import Depends
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.responses import Response
from starlette.routing import BaseRoute

from shared.adapters.web.access import caller_of
from shared.contracts.keys import Scope
from shared.errors import DistillationError, QuotaExceeded, RateExceeded, ScopeMissing, Unauthenticated

REFUSALS: Final[tuple[type[DistillationError], ...]] = (
    Unauthenticated,
    ScopeMissing,
    RateExceeded,
    QuotaExceeded,
)
"""What every route may answer that needs a scope, where keys are on."""

_SCHEME: Final = HTTPBearer(
    bearerFormat="imago_<id>_<secret>",
    description="A key from `imago keys create`. Where keys are off, none is needed.",
)


class Need(SecurityBase):
    """A dependency that refuses a caller whose key lacks a scope. It runs on the event loop."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.model = _SCHEME
        self.scheme_name = "key"

    async def __call__(self, request: Request) -> None:
        """Raise `ScopeMissing` where the key does not allow this."""
        caller_of(request.scope).need(self.scope)


def needs(scope: Scope) -> Any:
    """Return what goes into the `dependencies` of a route or a router.

    A route that FastAPI gives no dependencies, as its class hands on the bare request, asks `scope_of`.
    """
    return Security(Need(scope), scopes=[scope.value])


class ScopedRoute(APIRoute):
    """A route that looks at the scope before it reads the body.

    FastAPI reads and parses a body that the endpoint declares, and only then asks the dependencies: who may
    not ask at all would be told that the JSON is broken, and would have had it read.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the scope; as it is where the route is public."""
        handler = super().get_route_handler()
        scope = scope_of(self)
        if scope is None:
            return handler

        async def answer(request: Request) -> Response:
            caller_of(request.scope).need(scope)
            return await handler(request)

        return answer


def scope_of(route: BaseRoute) -> Scope | None:
    """Return the scope that a route needs; None where it is public.

    Raises:
        ValueError: it says more than one.
    """
    found = [
        one.dependency.scope
        for one in getattr(route, "dependencies", ())
        if isinstance(one, Depends) and isinstance(one.dependency, Need)
    ]
    if len(found) > 1:
        raise ValueError(f"{getattr(route, 'path', route)} needs one scope, not {found}")
    return found[0] if found else None

"""Refusals in the protocol's own form, wherever they come from: a route, the framework, the boundary."""

import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.errors import STATUSES
from shared.adapters.web.access import caller_of
from shared.adapters.web.problems import StatusTable, refusal, status_of
from shared.adapters.web.scopes import scope_of
from shared.contracts.oip import InferenceError
from shared.contracts.problems import PROBLEM_MEDIA_TYPE
from shared.errors import DistillationError, InvalidRequest, TooManyImages

PREFIX: Final = "/v2"

OIP_STATUSES: Final[StatusTable] = {**STATUSES, InvalidRequest: 400, TooManyImages: 400}
"""As on the other routes, but for what they call 422, and for a tensor with too many rows."""


class OipRoute(APIRoute):
    """A route whose endpoint is given the request and gives the response; refusals have our statuses."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint behind its scope, and an answer to what it refuses."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        scope = scope_of(self)

        async def answer(request: Request) -> Response:
            try:
                if scope is not None:
                    caller_of(request.scope).need(scope)
                return await endpoint(request)
            except DistillationError as error:
                return refusal(error, OIP_STATUSES)

        return answer


class OipErrors:
    """Wraps the whole app: a problem document on a path of the protocol is answered as its `error`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and (scope["path"] == PREFIX or scope["path"].startswith(f"{PREFIX}/")):
            send = _Rewording(send)
        await self.app(scope, receive, send)


class _Rewording:
    """Sends an answer on, a problem document in other words."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._problem = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_problem(message):
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None:
            self._problem += message.get("body", b"")
            if not message.get("more_body", False):
                body = reworded(self._problem)
                headers = MutableHeaders(scope=self._start)
                headers["Content-Type"] = "application/json"
                headers["Content-Length"] = str(len(body))
                await self._send(self._start)
                await self._send({"type": "http.response.body", "body": body})
        else:
            await self._send(message)


def reworded(problem: bytes) -> bytes:
    """Return a problem document as an error of the protocol, with the remedy: clients show nothing else."""
    found = json.loads(problem)
    words = f"{found['detail']}. {found['remedy']}" if found["remedy"] else found["detail"]
    error = InferenceError(error=words, code=found["code"], request_id=found["request_id"])
    return error.model_dump_json().encode()


def documented(*errors: type[DistillationError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route of the protocol that may raise these errors."""
    by_status: dict[int, list[str]] = {}
    for error in errors:
        words = f"`{error.code}`: {(error.__doc__ or '').splitlines()[0].rstrip('.')}"
        by_status.setdefault(status_of(error, OIP_STATUSES), []).append(words)
    return {
        status: {"model": InferenceError, "description": "; ".join(words)}
        for status, words in sorted(by_status.items())
    }


def _is_problem(start: Message) -> bool:
    return start["status"] >= HTTPStatus.BAD_REQUEST and any(
        name.lower() == b"content-type" and value.startswith(PROBLEM_MEDIA_TYPE.encode())
        for name, value in start["headers"]
    )

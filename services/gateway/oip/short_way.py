"""Inference without the app's routing, which costs a request more than reading and answering it do.

The app has the same routes, for its OpenAPI and for whoever runs it without this; tests compare the answers.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.adapters.web.problems import CLIENT_GONE

_INFER: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ShortWay:
    """Wraps the app, behind its boundary.

    Args:
        app: answers everything else.
        handler: of inference.
        routes: of inference in the app, without and with a version: the boundary counts by their paths.
    """

    def __init__(self, app: ASGIApp, handler: Handler, routes: tuple[BaseRoute, BaseRoute]) -> None:
        self.app = app
        self._handler = handler
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = _INFER.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        name, version = found.groups()
        scope["app"] = self.app
        scope["path_params"] = {"name": name} if version is None else {"name": name, "version": version}
        scope["route"] = self._routes[version is not None]
        try:
            response = await self._handler(Request(scope, receive))
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)  # for the metrics: nobody receives it
        await response(scope, receive, send)

"""The OpenAPI document of a service: complete with our problem documents, stored beside the code.

Our refusals are `application/problem+json`; FastAPI would document its own form of them, which nobody ever
receives, so it is taken out.
"""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shared.contracts.problems import PROBLEM_MEDIA_TYPE, Problem

_FASTAPI_422 = "#/components/schemas/HTTPValidationError"
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the app: its routes, with every refusal as a `Problem`."""
    made = copy.deepcopy(FastAPI.openapi(app))
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    extra: tuple[type[BaseModel], ...] = getattr(app.state, "described_models", ())
    _, definitions = models_json_schema(
        [(Problem, "serialization"), *((model, "validation") for model in extra)],
        ref_template="#/components/schemas/{model}",
    )
    schemas |= definitions["$defs"]
    made["components"]["schemas"] = dict(sorted(schemas.items()))
    for path in made.get("paths", {}).values():
        for operation in path.values():
            _correct(operation["responses"])
    return made


def install(app: FastAPI, *models: type[BaseModel]) -> None:
    """Let `/openapi.json` and `/docs` show the document of `document`.

    It is made for the first who asks, once and apart from the event loop: most of a second for hundreds of
    kilobytes, and strangers may ask as often as they like.

    Args:
        app: the app; routes that are added after the first request are not shown.
        models: that routes refer to by hand, because they read their bodies themselves.
    """
    app.state.described_models = models
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    if app.openapi_url is None:
        return
    made = b""
    making = asyncio.Lock()

    async def served(_request: Request) -> Response:
        nonlocal made
        if not made:
            async with making:
                made = made or await asyncio.to_thread(lambda: bytes(JSONResponse(document(app)).body))
        return Response(made, media_type="application/json")

    # FastAPI's own would copy the document and turn it into JSON at each request.
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) != app.openapi_url
    ]
    app.add_route(app.openapi_url, served, include_in_schema=False)


def write(app: FastAPI, path: Path) -> None:
    """Store the document of the app, keys sorted, so that a change shows as a small difference."""
    path.write_text(_text(document(app)), encoding="utf-8")


def stored(path: Path) -> dict[str, Any]:
    """Return the document that `write` stored."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _correct(responses: dict[str, Any]) -> None:
    for response in responses.values():
        content = response.get("content", {})
        if content.get("application/json", {}).get("schema", {}).get("$ref") == _FASTAPI_422:
            response["description"] = "The request is malformed"
            response["content"] = {PROBLEM_MEDIA_TYPE: _PROBLEM}
        elif PROBLEM_MEDIA_TYPE in content and "application/json" in content:
            # FastAPI adds its own media type to responses that a route documents; ours is never sent as that.
            del content["application/json"]


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

"""The Open Inference Protocol v2 over REST: the student for clients of Triton, KServe and MLServer.

A model is the name on a student's card, its versions are all students of that name. Without a version the
live student answers. Refusals have the protocol's form, see `oip.refusals`.
"""

import math
from functools import cache, partial
from importlib import metadata
from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from services.gateway.hot.apart import in_thread
from services.gateway.hot.asked import DEADLINE_HEADER, MOST_DEADLINE_MS, Options, deadline_of
from services.gateway.observability.ended import began_of
from services.gateway.oip.compression import ONE_PACKET, Coding, coding_of, deflated, wanted_coding
from services.gateway.oip.inference import answer, read
from services.gateway.oip.refusals import PREFIX, OipRoute, documented
from services.gateway.oip.seen import may_ask, versions_for
from services.gateway.oip.short_way import ShortWay
from services.gateway.oip.tensors import described
from services.gateway.routes.predictions import CANARY_HEADER, STUDENT_HEADER, charge_others
from services.gateway.state import Gateway
from shared.adapters.oip_bodies import BINARY_EXTENSION, HEADER_LENGTH, JSON, OCTETS
from shared.adapters.web.access import caller_of
from shared.adapters.web.scopes import REFUSALS, needs
from shared.contracts.keys import Scope
from shared.contracts.oip import (
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from shared.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidDeadline,
    InvalidImage,
    InvalidInference,
    MalformedBody,
    ModelNotFound,
    NoImages,
    NoLiveStudent,
    QueueFull,
    StudentNotFound,
    StudentNotLoaded,
    StudentUnusable,
    TemperatureNotServed,
    TooManyImages,
    UnsupportedContentEncoding,
)
from shared.serving.session import StudentSession

MODEL: Final = f"{PREFIX}/models/{{name}}"
VERSION: Final = f"{MODEL}/versions/{{version}}"

_PACKED_AT_ONCE: Final = 2**16
"""Bytes of an answer that are compressed in about a millisecond."""
_EXTENSIONS: Final = ("classification", BINARY_EXTENSION)

router = APIRouter(tags=["oip"], route_class=OipRoute, responses=documented(*REFUSALS))
health = APIRouter(tags=["oip"], route_class=OipRoute)


def _parameter(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


_NAME = _parameter("name", "Of the model: the name on the student's card")
_NAMED: Final = {"parameters": [_NAME]}
_NAMED_VERSION: Final = {"parameters": [_NAME, _parameter("version", "Of the student")]}
_INFER: Final = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "description": "How many bytes of the body are JSON, where tensors follow it in binary",
            "schema": {"type": "integer", "minimum": 1},
        },
        {
            "name": DEADLINE_HEADER,
            "in": "header",
            "description": "Milliseconds after which the answer is of no use; it is 504 then",
            "schema": {"type": "integer", "minimum": 1, "maximum": MOST_DEADLINE_MS},
        },
    ],
    "requestBody": {
        "required": True,
        "description": "JSON, or JSON and then tensors in binary. May be compressed (gzip, deflate).",
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
            OCTETS: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_ANSWER_HEADERS: Final = {
    STUDENT_HEADER: {"description": "The version that answered", "schema": {"type": "string"}},
    HEADER_LENGTH: {
        "description": "How many bytes of the answer are JSON, where tensors follow it in binary",
        "schema": {"type": "integer"},
    },
}
_INFER_RESPONSES: Final = {
    200: {
        "headers": _ANSWER_HEADERS,
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    },
    **documented(
        InvalidInference,
        TemperatureNotServed,
        NoImages,
        TooManyImages,
        InvalidImage,
        MalformedBody,
        InvalidDeadline,
        ModelNotFound,
        StudentUnusable,
        BodyTooLarge,
        ImageTooLarge,
        UnsupportedContentEncoding,
        StudentNotLoaded,
        QueueFull,
        DeadlineExceeded,
    ),
}


# --- inference ---------------------------------------------------------------------------------------------
# Routes are tried in this order, and of two decorators the lower one is first.


@router.post(
    f"{VERSION}/infer",
    dependencies=[needs(Scope.PREDICT)],
    summary="Ask a version",
    response_model=InferenceResponse,
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER | {"parameters": [*_NAMED_VERSION["parameters"], *_INFER["parameters"]]},
    name="infer_version",
)
@router.post(
    f"{MODEL}/infer",
    dependencies=[needs(Scope.PREDICT)],
    summary="Ask the live student",
    response_model=InferenceResponse,
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER | {"parameters": [*_NAMED["parameters"], *_INFER["parameters"]]},
    name="infer",
)
async def infer(request: Request) -> Response:
    """Answer `probabilities` at T = 1, `logits` or `predicted` for raw pixels or encoded images."""
    began = began_of(request.scope)
    gateway: Gateway = request.app.state.gateway
    headers = request.headers
    deadline = deadline_of(headers.get(DEADLINE_HEADER), began)
    coding = coding_of(headers.get("Content-Encoding"))
    student = await _student(request)
    wanted = await read(gateway, student, await request.body(), headers.get(HEADER_LENGTH), coding)
    charge_others(gateway, caller_of(request.scope), wanted.rows)
    if wanted.timeout_s is not None:
        deadline = min(began + wanted.timeout_s, deadline or math.inf)
    body, header_length = await answer(gateway, student, wanted, Options(began, wanted.top, deadline))
    told = {STUDENT_HEADER: student.version}
    if header_length is not None:
        told[HEADER_LENGTH] = str(header_length)
    if len(body) > ONE_PACKET and (coding := wanted_coding(headers.get("Accept-Encoding"))) is not None:
        told["Content-Encoding"] = coding
        body = await _packed(gateway, body, coding)
    return Response(body, media_type=JSON if header_length is None else OCTETS, headers=told)


def short_way(app: FastAPI) -> ShortWay:
    """Return the app with a way past its routing for inference."""
    routes = {route.name: route for route in router.routes if isinstance(route, OipRoute)}
    plain, versioned = routes["infer"], routes["infer_version"]
    return ShortWay(app, plain.get_route_handler(), (plain, versioned))


async def _packed(gateway: Gateway, body: bytes, coding: Coding) -> bytes:
    if len(body) <= _PACKED_AT_ONCE:
        return deflated(body, coding)
    # However many wait for a thread: the student has answered already.
    return await anyio.to_thread.run_sync(partial(deflated, body, coding), limiter=gateway.heavy)


# --- the server --------------------------------------------------------------------------------------------


@router.get(
    PREFIX,
    dependencies=[needs(Scope.PREDICT)],
    summary="What this server is, and what it can do",
    response_model=ServerMetadata,
)
async def server(request: Request) -> Response:
    """Name the server and its extensions of the protocol."""
    return _json(ServerMetadata(name="imago", version=_version(), extensions=_EXTENSIONS))


@health.get(f"{PREFIX}/health/live", summary="The process lives", response_model=ServerLive)
async def live(request: Request) -> Response:
    """Depend on nothing, as `/health/live`."""
    return _json(ServerLive())


@health.get(
    f"{PREFIX}/health/ready",
    summary="Requests may be sent here",
    response_model=ServerReady,
    responses={503: {"model": ServerReady, "description": "Draining, or the promoted student is not loaded"}},
)
async def ready(request: Request) -> Response:
    """Be ready where `/health/ready` is."""
    gateway: Gateway = request.app.state.gateway
    is_ready = gateway.live.ready and not gateway.draining.begun
    return _json(ServerReady(ready=is_ready), 200 if is_ready else 503)


# --- models ------------------------------------------------------------------------------------------------


@router.get(
    MODEL,
    dependencies=[needs(Scope.PREDICT)],
    summary="The tensors of the live student",
    response_model=ModelMetadata,
    responses=documented(ModelNotFound, StudentNotLoaded, QueueFull),
    openapi_extra=_NAMED,
    name="model",
)
@router.get(
    VERSION,
    dependencies=[needs(Scope.PREDICT)],
    summary="The tensors of a version",
    response_model=ModelMetadata,
    responses=documented(ModelNotFound, QueueFull),
    openapi_extra=_NAMED_VERSION,
    name="model_version",
)
async def model(request: Request) -> Response:
    """Describe inputs and outputs; `parameters` name the classes in the order of the numbers."""
    gateway: Gateway = request.app.state.gateway
    name, version = _named(request)
    versions = await _versions(request, gateway)
    if version is None:
        card = (await _live(request, gateway, name, None)).card
    elif version in versions.get(name, ()):
        card = await in_thread(gateway, partial(gateway.store.students.card, version))
    else:
        raise ModelNotFound(name, version, versions)
    return _json(described(card, versions.get(name, (card.version,))), version=card.version)


@router.get(
    f"{MODEL}/ready",
    dependencies=[needs(Scope.PREDICT)],
    summary="The live student can be asked",
    response_model=ModelReady,
    responses=documented(ModelNotFound, StudentNotLoaded, QueueFull),
    openapi_extra=_NAMED,
    name="model_ready",
)
@router.get(
    f"{VERSION}/ready",
    dependencies=[needs(Scope.PREDICT)],
    summary="A version can be asked",
    response_model=ModelReady,
    responses=documented(ModelNotFound, StudentUnusable, QueueFull),
    openapi_extra=_NAMED_VERSION,
    name="model_version_ready",
)
async def model_ready(request: Request) -> Response:
    """Load the version where it is not loaded, so that it can be asked."""
    student = await _student(request)
    return _json(ModelReady(name=student.card.name), version=student.version)


@cache
def _version() -> str:
    return metadata.version("imago")


# --- which student -----------------------------------------------------------------------------------------


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


async def _student(request: Request) -> StudentSession:
    """Return the student that a request names, loaded.

    Raises:
        ModelNotFound: there is none of this name, or version of it, for this caller.
        StudentNotLoaded: it is the live one, which could not be loaded.
        StudentUnusable: it is another one, which could not be loaded.
        QueueFull: too many wait for a thread.
    """
    gateway: Gateway = request.app.state.gateway
    name, version = _named(request)
    if version is None:
        return await _live(request, gateway, name, request.headers.get(CANARY_HEADER))
    if not may_ask(gateway, caller_of(request.scope), version):
        raise ModelNotFound(name, version, await _versions(request, gateway))
    if version != gateway.live.version and version not in gateway.versions.loaded:
        # Before a student is loaded that is not of this name.
        await _need_version(request, gateway, name, version)
    try:
        student = await gateway.versions.get(version)
    except StudentNotFound:  # deleted a moment ago
        student = None
    if student is None or student.card.name != name:
        raise ModelNotFound(name, version, await _versions(request, gateway))
    return student


async def _live(request: Request, gateway: Gateway, name: str, key: str | None) -> StudentSession:
    """Return who answers where no version is named: the live student, or a candidate in its place.

    A candidate that is another model, or takes and answers other tensors, is left to other requests.
    """
    try:
        live = gateway.live.student()
    except NoLiveStudent:
        live = None
    if live is None or live.card.name != name:
        raise ModelNotFound(name, None, await _versions(request, gateway))
    chosen = gateway.traffic.student(key)
    alike = (chosen.card.name, chosen.input, chosen.classes) == (name, live.input, live.classes)
    return chosen if alike else live


async def _versions(request: Request, gateway: Gateway) -> dict[str, tuple[str, ...]]:
    """Return the versions of each name that the caller may ask."""
    return await in_thread(gateway, partial(versions_for, gateway, caller_of(request.scope)))


async def _need_version(request: Request, gateway: Gateway, name: str, version: str) -> None:
    versions = await _versions(request, gateway)
    if version not in versions.get(name, ()):
        raise ModelNotFound(name, version, versions)


def _json(answer: BaseModel, status: int = 200, *, version: str | None = None) -> Response:
    headers = {STUDENT_HEADER: version} if version is not None else None
    return Response(answer.model_dump_json(exclude_none=True), status, headers=headers, media_type=JSON)

"""The endpoints: soft targets, the teachers there are, health, metrics."""

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BeforeValidator, Field
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from services.teacher import answers, bodies
from services.teacher.errors import STATUSES
from services.teacher.examples import (
    MULTIPART_BODY,
    NAME_EXAMPLE,
    SAFETENSORS_BODY,
    SOFT_TARGETS_RESPONSE,
    VIEW_RESPONSE,
)
from services.teacher.parts import PartsDep
from shared import errors
from shared.adapters.content_digest import HEADER as CONTENT_DIGEST
from shared.adapters.content_digest import content_digest
from shared.adapters.web.access import caller_of
from shared.adapters.web.metrics import exposition
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import ScopedRoute, needs
from shared.contracts.base import Contract, refuse
from shared.contracts.budgets import BudgetList
from shared.contracts.keys import Scope
from shared.contracts.teachers import (
    ACCOUNT_HEADER,
    DEADLINE_HEADER,
    DIGEST_HEADER,
    LANE_HEADER,
    MOST_ROWS_HEADER,
    PRECISION_HEADER,
    SAFETENSORS_MEDIA_TYPE,
    TEMPERATURE_HEADER,
    Lane,
    TeacherList,
    TeacherView,
)

TAGS: Final = [
    {"name": "soft targets", "description": "Softened logits of a teacher for a batch of images."},
    {"name": "teachers", "description": "The teachers that answer. New ones appear by themselves."},
    {"name": "budgets", "description": "How much of what they may ask teachers keys have asked."},
    {"name": "health", "description": "For whoever runs the service."},
]

router = APIRouter(route_class=ScopedRoute)

_STRANGERS: Final = (errors.Unauthenticated, errors.ScopeMissing)

T = TypeVar("T")


def _temperature(value: object) -> object:
    """Read a temperature from the query, where everything is text."""
    try:
        temperature = float(str(value))
    except ValueError:
        raise refuse(errors.InvalidTemperature(str(value)[:64])) from None
    if not 0 < temperature < float("inf"):
        raise refuse(errors.InvalidTemperature(temperature))
    return temperature


TeacherName = Annotated[str, Path(description="Of the teacher", examples=[NAME_EXAMPLE])]
Temperature = Annotated[
    float,
    BeforeValidator(_temperature),
    Query(
        description="T, the divisor of the logits: a finite number above 0",
        examples=[4.0],
        json_schema_extra={"exclusiveMinimum": 0},
    ),
]
ExpectedDigest = Annotated[
    str | None,
    Header(
        alias=DIGEST_HEADER,
        description="Answer only if the teacher has this digest; else refuse with 409 `teacher-changed`",
    ),
]
LaneWanted = Annotated[
    Lane | None,
    Header(
        alias=LANE_HEADER,
        description="Interactive requests are answered before bulk; left out, the number of images decides",
    ),
]
DeadlineMs = Annotated[
    float | None,
    Header(
        alias=DEADLINE_HEADER,
        description="Milliseconds after which nobody waits for the answer: it is then not computed, and "
        "refused with 504 `deadline-exceeded`",
        ge=0,
        le=86_400_000,
        allow_inf_nan=False,
    ),
]
BodyDigest = Annotated[
    str | None,
    Header(
        alias=CONTENT_DIGEST,
        description="`sha-256=:…:` (RFC 9530): a safetensors body that has another is refused with 422 "
        "`body-damaged`",
    ),
]
Account = Annotated[
    str | None,
    Header(
        alias=ACCOUNT_HEADER,
        description="Id of the key on whose budget the images go, for administrators; left out, the caller's",
        pattern="^[a-z0-9]{12}$",
    ),
]
Accept = Annotated[str | None, Header(include_in_schema=False)]
"""OpenAPI knows the answer's media types from the responses, and wants no parameter of this name."""


@router.post(
    "/v1/teachers/{name}/soft-targets",
    operation_id="ask_soft_targets",
    tags=["soft targets"],
    summary="Ask for softened logits",
    dependencies=[needs(Scope.TEACH)],
    response_class=Response,
    responses={
        **documented(
            STATUSES,
            errors.InvalidTemperature,
            errors.TemperatureTooLow,
            errors.InvalidImage,
            errors.InputMismatch,
            errors.NoImages,
            errors.MalformedBody,
            errors.BodyDamaged,
            errors.ImageTooLarge,
            errors.BodyTooLarge,
            errors.TooManyImages,
            errors.UnsupportedMediaType,
            errors.NotAcceptable,
            *_STRANGERS,
            errors.TeacherBudgetSpent,
            errors.KeyNotFound,
            errors.TeacherNotFound,
            errors.TeacherChanged,
            errors.QueueFull,
            errors.StoreFull,
            errors.ShuttingDown,
            errors.DeadlineExceeded,
            errors.TeacherUnavailable,
            errors.TeacherAnswerInvalid,
            errors.Corrupt,
        ),
        200: SOFT_TARGETS_RESPONSE,
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                bodies.MULTIPART: MULTIPART_BODY,
                SAFETENSORS_MEDIA_TYPE: SAFETENSORS_BODY,
                bodies.OCTETS: SAFETENSORS_BODY,
            },
        }
    },
)
async def ask_soft_targets(
    name: TeacherName,
    request: Request,
    parts: PartsDep,
    temperature: Temperature,
    probabilities: Annotated[bool, Query(description="Answer softmax(z/T) too")] = False,
    dtype: Annotated[answers.Dtype, Query(description="Numbers of the answer")] = "float32",
    expected_digest: ExpectedDigest = None,
    lane_wanted: LaneWanted = None,
    deadline_ms: DeadlineMs = None,
    body_digest: BodyDigest = None,
    account: Account = None,
    accept: Accept = None,
) -> Response:
    """Answer z/T, rows with zero mean, for one image or many.

    Images come as files in a form (PNG, JPEG, WebP; fitted to the teacher's input), or as one safetensors
    body with a tensor `images`: uint8, N x height x width x channels, exactly as the teacher takes them.
    """
    came = time.monotonic()
    caller = caller_of(request.scope)
    parts.need_seen(caller, name)
    payer = parts.budgets.payer(caller, account)
    answer_type = answers.chosen(accept)
    body_type = bodies.media_type(request)
    teacher, model = await parts.aside(partial(parts.teachers.hold, name, expected_digest))
    size, max_rows = teacher.preprocessing.input, parts.most_rows(teacher)
    if body_type == bodies.MULTIPART:
        files = await bodies.files_of(request, max_rows)
        lane = lane_wanted or parts.lane_of(len(files))
        images = await parts.aside(partial(bodies.decoded, files, size, parts.image_limits), lane)
    else:
        images = bodies.pixels_of(await bodies.read(request, body_digest), size, max_rows)
        lane = lane_wanted or parts.lane_of(len(images))
    async with parts.budgets.paying(payer, len(images)):
        asked = parts.batchers.of(model).ask(
            model,
            images,
            temperature=temperature,
            lane=lane,
            deadline_s=None if deadline_ms is None else deadline_ms / 1000,
            since=came,
        )
        logits = await _unless_gone(request, asked)
        answer = answers.Answer(teacher, temperature, logits, probabilities, dtype)
        encode = partial(answer.encoded, answer_type)
        body = await parts.aside(encode, lane) if answer.takes_long(answer_type) else encode()
    return Response(
        body,
        media_type=answer_type,
        headers={
            CONTENT_DIGEST: content_digest(body),
            DIGEST_HEADER: teacher.digest,
            TEMPERATURE_HEADER: repr(temperature),
            PRECISION_HEADER: teacher.precision,
            MOST_ROWS_HEADER: str(max_rows),
            "Vary": "Accept",
        },
    )


@router.get(
    "/v1/teachers",
    operation_id="list_teachers",
    tags=["teachers"],
    summary="List the teachers",
    dependencies=[needs(Scope.TEACH)],
    responses=documented(STATUSES, *_STRANGERS),
)
async def list_teachers(request: Request, parts: PartsDep) -> TeacherList:
    """Return the caller's teachers by name, an administrator's all: classes in order, input, digest."""
    found = await parts.aside(parts.teachers.describe_all)
    caller = caller_of(request.scope)
    return TeacherList(teachers=tuple(parts.view(one) for one in found if parts.sees(caller, one.name)))


@router.get(
    "/v1/teachers/{name}",
    operation_id="describe_teacher",
    tags=["teachers"],
    summary="Describe a teacher",
    dependencies=[needs(Scope.TEACH)],
    response_model=TeacherView,
    responses={
        **documented(STATUSES, *_STRANGERS, errors.TeacherNotFound, errors.Corrupt),
        200: VIEW_RESPONSE,
    },
)
async def describe_teacher(name: TeacherName, request: Request, parts: PartsDep) -> Response:
    """Return one teacher: classes in the order of the logits, input, digest."""
    parts.need_seen(caller_of(request.scope), name)
    view = parts.view(await parts.aside(partial(parts.teachers.describe, name)))
    body = view.model_dump_json().encode()
    return Response(body, media_type="application/json", headers={CONTENT_DIGEST: content_digest(body)})


@router.get(
    "/v1/budgets",
    operation_id="list_budgets",
    tags=["budgets"],
    summary="Show what keys have asked",
    dependencies=[needs(Scope.ADMIN)],
    responses=documented(STATUSES, *_STRANGERS, errors.Corrupt),
)
async def list_budgets(parts: PartsDep) -> BudgetList:
    """Return the budget of each key that has one, in rows: what it may ask, has asked and has left."""
    return BudgetList(budgets=await parts.aside(parts.budgets.views))


class Liveness(Contract):
    """The event loop turns."""

    status: str = "live"


class Readiness(Contract):
    """Whether requests should be sent here."""

    ready: bool
    draining: bool = Field(description="The service is stopping: it answers what waits and takes nothing new")
    warming: bool = Field(description="The service has started and still loads and tries its teachers")


@router.get("/health/live", operation_id="live", tags=["health"], summary="The process lives")
async def live() -> Liveness:
    """Depend on nothing, so that only a process that is stuck is restarted."""
    return Liveness()


@router.get(
    "/health/ready",
    operation_id="ready",
    tags=["health"],
    summary="Requests may be sent here",
    response_model=Readiness,
    responses={
        503: {"model": Readiness, "description": "Starting or stopping, or its model thread has ended"}
    },
)
async def ready(parts: PartsDep) -> Response:
    """Be ready once the teachers that there are have been tried, and while the device answers.

    Also with no teacher yet, because one may appear at any time.
    """
    able = parts.batchers.able
    answer = Readiness(ready=able and parts.warm, draining=parts.batchers.closing, warming=not parts.warm)
    return JSONResponse(answer.model_dump(), 200 if answer.ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    tags=["health"],
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics() -> Response:
    """Return what this process has counted: requests, rows, batches, the queue, time of forward passes."""
    return exposition()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the work, but give it up when the client closes its connection.

    Raises:
        ClientDisconnect: it did; nobody reads the answer.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

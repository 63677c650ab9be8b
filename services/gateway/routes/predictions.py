"""Predictions: an image in, the student's classes at T = 1 out. The hot path of the gateway.

One short coroutine on the raw request: no dependency, no model of the answer, no thread for a small image,
because each of them would cost more than the student does. `hot.protocol` takes most requests before they
come here, with the same answers; what comes here is large bodies, and all where another server runs.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.responses import Response

from services.gateway import examples
from services.gateway.errors import STATUSES
from services.gateway.hot.answered import Found
from services.gateway.hot.apart import in_thread, is_small, settle
from services.gateway.hot.asked import (
    DEADLINE_HEADER,
    MOST_DEADLINE_MS,
    Asked,
    Done,
    Options,
    deadline_of,
    need_time,
)
from services.gateway.hot.batches import call
from services.gateway.observability.ended import began_of
from services.gateway.parts import PartBegins, PartData, media_type, parts
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway
from services.gateway.traffic.teacher import has_teacher
from shared.adapters.web.access import Caller, caller_of
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs, scope_of
from shared.contracts.keys import Scope
from shared.contracts.predictions import PredictionAnswer
from shared.errors import (
    BodyTooLarge,
    BudgetNotCounted,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidDeadline,
    InvalidImage,
    MalformedBody,
    NoImages,
    NoLiveStudent,
    QueueFull,
    ScopeMissing,
    StudentNotLoaded,
    TeacherNotFound,
    TooManyImages,
    UnsupportedMediaType,
)
from shared.serving.images import EncodedImage, pixels
from shared.serving.session import StudentSession

PATH = "/v1/predictions"
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
MULTIPART = "multipart/form-data"
STUDENT_HEADER = "X-Student-Version"
CANARY_HEADER = "X-Canary-Key"

_DEFAULT_TOP = 5
_MOST_TOP = 1000
_NUMBER = re.compile(r"[0-9.eE+-]{1,32}")
"""What may be one: Python's `float` takes spaces, underscores and other alphabets' digits, too."""


class RawRoute(APIRoute):
    """A route whose endpoint is given the request and gives the response; between them is its scope alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint behind its scope."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        scope = scope_of(self)
        assert scope is not None

        async def answer(request: Request) -> Response:
            caller_of(request.scope).need(scope)
            return await endpoint(request)

        return answer


router = APIRouter(tags=["predictions"], route_class=RawRoute)

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    PATH,
    dependencies=[needs(Scope.PREDICT)],
    summary="Classify one image or several",
    response_model=PredictionAnswer,
    responses={
        200: {
            "headers": {
                STUDENT_HEADER: {"description": "The version that answered", "schema": {"type": "string"}}
            },
            **examples.answers(examples.PREDICTION),
        },
        **documented(
            STATUSES,
            InvalidImage,
            NoImages,
            MalformedBody,
            ImageTooLarge,
            TooManyImages,
            BodyTooLarge,
            UnsupportedMediaType,
            NoLiveStudent,
            StudentNotLoaded,
            QueueFull,
            InvalidDeadline,
            DeadlineExceeded,
            ScopeMissing,
            BudgetNotCounted,
            TeacherNotFound,
        ),
    },
    openapi_extra={
        "parameters": [
            {
                "name": "top",
                "in": "query",
                "description": "How many classes to answer, most probable first",
                "schema": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": _MOST_TOP,
                    "default": _DEFAULT_TOP,
                },
            },
            {
                "name": "cascade",
                "in": "query",
                "description": "Confidence below which the student's teacher answers in its place, or `off`; "
                "left out, the traffic policy decides. A number needs a key with the scope `teach` and "
                "without `teacher_rows`, and a student whose teacher is the caller's",
                "schema": {
                    "oneOf": [
                        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                        {"type": "string", "enum": ["off"]},
                    ]
                },
            },
            {
                "name": CANARY_HEADER,
                "in": "header",
                "description": "What the client calls itself, such as a user's id: while the traffic policy "
                "has a canary, the same key gets the same student",
                "schema": {"type": "string"},
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
            "description": "An encoded image as it is, or a form with one file an image.",
            "content": {
                **dict.fromkeys(IMAGE_TYPES, _BINARY),
                MULTIPART: {
                    "schema": {
                        "type": "object",
                        "properties": {"images": {"type": "array", "items": _BINARY["schema"]}},
                    }
                },
            },
        },
    },
)
async def predict(request: Request) -> Response:
    """Answer the student's most probable classes at T = 1, for each image in the order sent."""
    began = began_of(request.scope)
    gateway: Gateway = request.app.state.gateway
    caller = caller_of(request.scope)
    options = options_of(request.scope["query_string"], request.headers.get(DEADLINE_HEADER), began)
    need_cascade(caller, options)
    images = await _images(request, gateway.settings)
    charge_others(gateway, caller, len(images))
    student = gateway.traffic.student(request.headers.get(CANARY_HEADER))
    if options.threshold:
        need_teacher(gateway, caller, student)
    if is_small(student, images):
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        ask(gateway, student, images, options, partial(settle, answer))
        body = await answer
    else:
        body = await answer_apart(gateway, student, images, options)
    return Response(body, media_type="application/json", headers={STUDENT_HEADER: student.version})


def need_cascade(caller: Caller, options: Options) -> None:
    """Refuse a caller who chooses when the teacher answers, and may not see what it says.

    What the traffic policy leaves to the teacher is for everybody: that is not the caller's choice.

    Raises:
        ScopeMissing: the key has no `teach`.
        BudgetNotCounted: it has a budget. The gateway asks with a key of its own, so nobody would count.
    """
    if options.threshold:
        caller.need(Scope.TEACH)
        budget = caller.limits.teacher_rows
        if budget is not None:
            raise BudgetNotCounted(budget)


def need_teacher(gateway: Gateway, caller: Caller, student: StudentSession) -> None:
    """Raise `TeacherNotFound` where a student's teacher is another owner's, as the teacher service does.

    Only for a caller who chooses when the teacher answers: this looks at a file.
    """
    card = student.card
    if not has_teacher(card):
        return  # and nobody will be asked
    assert card.teacher is not None
    if not gateway.store.owners.may_see("teachers", card.teacher, caller.confined_to):
        # Its name stands on the card, which may be another's as well.
        raise TeacherNotFound(f"of {student.version}")


def charge_others(gateway: Gateway, caller: Caller, images: int) -> None:
    """Charge the images of a request beyond the first, which was charged before it was read.

    Raises:
        QuotaExceeded: the key may not ask so many more today.
    """
    if images > 1:
        gateway.limits.charge(caller, images - 1)


def ask(
    gateway: Gateway, student: StudentSession, images: Sequence[EncodedImage], options: Options, done: Done
) -> None:
    """Decode small images here and now, and let the student answer them together with others.

    Args:
        gateway: the parts.
        student: who answers.
        images: in the order of the answer.
        options: what was asked for beside them.
        done: is given the JSON of the answer, or what went wrong, on the event loop.

    Raises:
        QueueFull: too many images wait.
        InvalidImage: one of them is no image, or not whole.
        ImageTooLarge: one of them is over a limit.
    """
    gateway.batches.need_room(student, len(images))
    gateway.batches.submit(_decoded(gateway, student, images, options, done))


async def answer_apart(
    gateway: Gateway, student: StudentSession, images: Sequence[EncodedImage], options: Options
) -> bytes:
    """Return the answer to a large request, which is decoded and answered in a thread.

    Raises:
        QueueFull: too many wait for a thread.
        DeadlineExceeded: the time had passed before one was free.
        InvalidImage: one of them is no image, or not whole.
        ImageTooLarge: one of them is over a limit.
    """
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def work() -> tuple[Asked, Found | Exception]:
        need_time(options)
        asked = _decoded(gateway, student, images, options, partial(settle, answer))
        asked.queued = time.perf_counter()
        return asked, call([asked])

    asked, found = await in_thread(gateway, work)
    gateway.batches.finish([asked], found)
    return await answer


def _decoded(
    gateway: Gateway, student: StudentSession, images: Sequence[EncodedImage], options: Options, done: Done
) -> Asked:
    decoding = time.perf_counter()
    decoded = [pixels(image, student.input, gateway.image_limits) for image in images]
    return Asked(
        student,
        decoded,
        [image.file for image in images],
        options,
        decode_s=time.perf_counter() - decoding,
        done=done,
        threshold=gateway.traffic.threshold(student) if options.threshold is None else options.threshold,
    )


async def _images(request: Request, settings: GatewaySettings) -> list[EncodedImage]:
    """Read the images that the request carries; the body as a whole is bounded by the app's boundary."""
    given = media_type(request)
    if given == MULTIPART:
        return await form_images(request, settings)
    if given and given not in IMAGE_TYPES:
        raise UnsupportedMediaType(given, (*IMAGE_TYPES, MULTIPART))
    data = await request.body()
    if not data:
        raise NoImages("the body is empty")
    return [EncodedImage(data)]


async def form_images(request: Request, settings: GatewaySettings) -> list[EncodedImage]:
    """Read the images of a form, one a part, whatever the parts are called.

    Raises:
        MalformedBody: it is no form, or not whole.
        NoImages: it has no part.
        TooManyImages: it has more parts than one request may have.
        ImageTooLarge: a part has more bytes than an image may have.
    """
    images: list[EncodedImage] = []
    file: str | None = None
    pieces: list[bytes] = []
    size_bytes = 0
    async for event in parts(request):
        if isinstance(event, PartBegins):
            if len(images) == settings.max_images:
                raise TooManyImages(settings.max_images)
            file = event.filename[:255] if event.filename else None
            pieces, size_bytes = [], 0
        elif isinstance(event, PartData):
            size_bytes += len(event.data)
            if size_bytes > settings.max_image_bytes:
                reason = f"the image has more than {settings.max_image_bytes:,} bytes"
                raise ImageTooLarge(reason, file=file)
            pieces.append(event.data)
        else:
            images.append(EncodedImage(b"".join(pieces), file))
    if not images:
        raise NoImages("the form has no part")
    return images


def options_of(query: bytes, deadline: str | None, began: float) -> Options:
    """Return what a request asks for beside its images.

    Args:
        query: of its URL.
        deadline: value of the header `X-Deadline-Ms`.
        began: when it came, as `time.perf_counter()`.

    Raises:
        RequestValidationError: a value of the query is wrong.
        InvalidDeadline: the header is no whole number of milliseconds above 0.
    """
    due = deadline_of(deadline, began)
    if not query:
        return Options(began, _DEFAULT_TOP, due)
    given = QueryParams(query)
    return Options(began, _top(given), due, _threshold(given))


def _top(query: QueryParams) -> int:
    given = query.get("top", str(_DEFAULT_TOP))
    if given.isascii() and given.isdecimal() and len(given) <= 4 and 1 <= int(given) <= _MOST_TOP:
        return int(given)
    raise _invalid("int_range", "top", f"top must be a whole number from 1 to {_MOST_TOP}", given)


def _threshold(query: QueryParams) -> float | None:
    given = query.get("cascade")
    if given is None:
        return None
    if given == "off":
        return 0.0
    try:
        threshold = float(given) if _NUMBER.fullmatch(given) else math.nan
    except ValueError:
        threshold = math.nan
    if 0 < threshold <= 1:
        return threshold
    raise _invalid("threshold", "cascade", "cascade must be a number above 0, 1 at most, or off", given)


def _invalid(kind: str, name: str, message: str, given: str) -> RequestValidationError:
    return RequestValidationError(
        [{"type": kind, "loc": ("query", name), "msg": message, "input": given[:64]}]
    )

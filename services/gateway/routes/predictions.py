"""Predictions: an image in, the student's classes at T = 1 out. The hot path of the gateway.

One short coroutine on the raw request: no dependency, no model of the answer, no thread for a small image,
because each of them would cost more than the student does.
"""

import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio.to_thread
import numpy as np
import orjson
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from services.gateway import examples, metrics
from services.gateway.errors import STATUSES
from services.gateway.parts import PartBegins, PartData, media_type, parts
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway
from shared.adapters.web.problems import documented
from shared.contracts.predictions import PredictionAnswer
from shared.datasets.images import ImageLimits
from shared.errors import (
    BodyTooLarge,
    ImageTooLarge,
    InvalidImage,
    MalformedBody,
    NoImages,
    NoLiveStudent,
    QueueFull,
    StudentNotLoaded,
    TooManyImages,
    UnsupportedMediaType,
)
from shared.serving.images import EncodedImage, decode, pixels_of
from shared.serving.session import StudentSession

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
MULTIPART = "multipart/form-data"
STUDENT_HEADER = "X-Student-Version"

_DEFAULT_TOP = 5
_MOST_TOP = 1000
_SMALL_PIXELS = 512 * 512
"""Up to here a PNG is decoded in a few milliseconds; the event loop can wait for that."""
_SMALL_BYTES = 2**20
_SMALL_MODEL_S = 0.005
_DIGITS = 6
"""Decimals of a probability: what float32 carries."""


class RawRoute(APIRoute):
    """A route whose endpoint is given the request and gives the response, with nothing in between."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(tags=["predictions"], route_class=RawRoute)

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/v1/predictions",
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
            }
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
    began = time.perf_counter()
    gateway: Gateway = request.app.state.gateway
    top = _top(request)
    images = await _images(request, gateway.settings)
    student = gateway.live.student()
    limits = gateway.image_limits
    work = partial(_answer, student, images, limits, top, began)
    if _is_small(student, images):
        body = work()
    else:
        if gateway.heavy.statistics().tasks_waiting >= gateway.settings.max_waiting:
            raise QueueFull("large predictions", gateway.settings.max_waiting, retry_after_s=1.0)
        body = await anyio.to_thread.run_sync(work, limiter=gateway.heavy)
    return Response(body, media_type="application/json", headers={STUDENT_HEADER: student.version})


def _answer(
    student: StudentSession,
    images: Sequence[EncodedImage],
    limits: ImageLimits,
    top: int,
    began: float,
) -> bytes:
    """Return the JSON of a `PredictionAnswer`; plain dictionaries, because they cost a tenth of models."""
    decoding = time.perf_counter()
    pixels = decode(images, student.input, limits)
    running = time.perf_counter()
    probabilities = student.probabilities(pixels)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    done = time.perf_counter()
    names = student.classes
    predictions = [
        {
            "predicted": names[ranks[0]],
            "classes": [{"name": names[i], "probability": round(row[i], _DIGITS)} for i in ranks],
            "file": image.file,
        }
        for image, ranks, row in zip(images, order.tolist(), probabilities.tolist(), strict=True)
    ]
    metrics.observe(student.version, len(images), running - decoding, done - running)
    return orjson.dumps(
        {
            "student": student.version,
            "temperature": 1.0,
            "predictions": predictions,
            "timing": {
                "decode_ms": _milliseconds(running - decoding),
                "model_ms": _milliseconds(done - running),
                "total_ms": _milliseconds(time.perf_counter() - began),
            },
        }
    )


def _is_small(student: StudentSession, images: Sequence[EncodedImage]) -> bool:
    """Tell whether answering takes so little that a thread would cost more than it frees."""
    if len(images) * student.seconds_per_image > _SMALL_MODEL_S:
        return False
    pixels = size_bytes = 0
    for image in images:
        size_bytes += len(image.data)
        pixels += pixels_of(image)
        if pixels > _SMALL_PIXELS or size_bytes > _SMALL_BYTES:
            return False
    return True


async def _images(request: Request, settings: GatewaySettings) -> list[EncodedImage]:
    """Read the images that the request carries; the body as a whole is bounded by the app's boundary."""
    given = media_type(request)
    if given == MULTIPART:
        return await _form_images(request, settings)
    if given and given not in IMAGE_TYPES:
        raise UnsupportedMediaType(given, (*IMAGE_TYPES, MULTIPART))
    data = await request.body()
    if not data:
        raise NoImages("the body is empty")
    return [EncodedImage(data)]


async def _form_images(request: Request, settings: GatewaySettings) -> list[EncodedImage]:
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


def _top(request: Request) -> int:
    if not request.scope["query_string"]:
        return _DEFAULT_TOP
    given = request.query_params.get("top", str(_DEFAULT_TOP))
    if given.isascii() and given.isdecimal() and len(given) <= 4 and 1 <= int(given) <= _MOST_TOP:
        return int(given)
    raise RequestValidationError(
        [
            {
                "type": "int_range",
                "loc": ("query", "top"),
                "msg": f"top must be a whole number from 1 to {_MOST_TOP}",
                "input": given,
            }
        ]
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)

"""One inference request: read, decoded, answered together with all others that wait for the same student."""

import asyncio
import time
from functools import partial

from services.gateway.hot.answered import Found
from services.gateway.hot.apart import in_thread, is_long_call, is_small, settle
from services.gateway.hot.asked import Asked, Done, Options, need_time
from services.gateway.hot.batches import call, most_probable
from services.gateway.oip.answers import Answer
from services.gateway.oip.compression import Coding, inflated
from services.gateway.oip.requests import SMALL_JSON, Inference, header_size, inference
from services.gateway.oip.tensors import LOGITS
from services.gateway.state import Gateway
from shared.serving.images import pixels, stacked
from shared.serving.session import StudentSession

_SMALL_BYTES = 2**20
"""Of raw pixels: up to here, cutting them into images takes no time to speak of."""


async def read(
    gateway: Gateway, student: StudentSession, body: bytes, header_length: str | None, coding: Coding | None
) -> Inference:
    """Return what a body asks for; what takes long is read in a thread.

    Args:
        gateway: the parts.
        student: who will answer.
        body: as it came.
        header_length: value of the header `Inference-Header-Content-Length`, where there is one.
        coding: how the body is compressed.

    Raises:
        InvalidInference: it cannot be read, or does not fit the student.
        TemperatureNotServed: another temperature than 1 is asked for.
        NoImages: it has no rows.
        TooManyImages: it has more than allowed.
        BodyTooLarge: it is over the limit once it is no longer compressed.
        MalformedBody: it is not compressed as it should be.
        QueueFull: too many wait for a thread.
    """
    settings = gateway.settings

    def work() -> Inference:
        plain = inflated(body, coding, most_bytes=settings.max_prediction_bytes) if coding else body
        return inference(plain, header_length, student.input, most_rows=settings.max_images)

    if coding is None and header_size(body, header_length) <= SMALL_JSON:
        return work()
    return await in_thread(gateway, work)


async def answer(
    gateway: Gateway, student: StudentSession, wanted: Inference, options: Options
) -> tuple[bytes, int | None]:
    """Return the body of the answer, and how much of it is JSON where tensors follow that.

    Raises:
        QueueFull: too many images wait, or too many requests for a thread.
        DeadlineExceeded: the time had passed before the student got to it.
        InvalidImage: one of the encoded images is no image, or not whole.
        ImageTooLarge: one of them is over a limit.
    """
    writing = Answer(wanted)
    found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    done = partial(settle, found)
    if _is_small(student, wanted):
        gateway.batches.need_room(student, wanted.rows)
        gateway.batches.submit(_asked(gateway, student, wanted, options, done, writing))
        return await found, writing.header_length

    def work() -> tuple[Asked, Found | Exception]:
        need_time(options)
        asked = _asked(gateway, student, wanted, options, done, writing)
        asked.queued = time.perf_counter()
        return asked, _with_logits(asked, writing) if wanted.wants(LOGITS) else call([asked])

    asked, said = await in_thread(gateway, work)
    gateway.batches.finish([asked], said)
    return await found, writing.header_length


def _is_small(student: StudentSession, wanted: Inference) -> bool:
    """Tell whether a request can wait for the next call of the student like the others."""
    if wanted.wants(LOGITS):
        return False  # calls for many give probabilities alone
    if wanted.pixels is None:
        return is_small(student, wanted.encoded)
    return len(wanted.pixels) <= _SMALL_BYTES and not is_long_call(student, wanted.rows)


def _asked(
    gateway: Gateway,
    student: StudentSession,
    wanted: Inference,
    options: Options,
    done: Done,
    writing: Answer,
) -> Asked:
    decoding = time.perf_counter()
    if wanted.pixels is None:
        images = [pixels(image, student.input, gateway.image_limits) for image in wanted.encoded]
    else:
        size = student.input.values
        images = [bytes(wanted.pixels[first : first + size]) for first in range(0, len(wanted.pixels), size)]
    return Asked(
        student,
        images,
        [None] * len(images),
        options,
        decode_s=time.perf_counter() - decoding,
        done=done,
        encode=writing,
    )


def _with_logits(asked: Asked, writing: Answer) -> Found | Exception:
    """Return what the student says of the images, and leave its logits to the answer."""
    began = time.perf_counter()
    try:
        logits, probabilities = asked.student.run(stacked(asked.pixels, asked.student.input))
    except Exception as error:  # noqa: BLE001 - as `call`: whoever waits must hear of it
        return error
    model_s = time.perf_counter() - began
    writing.logits = logits
    return Found(*most_probable(probabilities, asked.top), probabilities, began, model_s)

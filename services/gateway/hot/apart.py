"""When a request is answered apart from the event loop, in a thread of its own, and how."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import anyio.to_thread

from services.gateway.hot.batches import LOOP_S
from shared.errors import QueueFull
from shared.serving.images import EncodedImage, pixels_of
from shared.serving.session import StudentSession

if TYPE_CHECKING:
    from services.gateway.state import Gateway

SMALL_PIXELS: Final = 512 * 512
"""Up to here a PNG is decoded in a few milliseconds; the event loop can wait for that."""
_SMALL_BYTES: Final = 2**20
_SMALL_MODEL_S: Final = 0.005

T = TypeVar("T")


def is_small(student: StudentSession, images: Sequence[EncodedImage]) -> bool:
    """Tell whether answering takes so little that a thread would cost more than it frees."""
    if is_long_call(student, len(images)):
        return False
    size = size_bytes = 0
    for image in images:
        size_bytes += len(image.data)
        size += pixels_of(image)
        if size > SMALL_PIXELS or size_bytes > _SMALL_BYTES:
            return False
    return True


def is_long_call(student: StudentSession, images: int) -> bool:
    """Tell whether a call with so many images would hold up the event loop that it is made on."""
    return student.call_s <= LOOP_S and images * student.seconds_per_image > _SMALL_MODEL_S


async def in_thread(gateway: "Gateway", work: Callable[[], T]) -> T:
    """Return what `work` returns, in one of the threads for large requests.

    Raises:
        QueueFull: too many wait for one.
    """
    if gateway.heavy.statistics().tasks_waiting >= gateway.settings.max_waiting:
        raise QueueFull("large predictions", gateway.settings.max_waiting, retry_after_s=1.0)
    return await anyio.to_thread.run_sync(work, limiter=gateway.heavy)


def settle(answer: "asyncio.Future[bytes]", found: bytes | Exception) -> None:
    """Give whoever awaits the answer what was found; with its future, this is a `Done`."""
    if answer.done():
        return  # the request was cancelled
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)

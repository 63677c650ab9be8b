"""Images as callers have them, encoded for a request, and cut into requests of a fair size."""

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from shared.client.errors import AnswerNotUnderstood
from shared.contracts.predictions import Prediction, PredictionAnswer
from shared.errors import InvalidImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Image: TypeAlias = "bytes | Path | NDArray[np.uint8]"
"""An encoded image (PNG, JPEG, WebP), a file of one, or pixels: H x W, H x W x 1 or H x W x 3, uint8."""
Images: TypeAlias = "Image | Sequence[Image]"
"""One, or several."""

MOST_BYTES: Final = 16 * 2**20
"""Of the images in one request of `predict_many`: half of what the gateway takes by default."""


class Encoded(NamedTuple):
    """What is sent for one image."""

    data: bytes
    file: str | None
    """The name of the file that it came from."""


class Predicted(Prediction):
    """The answer for one image of many; `student` is the version that gave it."""

    student: str


def encoded(image: Image) -> Encoded:
    """Return what is sent for an image.

    Raises:
        InvalidImage: it is neither bytes nor a path, nor uint8 pixels of one or three channels.
        OSError: the file cannot be read.
    """
    if isinstance(image, bytes):
        return Encoded(image, None)
    if isinstance(image, Path):
        return Encoded(image.read_bytes(), image.name)
    return Encoded(_png(image), None)


def groups(images: Iterable[Image], batch: int) -> Iterator[list[Encoded]]:
    """Yield the images in lists of at most `batch` and of `MOST_BYTES`; a larger one stands alone."""
    packing = _Packing(batch)
    for image in images:
        yield from packing.add(encoded(image))
    yield from packing.rest()


async def groups_async(
    images: Iterable[Image] | AsyncIterable[Image], batch: int
) -> AsyncIterator[list[Encoded]]:
    """Yield what `groups` does; files are read and pixels encoded in threads."""
    packing = _Packing(batch)
    async for image in _each(images):
        for group in packing.add(await encoded_async(image)):
            yield group
    for group in packing.rest():
        yield group


async def encoded_async(image: Image) -> Encoded:
    """Return what `encoded` does without holding the event loop."""
    if isinstance(image, bytes):
        return Encoded(image, None)
    return await asyncio.to_thread(encoded, image)


def predicted(answer: PredictionAnswer, asked: int, url: str) -> Iterator[Predicted]:
    """Yield the predictions of an answer about so many images; raises `AnswerNotUnderstood`."""
    if len(answer.predictions) != asked:
        raise AnswerNotUnderstood(url)
    for prediction in answer.predictions:
        yield Predicted.model_construct(**dict(prediction), student=answer.student)


def one_or_list(images: Images) -> "Image | list[Image]":
    """Return several images as a list, and one as it is."""
    # An array is one image, whatever its first axis may look like; bytes are a sequence, and one image.
    several = isinstance(images, Sequence) and not isinstance(images, bytes)
    return list(images) if several else images  # type: ignore[arg-type, return-value]


class _Packing:
    """Fills one list after the other."""

    def __init__(self, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self._batch = batch
        self._group: list[Encoded] = []
        self._bytes = 0

    def add(self, image: Encoded) -> Iterator[list[Encoded]]:
        if self._group and (len(self._group) == self._batch or self._bytes + len(image.data) > MOST_BYTES):
            yield from self.rest()
        self._group.append(image)
        self._bytes += len(image.data)

    def rest(self) -> Iterator[list[Encoded]]:
        if self._group:
            yield self._group
        self._group, self._bytes = [], 0


async def _each(images: Iterable[Image] | AsyncIterable[Image]) -> AsyncIterator[Image]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


def _png(pixels: Any) -> bytes:
    import numpy as np

    if not isinstance(pixels, np.ndarray):
        raise InvalidImage(f"an image is bytes, a Path or an array of uint8, got {type(pixels).__name__}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or 0 in pixels.shape:
        shape = " x ".join(map(str, pixels.shape))
        raise InvalidImage(f"pixels are uint8, height x width or x 1 or x 3, got {pixels.dtype} of {shape}")
    from PIL import Image as Pillow

    file = io.BytesIO()
    # The first level: pixels of a small image shrink hardly more with more, and it costs more than sending.
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()

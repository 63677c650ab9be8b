"""From encoded images to what a student takes in, and a guess beforehand of what that will cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared.contracts.images import ImageInput
from shared.datasets.image_headers import read_header
from shared.datasets.images import ImageLimits, decode_image, to_input
from shared.serving.png import PlainPng


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it was sent. `file` is the client's name for it, which errors and answers repeat."""

    data: bytes
    file: str | None = None


def pixels_of(image: EncodedImage) -> int:
    """Return width times height as the header says, 0 where there is no header to read. Decodes nothing."""
    header = read_header(image.data)
    return 0 if header is None else header.width * header.height


def pixels(image: EncodedImage, size: ImageInput, limits: ImageLimits) -> bytes:
    """Return one image as the student takes it in: `size.values` bytes, height x width x channels.

    Raises:
        InvalidImage: it is no image, or not whole.
        ImageTooLarge: it is over a limit.
    """
    found = plain_pixels(image.data, _plain(size), limits)
    if found is not None:
        return found
    return to_input(decode_image(image.data, limits, file=image.file), size).tobytes()


def plain_pixels(data: bytes, plain: PlainPng, limits: ImageLimits) -> bytes | None:
    """Return what `pixels` gives of a plain PNG of the right size, None for anything else."""
    if len(data) <= limits.size_bytes and plain.image_pixels <= limits.pixels:
        return plain.pixels(data)
    return None


@cache
def _plain(size: ImageInput) -> PlainPng:
    return PlainPng(size)


def decode(images: Sequence[EncodedImage], size: ImageInput, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return the images as uint8 N x H x W x C; raises as `pixels` does."""
    return stacked([pixels(image, size, limits) for image in images], size)


def stacked(decoded: Sequence[bytes], size: ImageInput) -> NDArray[np.uint8]:
    """Return images that `pixels` has decoded as one array, uint8 N x H x W x C, not to be written to."""
    data = decoded[0] if len(decoded) == 1 else b"".join(decoded)
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size.height, size.width, size.channels)

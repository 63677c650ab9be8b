"""From encoded images to what a student takes in, and a guess beforehand of what that will cost."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.contracts.images import ImageInput
from shared.datasets.images import FORMATS, ImageLimits, decode_image, to_input

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class EncodedImage:
    """An image as it was sent. `file` is the client's name for it, which errors and answers repeat."""

    data: bytes
    file: str | None = None


def pixels_of(image: EncodedImage) -> int:
    """Return width times height as the header says, 0 where there is no header to read. Decodes nothing."""
    data = image.data
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return int(width * height)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return opened.width * opened.height
    except Exception:  # noqa: BLE001 - only a guess of the cost: decoding will say what is wrong
        return 0


def decode(images: Sequence[EncodedImage], size: ImageInput, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return the images as uint8 N x H x W x C.

    Raises:
        InvalidImage: one of them is no image, or not whole.
        ImageTooLarge: one of them is over a limit.
    """
    ready = np.empty((len(images), size.height, size.width, size.channels), dtype=np.uint8)
    for i, image in enumerate(images):
        ready[i] = to_input(decode_image(image.data, limits, file=image.file), size)
    return ready

"""Reads the images of a request: encoded files in multipart, or one safetensors body of uint8 pixels."""

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from shared.adapters.content_digest import is_whole
from shared.contracts.images import ImageInput
from shared.contracts.teachers import SAFETENSORS_MEDIA_TYPE
from shared.datasets.images import ImageLimits, decode_image, to_input
from shared.errors import (
    BodyDamaged,
    InputMismatch,
    MalformedBody,
    NoImages,
    TooManyImages,
    UnsupportedMediaType,
)

FIELD: Final = "images"
"""Of the files in a form, and of the tensor in a safetensors body."""

MULTIPART: Final = "multipart/form-data"
OCTETS: Final = "application/octet-stream"
KNOWN: Final = (MULTIPART, SAFETENSORS_MEDIA_TYPE, OCTETS)

_LARGEST_HEADER_BYTES = 64 * 1024


def media_type(request: Request) -> str:
    """Return the media type of the body, if it is one that is read here.

    Raises:
        UnsupportedMediaType: it is not, or none is named.
    """
    given = request.headers.get("content-type")
    bare = (given or "").split(";")[0].strip().lower()
    if bare not in KNOWN:
        raise UnsupportedMediaType(given, KNOWN)
    return bare


async def files_of(request: Request, max_rows: int) -> list[tuple[str, bytes]]:
    """Return name and bytes of each file that a form carries under `images`, in the order sent.

    Raises:
        MalformedBody: it is no form, or it carries something else.
        TooManyImages: more files than one request may carry.
    """
    try:
        form = await request.form(max_files=max_rows, max_fields=1)
    except HTTPException as error:  # what the form parser makes of a body that it cannot read
        if error.detail.startswith("Too many files"):
            raise TooManyImages(max_rows) from error
        raise MalformedBody(f"the form cannot be read: {error.detail}") from error
    items = form.multi_items()
    try:
        for name, value in items:
            if name != FIELD or not isinstance(value, UploadFile):
                raise MalformedBody(
                    f"the form carries {name[:64]!r}, which is no file under {FIELD!r}",
                    remedy=f"Send each image as a file in a form field named {FIELD!r}.",
                )
        return [
            (value.filename or f"image {number}", await value.read())
            for number, (_, value) in enumerate(items, start=1)
            if isinstance(value, UploadFile)
        ]
    finally:
        await form.close()


def decoded(files: list[tuple[str, bytes]], size: ImageInput, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return encoded images as the teacher takes them in: uint8 N x H x W x C.

    Raises:
        NoImages: there is none.
        InvalidImage: a file is no complete image.
        ImageTooLarge: a file is over a limit.
    """
    if not files:
        raise NoImages(f"the form carries no file under {FIELD!r}")
    return np.stack([to_input(decode_image(data, limits, file=name), size) for name, data in files])


async def read(request: Request, digest: str | None = None) -> memoryview:
    """Return the body, each chunk copied once to where it stays; images can be views on it.

    The boundary has compared the length, declared and real, with the limit. What a client only declares
    costs addresses and no memory: that comes with the bytes that arrive.

    Args:
        request: that carries it.
        digest: of the body, as its header `Content-Digest` says.

    Raises:
        BodyDamaged: it has another.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit():
        # Not a bytearray, which would be filled with zeros at once.
        body = np.empty(int(declared), np.uint8).data
        filled = 0
        async for chunk in request.stream():
            body[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        body = body[:filled]
    else:
        grown = bytearray()
        async for chunk in request.stream():
            grown += chunk
        body = memoryview(grown)
    if digest is not None and is_whole(body, digest) is False:
        raise BodyDamaged
    return body


def pixels_of(body: bytes | memoryview, size: ImageInput, max_rows: int) -> NDArray[np.uint8]:
    """Return the one tensor `images` of a safetensors body, uint8 N x H x W x C, as a view on its bytes.

    Raises:
        MalformedBody: it is no such file, or carries more or less than that tensor.
        InputMismatch: other numbers than uint8, or images of another size or channel count.
        NoImages: N is 0.
        TooManyImages: N is above `max_rows`.
    """
    header, start = _header(body)
    if set(header) != {FIELD} or not isinstance(header[FIELD], dict):
        raise MalformedBody(f"the safetensors body must carry one tensor, named {FIELD!r}")
    entry = header[FIELD]
    shape = entry.get("shape")
    if not (isinstance(shape, list) and all(type(length) is int and length >= 0 for length in shape)):
        raise MalformedBody("the tensor's shape is not a list of whole numbers")
    if entry.get("dtype") != "U8":
        raise InputMismatch(f"images must be uint8 (U8 in safetensors), got {str(entry.get('dtype'))[:16]!r}")
    expected = [size.height, size.width, size.channels]
    if len(shape) != 4 or shape[1:] != expected:
        raise InputMismatch(
            f"the teacher takes images of N x {' x '.join(map(str, expected))}, "
            f"got {' x '.join(map(str, shape[:8]))}"
        )
    rows = shape[0]
    if entry.get("data_offsets") != [0, rows * size.values] or len(body) - start != rows * size.values:
        raise MalformedBody("the safetensors body is longer or shorter than its header says")
    if rows == 0:
        raise NoImages("the tensor has no rows")
    if rows > max_rows:
        raise TooManyImages(max_rows)
    return np.frombuffer(body, np.uint8, offset=start).reshape(shape)


def _header(body: bytes | memoryview) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file without its metadata, and where the numbers start."""
    length = int.from_bytes(body[:8], "little")
    if not 2 <= length <= min(_LARGEST_HEADER_BYTES, len(body) - 8):
        raise MalformedBody("the body is not a safetensors file: its header does not fit")
    try:
        header = json.loads(bytes(body[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise MalformedBody("the body is not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise MalformedBody("the body is not a safetensors file: its header is not an object")
    header.pop("__metadata__", None)
    return header, 8 + length

"""What an encoded image says of itself, read by hand within a few thousand steps.

Pillow reads headers in Python, one marker, chunk or stray byte after the other, as many as there are: ten
megabytes of 0xFF take it seconds before it knows how large the picture is. What does not say so soon is no
image for us. Nothing is decoded here.
"""

import struct
from dataclasses import dataclass
from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS: Final = 4096
"""Of a PNG. Encoders write 8 KiB of pixels in one, so that a file of 10 MB has 1,300."""
_MOST_SEGMENTS: Final = 1024
"""Of a JPEG before its pixels, fill bytes and strays among them; a photograph has about 30."""
_MOST_EXIF_BYTES: Final = 2**16
"""Of a JPEG: one segment, as the standard has it."""
_SCAN: Final = 0xDA
_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG after which its size stands: SOF0 to SOF15 without DHT, JPG and DAC."""
_BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length."""
_ANIMATED: Final = 0x02
_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_MOST_TAGS: Final = 512


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Width and height in pixels, and whether there is more than one frame, where that is told at once."""

    width: int
    height: int
    animated: bool = False


def read_header(data: bytes) -> ImageHeader | None:
    """Return what a PNG, JPEG or WebP file says of itself; None where it is none of them, or does not say."""
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def orientation(exif: bytes | None) -> int:
    """Return the orientation that EXIF data name, 1 to 8; 1 where they name none, or cannot be read.

    Reads the first directory and nothing that it points to: Pillow collects the values of all its tags.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (tags,) = struct.unpack_from(f"{order}H", tiff, at)
        for number in range(min(tags, _MOST_TAGS)):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * number)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # cut off: there is no orientation
    return 1


def _png(data: bytes) -> ImageHeader | None:
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    at = len(_PNG)
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):  # cut off: for the decoder to say
            break
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    else:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return ImageHeader(width, height)


def _jpeg(data: bytes) -> ImageHeader | None:
    at, exif_bytes, size = 2, 0, None
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(data):
            return None
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1  # a stray byte, or a fill byte before a marker
            continue
        if marker in _BARE or marker == 0:
            at += 2
            continue
        if marker == _SCAN:
            return size
        if marker in _SIZES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = ImageHeader(width, height)
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            exif_bytes += length
            if exif_bytes > _MOST_EXIF_BYTES:
                return None
        at += 2 + max(length, 2)
    return None


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if len(data) < 30:
        return None
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return ImageHeader(width, height, bool(data[20] & _ANIMATED))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ImageHeader(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        width, height = (found & 0x3FFF for found in struct.unpack_from("<HH", data, 26))
        return ImageHeader(width, height)
    return None

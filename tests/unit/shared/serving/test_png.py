"""The short way of decoding says what the long way says, or nothing."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.contracts.images import ImageInput
from shared.datasets.images import ImageLimits, decode_image, to_input
from shared.errors import DistillationError
from shared.serving.png import PlainPng

GREY, RGB = ImageInput(height=9, width=11, channels=1), ImageInput(height=9, width=11, channels=3)


def plain_pixels(data: bytes, size: ImageInput) -> bytes | None:
    return PlainPng(size).pixels(data)


def image(size: ImageInput, seed: int = 0, mode: str | None = None) -> Image.Image:
    shape = (size.height, size.width) if size.channels == 1 else (size.height, size.width, 3)
    made = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    return made if mode is None else made.convert(mode)


def png(made: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    made.save(out, "PNG", **options)
    return out.getvalue()


def long_way(data: bytes, size: ImageInput) -> bytes:
    return to_input(decode_image(data, ImageLimits()), size).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def written(size: ImageInput, rows: bytes, *, pieces: int = 1, extra: bytes = b"", **header: int) -> bytes:
    """A PNG put together by hand; `rows` are filtered rows, each with its filter in front."""
    facts = {"depth": 8, "colour": 0 if size.channels == 1 else 2, "packed": 0, "filter": 0, "laced": 0}
    facts |= header
    packed = zlib.compress(rows)
    step = -(-len(packed) // pieces)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", size.width, size.height, *facts.values()))
        + extra
        + b"".join(chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [GREY, RGB])
@pytest.mark.parametrize("filter_type", range(5))
def test_every_filter_gives_the_pixels_of_the_long_way(size: ImageInput, filter_type: int):
    row = bytes([filter_type]) + bytes(range(size.width * size.channels))
    data = written(size, row * size.height, pieces=3)
    assert plain_pixels(data, size) == long_way(data, size)


@pytest.mark.parametrize("size", [GREY, RGB])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_plain_image_gives_the_pixels_of_the_long_way(size: ImageInput, level: int):
    data = png(image(size), compress_level=level)
    assert plain_pixels(data, size) == np.asarray(image(size)).tobytes() == long_way(data, size)


ROTATED = Image.Exif()
ROTATED[0x0112] = 3
ROWS = (b"\0" + bytes(11)) * 9
UNUSUAL = {
    "another size": png(image(ImageInput(height=9, width=12, channels=1))),
    "another mode": png(image(RGB)),
    "a palette": png(image(GREY, mode="P")),
    "one bit": png(image(GREY, mode="1")),
    "transparency": png(image(GREY, mode="LA")),
    "a transparent value": png(image(GREY), transparency=7),
    "16 bits": png(Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11))),
    "interlaced": written(GREY, ROWS, laced=1),
    "an unknown filter method": written(GREY, ROWS, filter=1),
    "an orientation": png(image(GREY), exif=ROTATED),
    "animated": png(image(GREY), save_all=True, append_images=[image(GREY, 1)]),
    "a JPEG": b"\xff\xd8\xff\xe0" + bytes(100),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_whatever_is_unusual_is_left_to_the_long_way(case: str):
    assert plain_pixels(UNUSUAL[case], GREY) is None


BROKEN = {
    "an unknown filter": written(GREY, (b"\x07" + bytes(11)) * 9),
    "no end": png(image(GREY))[:-12],
    "a wrong checksum": png(image(GREY))[:-20] + b"\0\0\0\0" + png(image(GREY))[-16:],
    "a length beyond the file": png(image(GREY))[:33] + b"\xff\xff\xff\xff" + png(image(GREY))[37:],
}


@pytest.mark.parametrize("case", BROKEN)
def test_whatever_is_broken_is_left_to_the_long_way(case: str):
    assert plain_pixels(BROKEN[case], GREY) is None


def test_missing_rows_of_a_stream_that_ends_well_are_black_as_they_are_the_long_way():
    short = written(GREY, (b"\0" + b"\xff" * 11) * 7)
    assert plain_pixels(short, GREY) == long_way(short, GREY) == b"\xff" * 77 + bytes(22)


def test_a_stream_of_far_more_rows_than_the_header_says_costs_no_more_than_they():
    bomb = written(GREY, ROWS + bytes(200_000_000))
    assert len(bomb) < 300_000
    assert plain_pixels(bomb, GREY) in (None, bytes(99))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_a_damaged_file_never_passes_the_short_way_alone(
    seed: int, changes: list[tuple[int, int]], mend: bool
):
    data = bytearray(png(image(GREY, seed)))
    for at, value in changes:
        data[at % len(data)] = value
    if mend:  # the damage has a checksum that fits
        length = int.from_bytes(data[33:37], "big") if len(data) > 41 else 0
        if 41 + length + 4 <= len(data):
            data[41 + length : 45 + length] = zlib.crc32(data[37 : 41 + length]).to_bytes(4, "big")
    found = plain_pixels(bytes(data), GREY)
    if found is None:
        return
    try:
        assert found == long_way(bytes(data), GREY)
    except DistillationError as error:
        raise AssertionError("the long way refuses it") from error


def test_of_images_with_other_channels_none_is_plain():
    size = ImageInput(height=9, width=11, channels=4)
    assert plain_pixels(png(image(RGB, mode="RGBA")), size) is None

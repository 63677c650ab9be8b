import io
import time
import zlib

import pytest
from PIL import Image, ImageOps

from shared.datasets.image_headers import ImageHeader, orientation, read_header
from shared.datasets.images import ImageLimits, decode_image
from shared.errors import InvalidImage
from tests.chaos.hostile_images import bombs, png, seeds


@pytest.mark.parametrize("number", range(len(seeds())))
def test_size_is_what_the_decoder_says(number: int):
    with Image.open(io.BytesIO(seeds()[number])) as image:
        assert read_header(seeds()[number]) == ImageHeader(image.width, image.height)


@pytest.mark.parametrize("number", range(len(seeds())))
def test_a_header_that_is_cut_off_has_no_size_or_the_right_one(number: int):
    whole = seeds()[number]
    expected = read_header(whole)
    assert expected is not None
    assert {read_header(whole[:end]) for end in range(len(whole))} <= {None, expected}


def test_an_animated_image_says_so():
    assert read_header(bombs()["a WebP of 300 frames"]) == ImageHeader(16, 16, animated=True)


@pytest.mark.parametrize("name", bombs())
def test_a_header_is_read_in_few_steps(name: str):
    began = time.perf_counter()
    read_header(bombs()[name])
    assert time.perf_counter() - began < 1  # a few milliseconds; Pillow takes many seconds for some


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(format: str, turned: int):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", turned
    out = io.BytesIO()
    image = Image.frombytes("RGB", (8, 16), bytes(range(256)) + bytes(128))
    image.save(out, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    with Image.open(io.BytesIO(out.getvalue())) as opened:
        expected = ImageOps.exif_transpose(opened)
    found = decode_image(out.getvalue(), ImageLimits())
    assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())


def test_an_image_of_colours_without_a_palette_is_refused():
    """Found by mutation: Pillow decodes it and then asserts that it has one."""
    whole = png(28, 28)
    header = b"IHDR" + whole[16:24] + bytes([8, 3, 0, 0, 0])
    data = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    with pytest.raises(InvalidImage, match="palette"):
        decode_image(data, ImageLimits())


@pytest.mark.parametrize("order", [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
                                   b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"])  # fmt: skip
def test_orientation_is_read_in_both_orders_of_bytes_and_not_from_what_is_cut_off(order: bytes):
    assert orientation(b"Exif\0\0" + order) == orientation(order) == 6
    assert {orientation(order[:end]) for end in range(20)} == {1}
    assert orientation(None) == 1

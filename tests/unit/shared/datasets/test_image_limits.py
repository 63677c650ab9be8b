"""The limits of an image, each at its edge."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from shared.contracts.images import ImageInput
from shared.datasets import images
from shared.datasets.images import ImageLimits, decode_image, is_coloured, to_input
from shared.errors import ImageTooLarge, InvalidImage


def encoded(format: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, format)
    return buffer.getvalue()


def test_an_image_may_have_ten_megabytes_and_25_million_pixels_where_nothing_else_is_said():
    assert ImageLimits() == ImageLimits(size_bytes=10_000_000, pixels=25_000_000)


def test_as_many_bytes_as_are_allowed_are_taken_and_one_more_is_not():
    data = encoded()
    assert decode_image(data, ImageLimits(size_bytes=len(data))).size == (8, 8)
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode_image(data, ImageLimits(size_bytes=len(data) - 1))


def test_as_many_pixels_as_are_allowed_are_taken_and_one_more_is_not():
    assert decode_image(encoded(), ImageLimits(pixels=64)).size == (8, 8)
    with pytest.raises(ImageTooLarge, match="8 x 8 pixels"):
        decode_image(encoded(), ImageLimits(pixels=63))


def test_too_many_pixels_are_refused_before_pillow_sees_the_file(monkeypatch):
    monkeypatch.setattr(images.Image, "open", lambda *_, **__: pytest.fail("Pillow was asked"))
    with pytest.raises(ImageTooLarge):
        decode_image(encoded(), ImageLimits(pixels=63))


@pytest.mark.parametrize("side", [0, 1])
def test_an_image_without_pixels_is_refused(side: int):
    data = bytearray(encoded())
    data[16 + 4 * side : 20 + 4 * side] = bytes(4)
    with pytest.raises(InvalidImage, match="no pixels"):
        decode_image(bytes(data), ImageLimits())


def test_64_scans_are_taken_and_one_more_is_not():
    data = encoded("JPEG")
    assert data.count(b"\xff\xda") == 1
    assert decode_image(data + 63 * b"\xff\xda", ImageLimits()).size == (8, 8)
    with pytest.raises(InvalidImage, match="more than 64 scans"):
        decode_image(data + 64 * b"\xff\xda", ImageLimits())


def test_texts_of_a_png_may_unpack_to_four_mebibytes_together():
    assert PngImagePlugin.MAX_TEXT_MEMORY == 4 * 1024 * 1024


def test_a_warning_of_the_decoder_is_an_error_in_every_process_that_decodes():
    """In a process of its own: pytest makes errors of all warnings."""
    asks = """
import warnings
import shared.datasets.images
patterns = {getattr(module, "pattern", module): action for action, _, _, module, _ in warnings.filters}
print(patterns[r"PIL\\."])
"""
    ran = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "error"


def test_values_beyond_16_bits_are_cut_off_and_do_not_wrap():
    values = np.array([[-771, 0, 257 * 255, 257 * 300]], dtype=np.int32)
    grey = to_input(Image.fromarray(values), ImageInput(height=1, width=4, channels=1))
    assert grey.ravel().tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("colour", [(9, 5, 5), (5, 9, 5), (5, 5, 9)])
def test_a_palette_is_coloured_by_any_of_its_channels(colour: tuple[int, int, int]):
    image = Image.new("P", (2, 2), 0)
    image.putpalette(bytes(colour) * 256)
    assert is_coloured(image)
    image.putpalette(bytes((5, 5, 5)) * 256)
    assert not is_coloured(image)

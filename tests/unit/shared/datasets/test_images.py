"""Images that strangers send."""

import io
import random
import struct
import time
import zlib

import numpy as np
import psutil
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.contracts.images import ImageInput
from shared.datasets.images import ImageLimits, decode_image, is_coloured, to_input
from shared.errors import ImageTooLarge, InputMismatch, InvalidImage

LIMITS = ImageLimits()
GREY_28 = ImageInput(height=28, width=28, channels=1)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (28, 28), seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def pixels(data: bytes, channels: int = 1, size: tuple[int, int] = (28, 28)) -> np.ndarray:
    target = ImageInput(width=size[0], height=size[1], channels=channels)
    return to_input(decode_image(data, LIMITS), target)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """Return a black RGB PNG of about a thousandth of its decoded size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + 3 * width)) for _ in range(height)]
    body = b"".join(rows) + packer.flush()
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# --- what is taken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_images_come_out_as_they_went_in(
    format: str, options: dict[str, object], channels: int
) -> None:
    image = noise("L" if channels == 1 else "RGB")
    expected = np.asarray(image).reshape(28, 28, channels)
    np.testing.assert_array_equal(pixels(encode(image, format, **options), channels), expected, strict=True)


def test_jpeg_comes_out_nearly_as_it_went_in() -> None:
    smooth = Image.linear_gradient("L").resize((28, 28))
    difference = pixels(encode(smooth, "JPEG", quality=95))[..., 0].astype(int) - np.asarray(smooth)
    assert np.abs(difference).max() <= 4


def test_grey_becomes_three_equal_channels() -> None:
    rgb = pixels(encode(noise("L")), channels=3)
    assert (rgb == rgb[..., :1]).all()


def test_colour_becomes_grey_by_luma() -> None:
    red = Image.new("RGB", (28, 28), (255, 0, 0))
    assert (pixels(encode(red)) == round(0.299 * 255)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white(mode: str) -> None:
    black = Image.new(mode, (28, 28), (0,) * len(mode))
    assert (pixels(encode(black)) == 255).all()


def test_half_transparent_black_is_grey() -> None:
    half = Image.new("RGBA", (28, 28), (0, 0, 0, 128))
    np.testing.assert_allclose(pixels(encode(half)), 127, atol=1)


def test_palette_images_with_transparency_are_taken_without_a_warning() -> None:
    image = Image.new("P", (28, 28), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    data = encode(image, transparency=bytes([0, 255]))
    assert (pixels(data, channels=3) == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)
    expected = np.round(values / 257)
    np.testing.assert_allclose(pixels(encode(Image.fromarray(values)))[..., 0], expected, atol=1)


def test_black_and_white_images_have_the_full_range() -> None:
    assert (pixels(encode(Image.new("1", (28, 28), 1))) == 255).all()


def test_cmyk_jpegs_are_taken() -> None:
    white = Image.new("CMYK", (28, 28), (0, 0, 0, 0))
    assert (pixels(encode(white, "JPEG")) >= 254).all()


def test_images_stand_upright_as_their_exif_says() -> None:
    image = Image.new("L", (20, 10), 0)
    image.paste(255, (0, 0, 20, 5))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = decode_image(encode(image, "PNG", exif=exif), LIMITS)
    assert turned.size == (10, 20)
    assert np.asarray(turned)[:, 5:].min() == 255
    assert np.asarray(turned)[:, :5].max() == 0


def test_other_sizes_are_resized_with_antialiasing() -> None:
    """A chequerboard of single pixels, made small, is even grey; without antialiasing it would not be."""
    board = (np.indices((280, 280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(pixels(encode(Image.fromarray(board))), 127, atol=2)


def test_a_phone_picture_with_a_second_image_counts_as_its_first() -> None:
    first, second = Image.new("L", (28, 28), 40), Image.new("L", (28, 28), 200)
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert (pixels(data) == 40).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_models_of_two_or_four_channels_get_no_images(channels: int) -> None:
    with pytest.raises(InputMismatch):
        pixels(encode(noise("L")), channels=channels)


@pytest.mark.parametrize(
    ("image", "coloured"),
    [
        (Image.new("L", (2, 2)), False),
        (Image.new("1", (2, 2)), False),
        (Image.new("LA", (2, 2)), False),
        (Image.new("RGB", (2, 2)), True),
        (Image.new("RGBA", (2, 2)), True),
        (noise("L").quantize(8), False),
        (noise("RGB").quantize(8), True),
    ],
)
def test_colour_is_told_by_mode_and_palette(image: Image.Image, coloured: bool) -> None:
    assert is_coloured(image) == coloured


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PDF"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(InvalidImage):
        decode_image(encode(noise(), format), LIMITS)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused_by_the_name_of_its_file(data: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"^3/x\.png: ") as caught:
        decode_image(data, LIMITS, file="3/x.png")
    assert caught.value.file == "3/x.png"
    assert "0x" not in str(caught.value)  # no addresses of our memory


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_truncated_images_are_refused(format: str) -> None:
    whole = encode(noise(), format)
    # JPEG and WebP decoders do not need the last bytes; Pillow does not miss those of a PNG, we do.
    missing = 1 if format == "PNG" else 16
    for length in {*range(0, len(whole) - missing, 37), len(whole) - missing}:
        with pytest.raises(InvalidImage):
            decode_image(whole[:length], LIMITS)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format: str) -> None:
    data = encode(noise(), format, save_all=True, append_images=[noise(seed=1), noise(seed=2)])
    with pytest.raises(InvalidImage, match="animated"):
        decode_image(data, LIMITS)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(ImageTooLarge, match="11 bytes, 10 are"):
        decode_image(bytes(11), ImageLimits(size_bytes=10))


def test_one_pixel_over_the_limit_is_refused() -> None:
    data = encode(noise(size=(10, 10)))
    decode_image(data, ImageLimits(pixels=100))
    with pytest.raises(ImageTooLarge, match="10 x 10"):
        decode_image(data, ImageLimits(pixels=99))


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (60_000, 500), (5_001, 5_000)])
def test_bombs_are_refused_before_they_are_decoded(width: int, height: int) -> None:
    """Decoded, 9,000 x 9,000 takes 243 MB; refused, it must take next to nothing."""
    data = png_bomb(width, height)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    with pytest.raises(ImageTooLarge):
        decode_image(data, LIMITS)
    assert time.perf_counter() - start < 0.5
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_sizes_beyond_what_pillow_itself_bears_are_too_large() -> None:
    for side in (9_900, 20_000, 2**31 - 1):  # Pillow warns of the first and raises on the others
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
        with pytest.raises(ImageTooLarge):
            decode_image(data, LIMITS)


def test_text_bombs_in_png_are_refused() -> None:
    text = PngInfo()
    text.add_text("comment", "0" * 80_000_000, zip=True)
    with pytest.raises(InvalidImage):
        decode_image(encode(noise(), pnginfo=text), LIMITS)


def test_jpegs_with_thousands_of_scans_are_refused_at_once() -> None:
    """Each further scan of 40 bytes costs a walk over all pixels: 136 KB took 14 s to decode."""
    data = encode(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    decode_image(data, LIMITS)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="scans"):
        decode_image(data[:-2] + last_scan * 1_000 + data[-2:], LIMITS)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_images_are_decoded_or_refused_and_nothing_else(format: str) -> None:
    """Whatever a decoder raises becomes one of our errors: 400 mutants a format, with a fixed seed."""
    chance = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    whole = encode(noise(size=(16, 16)), format, exif=exif)
    refused = 0
    for _ in range(400):
        mutant = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        try:
            to_input(decode_image(bytes(mutant), LIMITS), GREY_28)
        except (InvalidImage, ImageTooLarge):
            refused += 1
    assert 0 < refused < 400

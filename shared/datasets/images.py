"""Decodes images that strangers send, and turns them into what a model takes in.

Only PNG, JPEG and WebP are tried. The header is checked before Pillow sees the file, and whatever a decoder
raises, or warns of, becomes `InvalidImage`: broken input takes many forms, and Pillow lets several kinds of
exception out.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL import WebPImagePlugin as WebPImagePlugin  # else the first WebP loads all of Pillow's plugins

from shared.contracts.images import ImageInput
from shared.datasets.image_headers import orientation, read_header
from shared.errors import ImageTooLarge, InputMismatch, InvalidImage

FORMATS: Final = ("PNG", "JPEG", "WEBP")

# A warning of the decoder is a refusal. The filter is set once and for the process, because
# warnings.catch_warnings is not safe where several threads decode side by side.
warnings.filterwarnings("error", module=r"PIL\.")

# Texts and profiles of a PNG are packed, and Pillow keeps them unpacked: of all together, not 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

# A progressive JPEG has about ten scans. One of a few megabytes may claim a hundred thousand, each of which
# makes the decoder walk over all pixels again. In compressed data the marker cannot occur.
_START_OF_SCAN = b"\xff\xda"
_MOST_SCANS = 64

# The last chunk of every PNG, with its checksum. Pillow does not miss it, nor a checksum just before it.
_PNG_END = b"IEND\xaeB`\x82"

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""

# Modes that have no colour; of "P", the palette decides.
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F"})


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost: bytes as sent, pixels as its header says."""

    size_bytes: int = 10_000_000
    pixels: int = 25_000_000


def decode_image(data: bytes, limits: ImageLimits, *, file: str | None = None) -> Image.Image:
    """Decode one still image, upright as its EXIF orientation says.

    Args:
        data: the file's bytes.
        limits: checked before decoding.
        file: the name that errors mention.

    Returns:
        The decoded image, in whatever mode it was stored; `to_input` converts it.

    Raises:
        ImageTooLarge: over a limit.
        InvalidImage: not a PNG, JPEG or WebP file, animated, truncated or damaged.
    """
    if len(data) > limits.size_bytes:
        reason = f"the image has {len(data):,} bytes, {limits.size_bytes:,} are allowed"
        raise ImageTooLarge(reason, file=file)
    header = read_header(data)
    if header is None:
        raise InvalidImage("this is not a PNG, JPEG or WebP image", file=file)
    _check_size(header.width, header.height, limits, file)
    if header.animated:
        raise InvalidImage("the image is animated", file=file)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, data, limits, file)
            image.load()
            if image.mode in ("P", "PA") and image.palette is None:
                raise InvalidImage("the image has no palette", file=file)
            turn = _UPRIGHT.get(orientation(image.info.get("exif")))
            return image if turn is None else image.transpose(turn)
    except (InvalidImage, ImageTooLarge, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image has more than {limits.pixels:,} pixels", file=file) from error
    except UnidentifiedImageError as error:
        raise InvalidImage("this is not a PNG, JPEG or WebP image", file=file) from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, EOFError, warnings and more
        raise InvalidImage("the image is truncated or damaged", file=file) from error


def is_coloured(image: Image.Image) -> bool:
    """Tell whether an image is stored in colour; by its mode, not by its pixels."""
    if image.mode == "P":
        palette = np.asarray(image.convert("RGBA"))
        return bool((palette[..., :3] != palette[..., :1]).any())
    return image.mode not in _GREY_MODES


def to_input(image: Image.Image, size: ImageInput) -> NDArray[np.uint8]:
    """Return an image as the model takes it in: uint8, height x width x channels.

    What is transparent shows white. Colour becomes grey by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B), grey
    becomes three equal channels, 16 bits become 8 by division. Another size is resized, bilinear and
    antialiased, without regard to the proportions.

    Raises:
        InputMismatch: the model takes neither one channel nor three.
    """
    if size.channels not in (1, 3):
        raise InputMismatch(f"images have 1 or 3 channels, the model takes {size.channels}")
    flat = _opaque_8_bit(image).convert("L" if size.channels == 1 else "RGB")
    if flat.size != (size.width, size.height):
        flat = flat.resize((size.width, size.height), Image.Resampling.BILINEAR)
    return np.array(flat, dtype=np.uint8).reshape(size.height, size.width, size.channels)


def _check_size(width: int, height: int, limits: ImageLimits, file: str | None) -> None:
    if width * height > limits.pixels:
        reason = f"the image has {width} x {height} pixels, {limits.pixels:,} are allowed"
        raise ImageTooLarge(reason, file=file)
    if width * height == 0:
        raise InvalidImage("the image has no pixels", file=file)


def _check_header(image: Image.Image, data: bytes, limits: ImageLimits, file: str | None) -> None:
    _check_size(image.width, image.height, limits, file)  # what the decoder makes of it counts
    # An MPO is a JPEG that carries a second picture, such as a depth map; the first is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
        raise InvalidImage("the image is animated", file=file)
    if image.format == "PNG" and data.rfind(_PNG_END) < 0:
        raise InvalidImage("the image is truncated or damaged", file=file)
    if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > _MOST_SCANS:
        raise InvalidImage(f"the image has more than {_MOST_SCANS} scans", file=file)


def _opaque_8_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey clips at 255 instead of scaling.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(values // 257, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image

"""From uint8 pixels to what a net sees."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.images import ImageInput, Preprocessing
from shared.errors import InputMismatch

_LARGEST_PIXEL = 255.0


def need_images(images: Tensor, size: ImageInput, whose: str) -> None:
    """Raise where images are not of the size that a model takes.

    Args:
        images: N x H x W x C.
        size: that the model takes.
        whose: the model in words, such as `teacher 'owl'`.

    Raises:
        InputMismatch: they are of another size or have other channels.
    """
    if images.shape[1:] != (size.height, size.width, size.channels):
        raise InputMismatch(
            f"{whose} takes images of {size.height} x {size.width} x {size.channels}, got "
            f"{' x '.join(map(str, images.shape[1:]))}"
        )


def scale_and_offset(
    preprocessing: Preprocessing,
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Return what a pixel is multiplied by and what is added then: normalising is one multiply-add."""
    scale = [1 / (255 * std) for std in preprocessing.std]
    offset = [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    return torch.tensor(scale, dtype=torch.float32), torch.tensor(offset, dtype=torch.float32)


@lru_cache(maxsize=64)
def _on_cuda(
    preprocessing: Preprocessing, device: torch.device
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Keep the few numbers on the GPU: a CUDA graph cannot record that they are fetched."""
    with torch.inference_mode(False):  # training may use what was kept while a teacher answered
        scale, offset = scale_and_offset(preprocessing)
        return scale.to(device), offset.to(device)


def normalise(
    images: UInt8[Tensor, "*lead height width channels"], preprocessing: Preprocessing
) -> Float[Tensor, "*lead net_channels net_height net_width"]:
    """Return (pixel / 255 - mean) / std in float32, channels before rows, on the images' device.

    Where the net sees another size or more channels than `input`, the pixels are brought to it first.
    """
    scale, offset = (
        _on_cuda(preprocessing, images.device) if images.is_cuda else scale_and_offset(preprocessing)
    )
    if preprocessing.seen == preprocessing.input:
        return torch.addcmul(offset, images.to(torch.float32), scale).movedim(-1, -3)
    return torch.addcmul(offset[:, None, None], seen_pixels(images, preprocessing), scale[:, None, None])


def seen_pixels(
    images: UInt8[Tensor, "*lead height width channels"], preprocessing: Preprocessing
) -> Float[Tensor, "*lead net_channels net_height net_width"]:
    """Return pixels from 0 to 255 in float32 as the net sees them: resized, one channel as three."""
    pixels = images.to(torch.float32).movedim(-1, -3)
    seen = preprocessing.seen
    if pixels.shape[-2:] != (seen.height, seen.width):
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        resized = F.interpolate(
            flat, (seen.height, seen.width), mode=preprocessing.resample, align_corners=False, antialias=True
        )
        # A cubic overshoots at edges; no picture has pixels below black or above white.
        pixels = resized.clamp(0, _LARGEST_PIXEL).reshape(*pixels.shape[:-2], seen.height, seen.width)
    if pixels.shape[-3] != seen.channels:
        pixels = pixels.expand(*pixels.shape[:-3], seen.channels, seen.height, seen.width)
    return pixels

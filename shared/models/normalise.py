"""From uint8 pixels to what a net sees."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.images import Preprocessing


def scale_and_offset(
    preprocessing: Preprocessing,
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Return what a pixel is multiplied by and what is added then: normalising is one multiply-add."""
    scale = [1 / (255 * std) for std in preprocessing.std]
    offset = [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    return torch.tensor(scale, dtype=torch.float32), torch.tensor(offset, dtype=torch.float32)


def normalise(
    images: UInt8[Tensor, "*lead height width channels"], preprocessing: Preprocessing
) -> Float[Tensor, "*lead channels height width"]:
    """Return (pixel / 255 - mean) / std in float32, channels before rows, on the images' device."""
    # non_blocking: a GPU need not wait for the few numbers.
    scale, offset = (
        tensor.to(images.device, non_blocking=True) for tensor in scale_and_offset(preprocessing)
    )
    return torch.addcmul(offset, images.to(torch.float32), scale).movedim(-1, -3)

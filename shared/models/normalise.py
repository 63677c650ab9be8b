"""From uint8 pixels to what a net sees."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.images import Preprocessing


def normalise(
    images: UInt8[Tensor, "*lead height width channels"], preprocessing: Preprocessing
) -> Float[Tensor, "*lead channels height width"]:
    """Return (pixel / 255 - mean) / std in float32, channels before rows, on the images' device."""
    scale = torch.tensor([1 / (255 * std) for std in preprocessing.std], dtype=torch.float32)
    offset = torch.tensor(
        [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)],
        dtype=torch.float32,
    )
    # One multiply-add a pixel; non_blocking keeps a GPU from waiting for the few numbers.
    scale = scale.to(images.device, non_blocking=True)
    offset = offset.to(images.device, non_blocking=True)
    return torch.addcmul(offset, images.to(torch.float32), scale).movedim(-1, -3)

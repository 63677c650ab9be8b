"""Logits of trained nets over a whole split, in blocks that fit any machine."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.architectures import Architecture
from shared.contracts.images import Preprocessing
from shared.models.normalise import normalise
from shared.models.registry import stacked_logits

_BLOCK = 2048


def net_logits(
    architecture: Architecture,
    tensors: Mapping[str, Tensor],
    images: UInt8[Tensor, "rows height width channels"],
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "rows classes"]:
    """Return one net's logits at T = 1 for every image, in main memory.

    Args:
        architecture: of the net.
        tensors: its weights, named as in `shared.models.registry.build`.
        images: pixels as they are stored.
        preprocessing: from pixels to what the net sees.
        device: where to compute.
    """
    stacked = {name: tensor.unsqueeze(0).to(device) for name, tensor in tensors.items()}

    def blocks() -> Iterator[Tensor]:
        for start in range(0, images.shape[0], _BLOCK):
            block = normalise(images[start : start + _BLOCK].to(device), preprocessing)
            yield stacked_logits(architecture, stacked, block.unsqueeze(0)).squeeze(0).cpu()

    with torch.inference_mode():
        return torch.cat(list(blocks()))

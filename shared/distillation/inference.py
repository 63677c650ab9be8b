"""What a trained net says of many images, on the CPU and a piece at a time."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.images import Preprocessing
from shared.models.checkpoints import stack
from shared.models.network import Network
from shared.models.normalise import normalise

_ROWS = 1024


def net_logits(
    network: Network,
    tensors: Mapping[str, Tensor],
    images: UInt8[Tensor, "rows height width channels"],
    preprocessing: Preprocessing,
) -> Float[Tensor, "rows classes"]:
    """Return the logits of one net at T = 1, in float32, on the device of its tensors."""
    stacked = stack([tensors])
    with torch.inference_mode():
        parts = [
            network.logits(stacked, normalise(part, preprocessing).unsqueeze(0)).squeeze(0)
            for part in torch.split(images, _ROWS)
        ]
    return torch.cat(parts)

"""What nets say of training images when they stand in for a teacher of each other, or of themselves."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from shared.contracts.images import Preprocessing
from shared.distillation.inference import net_logits
from shared.models.ensemble import merge_logits
from shared.models.network import Network

_LARGEST = torch.finfo(torch.float16).max


def stored_logits(
    network: Network,
    tensors: Mapping[str, Tensor],
    images: UInt8[Tensor, "rows height width channels"],
    preprocessing: Preprocessing,
    device: torch.device,
) -> Float16[Tensor, "rows classes"]:
    """Return a net's logits as a transfer set keeps a teacher's: at T = 1, with zero mean in each row."""
    there = {name: tensor.to(device) for name, tensor in tensors.items()}
    logits = net_logits(network, there, images.to(device), preprocessing)
    return _stored(logits)


def mean_of_peers(
    logits: Sequence[Float[Tensor, "rows classes"]], temperature: float
) -> Float16[Tensor, "rows classes"]:
    """Return logits whose soft targets at T are the mean of the peers' soft targets at T.

    Co-distillation teaches by the mean prediction of the others (Anil et al. 2018, arXiv:1804.03235,
    algorithm 1). The result serves this T alone.
    """
    merged = merge_logits(torch.stack(list(logits)), temperature=temperature, merge="arithmetic")
    return _stored(merged * temperature)


def _stored(logits: Float[Tensor, "rows classes"]) -> Float16[Tensor, "rows classes"]:
    centred = logits - logits.mean(-1, keepdim=True)
    return centred.clamp(-_LARGEST, _LARGEST).half().cpu()

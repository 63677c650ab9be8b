"""First weights."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.models.checkpoints import net_tensors


def he_normal(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Return weights [outputs, inputs, ...] drawn from the generator: normal with variance 2 / fan-in.

    Source: He et al. 2015, arXiv:1502.01852, section 2.2: ReLU layers then keep the scale of what passes.
    """
    fan_in = math.prod(shape[1:])
    return torch.empty(*shape).normal_(std=math.sqrt(2 / fan_in), generator=generator)


def initial_tensors(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Return first weights and buffers for a module of convolutions, linear layers and BatchNorm.

    Weights of one dimension scale what BatchNorm has normalised and start at 1.
    """
    tensors = {}
    for name, tensor in net_tensors(module).items():
        if name.endswith("weight") and tensor.dim() > 1:
            tensors[name] = he_normal(tensor.shape, generator)
        else:
            one = name.endswith(("weight", "running_var"))
            tensors[name] = torch.full(tensor.shape, float(one), dtype=torch.float32)
    return tensors

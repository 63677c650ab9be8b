"""First weights."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def he_normal(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Return weights [outputs, inputs, ...] drawn from the generator: normal with variance 2 / fan-in.

    Source: He et al. 2015, arXiv:1502.01852, section 2.2: ReLU layers then keep the scale of what passes.
    """
    fan_in = math.prod(shape[1:])
    return torch.empty(*shape).normal_(std=math.sqrt(2 / fan_in), generator=generator)

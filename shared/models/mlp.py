"""The perceptron of the paper: ReLU hidden layers between the pixels and one logit a class.

`Mlp` is one net as torch users know it, for export and inspection. `stacked_logits` runs several nets of one
shape at once on parameters that carry a leading dimension; parameter names are the same in both.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.contracts.architectures import Mlp as MlpArchitecture
from shared.contracts.images import ImageInput


def layer_sizes(architecture: MlpArchitecture, image: ImageInput, classes: int) -> tuple[int, ...]:
    """Return the units of each layer, pixels first, classes last: (784, 800, 800, 10)."""
    return (image.values, *architecture.hidden_units, classes)


class Mlp(nn.Module):
    """Perceptron over flattened images."""

    def __init__(self, architecture: MlpArchitecture, image: ImageInput, classes: int) -> None:
        super().__init__()
        sizes = layer_sizes(architecture, image, classes)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits of normalised images."""
        hidden = images.flatten(1)
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        logits: Tensor = self.layers[-1](hidden)
        return logits


def initial_parameters(sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Return first weights of one net, drawn from the generator alone.

    Weights are normal with variance 2 / fan-in (He et al. 2015, arXiv:1502.01852), biases 0.
    """
    parameters = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = torch.empty(outputs, inputs).normal_(std=math.sqrt(2 / inputs), generator=generator)
        parameters[f"layers.{layer}.weight"] = weight
        parameters[f"layers.{layer}.bias"] = torch.zeros(outputs)
    return parameters


def stacked_logits(
    parameters: Mapping[str, Tensor],
    images: Float[Tensor, "nets batch channels height width"],
    keep: Sequence[Float[Tensor, "nets batch _"] | None] | None = None,
) -> Float[Tensor, "nets batch classes"]:
    """Return the logits of several nets, each on its own batch.

    Args:
        parameters: tensors of `Mlp` with a leading dimension of nets.
        images: normalised images, a batch a net.
        keep: dropout, one factor a unit that enters a layer (0, or 1 / share kept), or None for a layer
            without dropout; leave it out to evaluate.
    """
    layers = len(parameters) // 2
    hidden = images.flatten(2)
    for layer in range(layers):
        factors = keep[layer] if keep is not None else None
        if factors is not None:
            hidden = hidden * factors
        hidden = _linear(hidden, parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"])
        if layer < layers - 1:
            hidden = F.relu(hidden)
    return hidden


def _linear(
    hidden: Float[Tensor, "nets batch inputs"],
    weight: Float[Tensor, "nets outputs inputs"],
    bias: Float[Tensor, "nets outputs"],
) -> Float[Tensor, "nets batch outputs"]:
    if weight.shape[0] == 1:
        # A plain product is a tenth faster than a batch of one on a CPU, where nets run one by one.
        return F.linear(hidden.squeeze(0), weight.squeeze(0), bias.squeeze(0)).unsqueeze(0)
    return torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)

"""The perceptron of the paper: ReLU hidden layers between the pixels and one logit a class.

`Mlp` is one net as torch users know it, for export and inspection. `MlpFamily` runs nets of one shape at once
on parameters that carry a leading dimension; parameter names are the same in both.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.contracts.architectures import Mlp as MlpArchitecture
from shared.contracts.images import ImageInput
from shared.models.families import Family, Keep, known_layers
from shared.models.first import he_normal


def layer_sizes(architecture: MlpArchitecture, image: ImageInput, classes: int) -> tuple[int, ...]:
    """Return the units of each layer, pixels first, classes last: (784, 800, 800, 10)."""
    return (image.values, *architecture.hidden_units, classes)


class Mlp(nn.Module):
    """Perceptron over flattened images; `sizes` as in `layer_sizes`."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits of normalised images."""
        hidden = images.flatten(1)
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        logits: Tensor = self.layers[-1](hidden)
        return logits


class MlpFamily(Family):
    """Perceptrons of one shape. Dropout acts where units enter a layer; `hidden.0` follows the first ReLU."""

    def __init__(self, architecture: MlpArchitecture, image: ImageInput, classes: int) -> None:
        self._sizes = layer_sizes(architecture, image, classes)
        last = len(self._sizes) - 2
        self.head = (f"layers.{last}.weight", f"layers.{last}.bias")
        self.max_norm_weights = tuple(f"layers.{layer}.weight" for layer in range(last))
        self.dropout_units = self._sizes[:-1]
        self.layers = {f"hidden.{layer}": (self._sizes[layer + 1],) for layer in range(last)}
        self.trainable = frozenset(
            f"layers.{layer}.{kind}" for layer in range(last + 1) for kind in ("weight", "bias")
        )

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return first weights: normal with variance 2 / fan-in, biases 0."""
        tensors = {}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(self._sizes)):
            tensors[f"layers.{layer}.weight"] = he_normal((outputs, inputs), generator)
            tensors[f"layers.{layer}.bias"] = torch.zeros(outputs)
        return tensors

    def forward(
        self,
        tensors: Mapping[str, Tensor],
        images: Float[Tensor, "nets batch channels height width"],
        keep: Keep | None,
        *,
        layers: Sequence[str],
        training: bool,
    ) -> tuple[Float[Tensor, "nets batch classes"], dict[str, Tensor]]:
        """Return logits and the named layers' units."""
        known_layers(layers, self.layers)
        features = {}
        last = len(self._sizes) - 2
        hidden = images.flatten(2)
        for layer in range(last + 1):
            factors = keep[layer] if keep is not None else None
            if factors is not None:
                hidden = hidden * factors
            hidden = linear(hidden, tensors[f"layers.{layer}.weight"], tensors[f"layers.{layer}.bias"])
            if layer < last:
                hidden = F.relu(hidden)
                if f"hidden.{layer}" in layers:
                    features[f"hidden.{layer}"] = hidden
        return hidden, features

    def module(self) -> nn.Module:
        """Return one perceptron."""
        return Mlp(self._sizes)


def linear(
    hidden: Float[Tensor, "nets batch inputs"],
    weight: Float[Tensor, "nets outputs inputs"],
    bias: Float[Tensor, "nets outputs"],
) -> Float[Tensor, "nets batch outputs"]:
    """Return each net's affine map of its own rows."""
    if weight.shape[0] == 1:
        # A plain product is a tenth faster than a batch of one on a CPU, where nets run one by one.
        return F.linear(hidden.squeeze(0), weight.squeeze(0), bias.squeeze(0)).unsqueeze(0)
    return torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)

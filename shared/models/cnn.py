"""A small convolutional net: 3 x 3 convolution, 2 x 2 max-pooling and ReLU a block, one hidden layer."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.contracts.architectures import Cnn as CnnArchitecture
from shared.contracts.images import ImageInput
from shared.models.families import Family, Keep, known_layers
from shared.models.first import initial_tensors
from shared.models.grouped import Tensors, apart, convolution, kept_pixels, side_by_side
from shared.models.mlp import linear


class Cnn(nn.Module):
    """One net as torch users know it; `image` tells how many units the last maps are."""

    def __init__(self, architecture: CnnArchitecture, image: ImageInput, classes: int) -> None:
        super().__init__()
        channels = (image.channels, *architecture.channels)
        self.blocks = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in itertools.pairwise(channels)
        )
        self.hidden = nn.Linear(_units(_maps(architecture, image)[-1]), architecture.hidden_units)
        self.head = nn.Linear(architecture.hidden_units, classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits of normalised images."""
        maps = images
        for block in self.blocks:
            maps = F.relu(_pooled(block(maps)))
        logits: Tensor = self.head(F.relu(self.hidden(maps.flatten(1))))
        return logits


class CnnFamily(Family):
    """Convolutional nets of one shape. Dropout acts on pixels and before each of the two linear layers."""

    def __init__(self, architecture: CnnArchitecture, image: ImageInput, classes: int) -> None:
        self._made_of = (architecture, image, classes)
        maps = _maps(architecture, image)
        self._blocks = len(maps)
        self.layers = {f"block.{i}": shape for i, shape in enumerate(maps)}
        self.layers["hidden"] = (architecture.hidden_units,)
        self.dropout_units = (image.values, _units(maps[-1]), architecture.hidden_units)
        self.head = ("head.weight", "head.bias")
        self.max_norm_weights = (*(f"blocks.{i}.weight" for i in range(self._blocks)), "hidden.weight")
        weights = (*self.max_norm_weights, "head.weight")
        self.trainable = frozenset(weights) | {name.replace("weight", "bias") for name in weights}

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return first weights: normal with variance 2 / fan-in, biases 0."""
        return initial_tensors(self.module(), generator)

    def forward(
        self,
        tensors: Tensors,
        images: Float[Tensor, "nets batch channels height width"],
        keep: Keep | None,
        *,
        layers: Sequence[str],
        training: bool,
    ) -> tuple[Float[Tensor, "nets batch classes"], dict[str, Tensor]]:
        """Return logits, and the named blocks' maps after pooling or the hidden units after ReLU."""
        known_layers(layers, self.layers)
        pixels, flat, hidden_units = keep if keep is not None else (None, None, None)
        nets = images.shape[0]
        features = {}
        maps = side_by_side(kept_pixels(images, pixels))
        for block in range(self._blocks):
            # The same as ReLU before pooling, on a quarter of the values.
            maps = F.relu(_pooled(convolution(maps, tensors, f"blocks.{block}")))
            if f"block.{block}" in layers:
                features[f"block.{block}"] = apart(maps, nets)
        units = apart(maps, nets).flatten(2)
        units = units if flat is None else units * flat
        hidden = F.relu(linear(units, tensors["hidden.weight"], tensors["hidden.bias"]))
        if "hidden" in layers:
            features["hidden"] = hidden
        hidden = hidden if hidden_units is None else hidden * hidden_units
        return linear(hidden, tensors["head.weight"], tensors["head.bias"]), features

    def module(self) -> nn.Module:
        """Return one net."""
        return Cnn(*self._made_of)


def _maps(architecture: CnnArchitecture, image: ImageInput) -> list[tuple[int, int, int]]:
    height, width = image.height, image.width
    shapes = []
    for channels in architecture.channels:
        height, width = -(-height // 2), -(-width // 2)
        shapes.append((channels, height, width))
    return shapes


def _units(shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    return channels * height * width


def _pooled(maps: Float[Tensor, "batch channels _ _"]) -> Float[Tensor, "batch channels _ _"]:
    # Halves are rounded up, so that six blocks fit on images of any size.
    return F.max_pool2d(maps, 2, ceil_mode=True)

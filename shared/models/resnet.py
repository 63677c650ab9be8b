"""Residual nets for small images (He et al. 2015, arXiv:1512.03385, section 4.2), by the field's names.

A 3 x 3 stem, three stages of blocks of two 3 x 3 convolutions, the second and third at half the size, then
the mean over the map and one linear layer. Where a block changes its size or channels, its shortcut is a
1 x 1 convolution with BatchNorm: so it is in all nets of the tables of knowledge distillation (Tian et al.
2020, arXiv:1910.10699), without it `resnet8x4` would not have its published 1.23 million parameters, and
unlike He's padding of channels with zeros it acts on nets side by side as it does on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.contracts.architectures import ResNet as ResNetArchitecture
from shared.contracts.architectures import ResNetName
from shared.contracts.images import ImageInput
from shared.models.families import Family, Keep, known_layers
from shared.models.first import initial_tensors
from shared.models.grouped import Tensors, apart, batch_norm, convolution, kept_pixels, side_by_side
from shared.models.mlp import linear

_NARROW: Final = (16, 16, 32, 64)
_WIDE: Final = (32, 64, 128, 256)
_PLANS: Final[dict[ResNetName, tuple[int, tuple[int, ...]]]] = {
    "resnet8": (1, _NARROW),
    "resnet14": (2, _NARROW),
    "resnet20": (3, _NARROW),
    "resnet32": (5, _NARROW),
    "resnet44": (7, _NARROW),
    "resnet56": (9, _NARROW),
    "resnet110": (18, _NARROW),
    "resnet8x4": (1, _WIDE),
    "resnet32x4": (5, _WIDE),
}
"""By name the blocks a stage, and the channels of the stem and of each stage."""


@dataclass(frozen=True)
class _BlockPlan:
    inputs: int
    outputs: int
    stride: int
    ends_stage: bool

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution, because the block changes size or channels."""
        return self.stride != 1 or self.inputs != self.outputs


class Block(nn.Module):
    """Two convolutions, and what came in is added before the last ReLU."""

    def __init__(self, plan: _BlockPlan) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(plan.inputs, plan.outputs, 3, plan.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(plan.outputs)
        self.conv2 = nn.Conv2d(plan.outputs, plan.outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(plan.outputs)
        self.shortcut: nn.ModuleDict | None = None
        if plan.projects:
            self.shortcut = nn.ModuleDict(
                {
                    "conv": nn.Conv2d(plan.inputs, plan.outputs, 1, plan.stride, bias=False),
                    "norm": nn.BatchNorm2d(plan.outputs),
                }
            )

    def forward(self, maps: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Return the block's maps."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        if self.shortcut is not None:
            maps = self.shortcut["norm"](self.shortcut["conv"](maps))
        return F.relu(inner + maps)


class ResNet(nn.Module):
    """One net as torch users know it."""

    def __init__(self, architecture: ResNetArchitecture, image: ImageInput, classes: int) -> None:
        super().__init__()
        plans = _block_plans(architecture)
        self.conv = nn.Conv2d(image.channels, plans[0].inputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(plans[0].inputs)
        self.blocks = nn.ModuleList(Block(plan) for plan in plans)
        self.head = nn.Linear(plans[-1].outputs, classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits of normalised images."""
        maps = F.relu(self.norm(self.conv(images)))
        for block in self.blocks:
            maps = block(maps)
        logits: Tensor = self.head(maps.mean((-2, -1)))
        return logits


class ResNetFamily(Family):
    """Residual nets of one name. Dropout acts on pixels and before the linear layer.

    Layers: `stem`, each `block.N`, each `stage.N` (the last block of one size), all after their ReLU.
    """

    def __init__(self, architecture: ResNetArchitecture, image: ImageInput, classes: int) -> None:
        self._made_of = (architecture, image, classes)
        self._plans = _block_plans(architecture)
        self.layers = _layers(self._plans, image)
        self.dropout_units = (image.values, self._plans[-1].outputs)
        self.head = ("head.weight", "head.bias")
        with torch.device("meta"):
            module = self.module()
        self.trainable = frozenset(name for name, _ in module.named_parameters())
        self.max_norm_weights = tuple(
            f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)
        )

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return first weights (normal with variance 2 / fan-in) and buffers (mean 0, variance 1)."""
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
        """Return logits and the named layers' maps."""
        known_layers(layers, self.layers)
        pixels, pooled = keep if keep is not None else (None, None)
        nets = images.shape[0]
        found = {}
        maps = side_by_side(kept_pixels(images, pixels))
        maps = batch_norm(convolution(maps, tensors, "conv"), tensors, "norm", training=training)
        # In place where the gradient does not need what is written over: a tenth of a step's time.
        maps = found["stem"] = F.relu(maps, inplace=True)
        stage = 0
        for index, plan in enumerate(self._plans):
            maps = found[f"block.{index}"] = _block(maps, tensors, f"blocks.{index}", plan, training)
            if plan.ends_stage:
                found[f"stage.{stage}"] = maps
                stage += 1
        units = apart(F.adaptive_avg_pool2d(maps, 1), nets).flatten(2)
        units = units if pooled is None else units * pooled
        logits = linear(units, tensors["head.weight"], tensors["head.bias"])
        return logits, {layer: apart(found[layer], nets) for layer in layers}

    def module(self) -> nn.Module:
        """Return one net."""
        return ResNet(*self._made_of)


def _block(
    maps: Float[Tensor, "batch _ _ _"], tensors: Tensors, name: str, plan: _BlockPlan, training: bool
) -> Float[Tensor, "batch _ _ _"]:
    inner = convolution(maps, tensors, f"{name}.conv1", stride=plan.stride)
    inner = F.relu(batch_norm(inner, tensors, f"{name}.norm1", training=training), inplace=True)
    inner = batch_norm(
        convolution(inner, tensors, f"{name}.conv2"), tensors, f"{name}.norm2", training=training
    )
    if plan.projects:
        maps = convolution(maps, tensors, f"{name}.shortcut.conv", stride=plan.stride)
        maps = batch_norm(maps, tensors, f"{name}.shortcut.norm", training=training)
    return F.relu(inner.add_(maps), inplace=True)


def _block_plans(architecture: ResNetArchitecture) -> list[_BlockPlan]:
    blocks, (channels, *widths) = _PLANS[architecture.architecture]
    plans = []
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            plans.append(_BlockPlan(channels, width, stride, ends_stage=block == blocks - 1))
            channels = width
    return plans


def _layers(plans: Sequence[_BlockPlan], image: ImageInput) -> dict[str, tuple[int, ...]]:
    height, width = image.height, image.width
    layers: dict[str, tuple[int, ...]] = {"stem": (plans[0].inputs, height, width)}
    stage = 0
    for index, plan in enumerate(plans):
        height, width = -(-height // plan.stride), -(-width // plan.stride)
        layers[f"block.{index}"] = (plan.outputs, height, width)
        if plan.ends_stage:
            layers[f"stage.{stage}"] = (plan.outputs, height, width)
            stage += 1
    return layers

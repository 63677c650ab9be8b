"""An architecture at a size: how its nets start, how they answer, and what their parts are called.

An architecture is a plain value of `shared.contracts.architectures`; this is the only place that knows which
code belongs to it. Nets are named tensors: `Network` itself holds none.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.contracts.architectures import Architecture, Cnn, Mlp, ResNet
from shared.contracts.images import ImageInput
from shared.models.checkpoints import net_tensors
from shared.models.cnn import CnnFamily
from shared.models.extras import build_foreign
from shared.models.families import Family, Keep
from shared.models.foreign import ForeignFamily
from shared.models.mlp import MlpFamily
from shared.models.resnet import ResNetFamily
from shared.models.seeds import generator_of


class Network:
    """An architecture for images of one size and a number of classes.

    Tensors are named as in `module()`'s `state_dict`: weights, which get gradients, and buffers, which do not
    (running means and variances of BatchNorm). Where several nets are meant, each tensor carries a leading
    dimension of nets; what a net answers and learns does not depend on its company.

    Args:
        architecture: which net.
        image: what it takes in.
        classes: how many logits it answers with.

    Raises:
        ArchitectureInvalid: another library makes no net of it for such images.
        ExtraMissing: that library is not installed.
    """

    def __init__(self, architecture: Architecture, image: ImageInput, classes: int) -> None:
        self.architecture = architecture
        self.image = image
        self.classes = classes
        self._family = _family(architecture, image, classes)

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Return the first weights and buffers of the net with this seed, in float32 in main memory.

        They depend on nothing but the seed and what the network was made of.
        """
        return self._family.initial(generator_of("first weights", seed))

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the tensors that get gradients."""
        return self._family.trainable

    @property
    def parameters(self) -> int:
        """How many trainable numbers one net consists of."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name in self.trainable)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each of one net's tensors, weights and buffers."""
        with torch.device("meta"):  # shapes without numbers
            return {name: tuple(tensor.shape) for name, tensor in net_tensors(self.module()).items()}

    def logits(
        self,
        tensors: Mapping[str, Tensor],
        images: Float[Tensor, "nets batch channels height width"],
        keep: Keep | None = None,
        *,
        training: bool = False,
    ) -> Float[Tensor, "nets batch classes"]:
        """Return the logits of nets, each on its own batch of normalised images.

        Args:
            tensors: weights and buffers of the nets, each with a leading dimension of nets.
            images: a batch a net.
            keep: dropout factors (0, or 1 / share kept) of the units that enter each place where dropout
                acts, as many as `dropout_units` says, or None for a place; leave it out to evaluate.
            training: take means and variances of the batch, and move the buffers towards them in place.
        """
        return self._family.forward(tensors, images, keep, layers=(), training=training)[0]

    def features(
        self,
        tensors: Mapping[str, Tensor],
        images: Float[Tensor, "nets batch channels height width"],
        layers: Sequence[str],
        keep: Keep | None = None,
        *,
        training: bool = False,
    ) -> tuple[Float[Tensor, "nets batch classes"], dict[str, Tensor]]:
        """Return the logits, and of each named layer what leaves it: nets x batch x its shape in `layers`.

        Raises:
            UnknownLayer: the net has no layer of a name.
        """
        return self._family.forward(tensors, images, keep, layers=layers, training=training)

    @property
    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes (without nets and batch) of the layers whose features can be had, input first."""
        return self._family.layers

    @property
    def dropout_units(self) -> tuple[int, ...]:
        """How many units enter each place where dropout acts, the pixels (channels first) before all."""
        return self._family.dropout_units

    @property
    def max_norm_weights(self) -> tuple[str, ...]:
        """Names of hidden units' weights, [units, ...]: the rest of the dimensions is what enters one."""
        return self._family.max_norm_weights

    @property
    def head(self) -> tuple[str, str]:
        """Names of the last layer's weight [classes, units] and bias [classes]."""
        return self._family.head

    def module(self) -> nn.Module:
        """Return one net as torch users know it: images (batch, channels, height, width) in, logits out.

        Its weights are not meant to be used as they are: load a checkpoint, or `initial` of a seed.
        """
        return self._family.module()


def _family(architecture: Architecture, image: ImageInput, classes: int) -> Family:
    if isinstance(architecture, Mlp):
        return MlpFamily(architecture, image, classes)
    if isinstance(architecture, Cnn):
        return CnnFamily(architecture, image, classes)
    if isinstance(architecture, ResNet):
        return ResNetFamily(architecture, image, classes)
    return ForeignFamily(
        lambda seed: build_foreign(architecture, image, classes, seed=seed),
        architecture.architecture,
        image,
        classes,
    )

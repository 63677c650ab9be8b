"""Networks by name: how each architecture is built, started, and run several at once.

An architecture is a plain value of `shared.contracts.architectures`; this is the only place that knows which
code belongs to it.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.contracts.architectures import ARCHITECTURES, Architecture
from shared.contracts.architectures import Mlp as MlpArchitecture
from shared.contracts.images import ImageInput
from shared.errors import UnknownArchitecture
from shared.models import mlp
from shared.models.seeds import generator_of


def build(architecture: Architecture, image: ImageInput, classes: int) -> nn.Module:
    """Return one net: normalised images (batch, channels, height, width) in, logits (batch, classes) out.

    Its weights are not meant to be used as they are: load a checkpoint, or `initial_parameters` of a seed.

    Raises:
        UnknownArchitecture: nothing is registered for it.
    """
    return mlp.Mlp(_mlp(architecture), image, classes)


def initial_parameters(
    architecture: Architecture, image: ImageInput, classes: int, seed: int
) -> dict[str, Tensor]:
    """Return the first weights of the net with this seed; they depend on nothing but the arguments."""
    sizes = mlp.layer_sizes(_mlp(architecture), image, classes)
    return mlp.initial_parameters(sizes, generator_of("first weights", seed))


def stacked_logits(
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    images: Float[Tensor, "nets batch channels height width"],
    keep: Sequence[Float[Tensor, "nets batch _"] | None] | None = None,
) -> Float[Tensor, "nets batch classes"]:
    """Return the logits of several nets of one architecture, each on its own batch of normalised images.

    Args:
        architecture: of all nets.
        parameters: tensors named as in `build`, each with a leading dimension of nets.
        images: a batch a net.
        keep: dropout factors of the units that enter each layer, as many as `dropout_units` says.
    """
    _mlp(architecture)
    return mlp.stacked_logits(parameters, images, keep)


def dropout_units(architecture: Architecture, image: ImageInput, classes: int) -> tuple[int, ...]:
    """Return how many units enter each layer, the pixels first: where dropout acts."""
    return mlp.layer_sizes(_mlp(architecture), image, classes)[:-1]


def hidden_weights(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the tensors whose rows are the incoming weights of hidden units (max-norm)."""
    return tuple(f"layers.{layer}.weight" for layer in range(len(_mlp(architecture).hidden_units)))


def count_parameters(tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers one net consists of."""
    return sum(tensor.numel() for tensor in tensors.values())


def torch_device(device: str) -> torch.device:
    """Return the device to compute on: "auto" is the first CUDA device where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _mlp(architecture: object) -> MlpArchitecture:
    if not isinstance(architecture, MlpArchitecture):
        raise UnknownArchitecture(architecture, ARCHITECTURES)
    return architecture

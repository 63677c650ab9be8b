"""Convolutional layers of several nets in one call: nets lie side by side on the channels, one group each.

Activations are batch x (nets · channels) x height x width; weights carry a leading dimension of nets. With
one net these are the plain layers.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Tensors = Mapping[str, Tensor]
BATCH_NORM_MOMENTUM = 0.1
"""Share of the batch in the running mean and variance; with `BATCH_NORM_EPSILON` what torch's layer takes."""
BATCH_NORM_EPSILON = 1e-5


def side_by_side(
    images: Float[Tensor, "nets batch channels height width"],
) -> Float[Tensor, "batch channels_of_nets height width"]:
    """Return each net's batch on channels of its own."""
    joined = images[0] if images.shape[0] == 1 else images.transpose(0, 1).flatten(1, 2)
    # Channels innermost: on a CPU in bfloat16 a ResNet-20 trains four times faster so.
    return joined.contiguous(memory_format=torch.channels_last)


def apart(
    maps: Float[Tensor, "batch channels_of_nets height width"], nets: int
) -> Float[Tensor, "nets batch channels height width"]:
    """Return each net's maps by themselves: what `side_by_side` joined."""
    # A net's channels lie together, so nothing is copied.
    return maps.view(maps.shape[0], nets, -1, *maps.shape[2:]).movedim(1, 0)


def kept_pixels(
    images: Float[Tensor, "nets batch channels height width"], factors: Tensor | None
) -> Float[Tensor, "nets batch channels height width"]:
    """Return the images times their dropout factors (nets x batch x values, channels first), if any."""
    return images if factors is None else images * factors.view(images.shape)


def convolution(
    maps: Float[Tensor, "batch inputs height width"], tensors: Tensors, name: str, *, stride: int = 1
) -> Float[Tensor, "batch outputs smaller_height smaller_width"]:
    """Return each net's convolution, padded so that a stride of 1 keeps the size; its bias is optional."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    return F.conv2d(
        maps,
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=stride,
        padding=weight.shape[-1] // 2,
        groups=weight.shape[0],
    )


def batch_norm(
    maps: Float[Tensor, "batch channels height width"], tensors: Tensors, name: str, *, training: bool
) -> Float[Tensor, "batch channels height width"]:
    """Return normalised maps; in training by the batch, and the buffers move towards it in place."""
    # view, unlike flatten, never copies: an update must reach the buffers.
    return F.batch_norm(
        maps,
        tensors[f"{name}.running_mean"].view(-1),
        tensors[f"{name}.running_var"].view(-1),
        tensors[f"{name}.weight"].flatten(),
        tensors[f"{name}.bias"].flatten(),
        training=training,
        momentum=BATCH_NORM_MOMENTUM,
        eps=BATCH_NORM_EPSILON,
    )

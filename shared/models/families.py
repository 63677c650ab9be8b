"""What `Network` asks of each family of architectures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.errors import UnknownLayer

Keep = Sequence[Tensor | None]
"""Dropout: for each place where it acts a factor a unit (nets x batch x units), or None for none there."""


class Family(ABC):
    """A family's nets at one architecture, image size and number of classes; `Network` says what each is."""

    trainable: frozenset[str]
    layers: Mapping[str, tuple[int, ...]]
    dropout_units: tuple[int, ...]
    max_norm_weights: tuple[str, ...]
    head: tuple[str, str]

    @abstractmethod
    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return first weights and buffers of one net, drawn from the generator alone."""

    @abstractmethod
    def forward(
        self,
        tensors: Mapping[str, Tensor],
        images: Float[Tensor, "nets batch channels height width"],
        keep: Keep | None,
        *,
        layers: Sequence[str],
        training: bool,
    ) -> tuple[Float[Tensor, "nets batch classes"], dict[str, Tensor]]:
        """Return logits, and what the named layers say (nets x batch x ...)."""

    @abstractmethod
    def module(self) -> nn.Module:
        """Return one net as torch users know it, its weights unspecified."""


def known_layers(layers: Sequence[str], known: Mapping[str, object]) -> None:
    """Check names of layers.

    Raises:
        UnknownLayer: one is not known.
    """
    for layer in layers:
        if layer not in known:
            raise UnknownLayer(layer, tuple(known))

"""What a teacher said where it is not one tensor: the largest logits alone, or answers yet to come."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float16, Int32, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseLogits:
    """The largest logits of each row, and one logit that stands for every other class.

    Softmax of a dense row gives the classes that were not kept equal shares of the mass that they had
    together at the T of the logits.

    Attributes:
        classes: how many there are.
        indices: the classes that are kept, no class twice in a row.
        values: their logits.
        rest: the logit of each class that is not kept.
    """

    classes: int
    indices: Int32[Tensor, "*lead kept"]
    values: Float16[Tensor, "*lead kept"]
    rest: Float16[Tensor, "*lead"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense logits: leading axes, then classes."""
        return (*self.rest.shape, self.classes)

    def __getitem__(self, index: int | slice | Tensor | tuple[int | slice | Tensor, ...]) -> "SparseLogits":
        """Return those at an index of the leading axes."""
        return SparseLogits(self.classes, self.indices[index], self.values[index], self.rest[index])

    def to(self, device: torch.device) -> "SparseLogits":
        """Return the same on a device."""
        return SparseLogits(
            self.classes, self.indices.to(device), self.values.to(device), self.rest.to(device)
        )

    def float(self) -> Float[Tensor, "*lead classes"]:
        """Return all logits, as float32."""
        rest = self.rest.float().unsqueeze(-1).expand(self.shape)
        return rest.scatter(-1, self.indices.long(), self.values.float())


TeacherLogits = Shaped[Tensor, "*lead classes"] | SparseLogits
"""Of both, `[index]` takes rows, `.float()` gives float32 logits, and `.shape` is that of all logits."""


@runtime_checkable  # so that the tests can check signatures
class LiveLogits(Protocol):
    """Answers of a teacher that is still being asked, a view after another."""

    @property
    def views(self) -> int:
        """How many views of each row there will be."""
        ...

    @property
    def digest(self) -> str:
        """Say what the answers will be: those of the same digest are the same, whenever they come."""
        ...

    def logits(self, view: int) -> Float16[Tensor, "rows classes"] | SparseLogits:
        """Return the answers to one view, and wait until they are there.

        A view is asked for once an epoch. What this raises ends the training, which can be gone on with:
        `TrainingStopped` where it is told to stop.
        """
        ...

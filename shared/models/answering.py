"""What every teacher offers that can be asked: nets, a graph, a server, or several of these."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.teachers import Merge, TeacherDescription


@runtime_checkable
class AnsweringTeacher(Protocol):
    """A teacher in memory, checked and ready. Several threads may ask it."""

    @property
    def description(self) -> TeacherDescription:
        """What it is."""

    @property
    def device(self) -> torch.device:
        """Where its logits lie."""

    @property
    def merge(self) -> Merge:
        """How its members answer together; `shared.models.ensemble.merge_logits` does it."""

    @property
    def most_rows(self) -> int | None:
        """Images that one call should carry at most, where more would not be faster; None where it does not
        matter."""

    @property
    def elsewhere(self) -> bool:
        """Whether another machine computes: then a call waits and leaves the device here to others."""

    def member_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "members batch classes"]:
        """Return each member's logits, on the device.

        A row that is not finite is the caller's to name: others share the call.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
            TeacherAnswerInvalid: what answers gave no logits for these images and classes.
            TeacherChanged: what answers is no longer what was described.
            TeacherUnavailable: a server behind it does not answer; later it may.
        """

    def softened_logits(
        self, images: UInt8[Tensor, "batch height width channels"], *, temperature: float
    ) -> Float[Tensor, "batch classes"]:
        """Return merged softened logits z/T with zero mean in each row, in float32 on the device.

        Raises:
            InvalidTemperature: T is not a finite number above 0.
            DistillationError: what `member_logits` raises.
        """

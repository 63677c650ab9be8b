"""A teacher made of other teachers, of whatever kinds, each with one voice."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.teachers import MixedEnsemble, TeacherDescription
from shared.errors import ClassMismatch, InputMismatch, TeacherDoesNotTemper
from shared.models.answering import AnsweringTeacher
from shared.models.ensemble import softened
from shared.models.normalise import need_images


def need_members(description: TeacherDescription, members: Sequence[TeacherDescription]) -> None:
    """Raise where teachers cannot answer together as this one.

    Raises:
        ClassMismatch: one does not name the same classes in the same order.
        InputMismatch: one takes images of another size.
        TeacherDoesNotTemper: one answers at one T what says nothing about another T.
    """
    for member in members:
        whose = f"member {member.name!r}"
        if member.classes != description.classes:
            raise ClassMismatch(f"teacher {description.name!r}", description.classes, whose, member.classes)
        one, all_of_them = member.preprocessing.input, description.preprocessing.input
        if one != all_of_them:
            raise InputMismatch(
                f"teacher {description.name!r} takes images of {all_of_them.height} x {all_of_them.width} x "
                f"{all_of_them.channels}, its {whose} of {one.height} x {one.width} x {one.channels}"
            )
        if not member.tempers:
            raise TeacherDoesNotTemper(member.name)


class MixedTeacher:
    """Teachers that are asked about the same images and merged; one that is several nets has one voice too.

    Args:
        description: of the whole; its model is a `MixedEnsemble`.
        members: in the order of the description, each where it answers.
        device: where their logits are brought together.

    Raises:
        ClassMismatch: a member does not name the same classes in the same order.
        InputMismatch: a member takes images of another size.
        TeacherDoesNotTemper: a member answers at one T what says nothing about another T.
    """

    def __init__(
        self,
        description: TeacherDescription,
        members: Sequence[AnsweringTeacher],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        assert isinstance(description.model, MixedEnsemble), "told apart by teacher_of"
        need_members(description, [member.description for member in members])
        self.description = description
        self.members = tuple(members)
        self.device = torch.device(device)
        self.merge = description.model.merge

    @property
    def most_rows(self) -> int | None:
        """The fewest that a member likes in one call."""
        return min((rows for member in self.members if (rows := member.most_rows) is not None), default=None)

    @property
    def elsewhere(self) -> bool:
        """Whether any member is computed on another machine."""
        return any(member.elsewhere for member in self.members)

    def member_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "members batch classes"]:
        """Return the softened logits of each member at T = 1, which serve any T.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
            DistillationError: what a member raises.
        """
        need_images(images, self.description.preprocessing.input, f"teacher {self.description.name!r}")
        logits = [member.softened_logits(images, temperature=1.0) for member in self.members]
        return torch.stack([member.to(self.device) for member in logits])

    def softened_logits(
        self, images: UInt8[Tensor, "batch height width channels"], *, temperature: float
    ) -> Float[Tensor, "batch classes"]:
        """Return merged softened logits z/T with zero mean in each row, in float32 on the device.

        Raises:
            InvalidTemperature: T is not a finite number above 0.
            DistillationError: what `member_logits` raises.
        """
        return softened(self, images, temperature)

"""Teachers that answer: one net or several, merged into one row of softened logits an image.

Averaging is easy to get wrong (DESIGN section 4): the arithmetic mean is of *probabilities at T*, the
geometric mean is the mean of logits, and the two differ for every teacher of more than one member.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.teachers import Merge, TeacherDescription
from shared.errors import InputMismatch, InvalidTemperature
from shared.models.network import Network
from shared.models.normalise import normalise


def merge_logits(
    member_logits: Float[Tensor, "members batch classes"], *, temperature: float, merge: Merge
) -> Float[Tensor, "batch classes"]:
    """Return the members' merged softened logits z/T with zero mean in each row, in float32.

    Softmax of a row is the merged probability at T: for "arithmetic" the mean of the members' softmax(z/T),
    for "geometric" their geometric mean, scaled to sum 1.

    Raises:
        InvalidTemperature: T is not a finite number above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise InvalidTemperature(temperature)
    softened = member_logits.float() / temperature
    if merge == "geometric" or member_logits.shape[0] == 1:
        merged = softened.mean(0)
    else:
        merged = torch.logsumexp(F.log_softmax(softened, dim=-1), dim=0)
    return merged - merged.mean(-1, keepdim=True)


class StackedEnsemble:
    """A teacher's nets on a device, stacked on a leading dimension and asked all at once.

    Args:
        description: of the teacher.
        tensors: its weights, each with a leading dimension of members.
        device: where it answers.
    """

    def __init__(
        self,
        description: TeacherDescription,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.description = description
        self.device = torch.device(device)
        self.merge = description.nets.merge
        self.members = description.nets.members
        self.bf16 = description.precision == "bfloat16"
        self._network = Network(
            description.nets.architecture, description.preprocessing.seen, len(description.classes)
        )
        stacked = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        # Side by side on a GPU; one by one on a CPU, where that is as fast and a deep net's maps are held for
        # one member at a time.
        at_once = self.members if self.device.type == "cuda" else 1
        self._blocks = [
            {name: tensor[first : first + at_once] for name, tensor in stacked.items()}
            for first in range(0, self.members, at_once)
        ]

    @property
    def tempers(self) -> bool:
        """Whether softened logits at any T are those at T = 1 divided by T."""
        return self.description.tempers

    def member_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "members batch classes"]:
        """Return each member's logits, on the device; `merge_logits` makes an answer of them at any T.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
        """
        expected = self.description.preprocessing.input
        if images.shape[1:] != (expected.height, expected.width, expected.channels):
            raise InputMismatch(
                f"teacher {self.description.name!r} takes images of {expected.height} x {expected.width} x "
                f"{expected.channels}, got {' x '.join(map(str, images.shape[1:]))}"
            )
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16),
        ):
            batch = normalise(images.to(self.device), self.description.preprocessing)
            members = self.members // len(self._blocks)
            stacked = batch.expand(members, *batch.shape)
            return torch.cat([self._network.logits(block, stacked) for block in self._blocks])

    def softened_logits(
        self, images: UInt8[Tensor, "batch height width channels"], *, temperature: float
    ) -> Float[Tensor, "batch classes"]:
        """Return merged softened logits z/T with zero mean in each row, in float32 on the device.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
            InvalidTemperature: T is not a finite number above 0.
        """
        logits = self.member_logits(images)
        with torch.inference_mode():
            return merge_logits(logits, temperature=temperature, merge=self.merge)

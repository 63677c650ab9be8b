"""Teachers that answer: one net or several, merged into one row of softened logits an image.

Averaging is easy to get wrong (DESIGN section 4): the arithmetic mean is of *probabilities at T*, the
geometric mean is the mean of logits, and the two differ for every teacher of more than one member.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.teachers import Merge, Precision, TeacherDescription
from shared.errors import InvalidTemperature
from shared.models.answering import AnsweringTeacher
from shared.models.network import Network
from shared.models.normalise import need_images, normalise

_DTYPES: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def products_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which nets run their products in a precision; sums and logits stay as they are.

    A CPU runs float16 as float32: torch has it there, and it is slower than float32 even where the processor
    knows the type (1.3 times for a convolution on one that does). What differs is within float16's rounding.
    """
    reduced = precision == "bfloat16" or (precision == "float16" and device.type != "cpu")
    dtype = _DTYPES[precision] if reduced else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=reduced)


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


def softened(
    teacher: AnsweringTeacher,
    images: UInt8[Tensor, "batch height width channels"],
    temperature: float,
) -> Float[Tensor, "batch classes"]:
    """Return a teacher's merged softened logits z/T; see `AnsweringTeacher.softened_logits`."""
    logits = teacher.member_logits(images)
    with torch.inference_mode():
        return merge_logits(logits, temperature=temperature, merge=teacher.merge)


class StackedEnsemble:
    """A teacher's nets on a device, stacked on a leading dimension and asked all at once.

    Args:
        description: of the teacher.
        tensors: its weights, each with a leading dimension of members.
        device: where it answers.
    """

    elsewhere = False
    most_rows: int | None = None

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
        preprocessing = self.description.preprocessing
        need_images(images, preprocessing.input, f"teacher {self.description.name!r}")
        with torch.inference_mode(), products_in(self.description.precision, self.device):
            batch = normalise(images.to(self.device), preprocessing)
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
        return softened(self, images, temperature)

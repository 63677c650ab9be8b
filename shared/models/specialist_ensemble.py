"""A generalist and its specialists that answer as one teacher.

Which specialists are asked about an image, and what comes of it: `shared.models.combine`.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from shared.contracts.specialists import GENERALIST, specialist_name
from shared.contracts.teachers import TeacherDescription
from shared.models.combine import active, combined_logits, covered
from shared.models.ensemble import StackedEnsemble, products_in
from shared.models.network import Network
from shared.models.normalise import normalise


class SpecialistEnsemble(StackedEnsemble):
    """A generalist and its specialists on a device; a specialist is asked about the images it is active on.

    They answer as one member: log q at T = 1, so logits at any T are those divided by T.

    Args:
        description: of the teacher; it says which specialists there are.
        tensors: weights named `generalist/NAME`, `specialist-00/NAME` and so on, each with a leading
            dimension of 1.
        device: where it answers.
    """

    def __init__(
        self,
        description: TeacherDescription,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        combination = description.nets.specialists
        assert combination is not None, "told apart by ensemble_of"
        super().__init__(description, _of_part(tensors, GENERALIST), device=device)
        self._top_n = combination.top_n
        self._covered = covered(combination, description.classes)
        self._specialists = [
            (
                network,
                {
                    name: tensor.to(self.device)
                    for name, tensor in _of_part(tensors, specialist_name(number)).items()
                },
            )
            for number, network in enumerate(_specialist_networks(description))
        ]

    def generalist_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch classes"]:
        """Return what the generalist alone says, in float32 on the device.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
        """
        return super().member_logits(images).squeeze(0).float()

    def active(
        self, generalist_logits: Float[Tensor, "batch classes"]
    ) -> Bool[np.ndarray, "batch specialists"]:
        """Return which specialists are asked about images on which the generalist says this."""
        return active(generalist_logits.cpu().numpy(), self._covered, top_n=self._top_n)

    def member_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "1 batch classes"]:
        """Return the combined answer of all, on the device.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
        """
        generalist = self.generalist_logits(images)
        on_device = images.to(self.device)

        def ask(number: int, rows: Int64[np.ndarray, " asked"]) -> Float[np.ndarray, "asked answers"]:
            network, tensors = self._specialists[number]
            own = on_device[torch.from_numpy(rows).to(self.device)]
            with torch.inference_mode(), products_in(self.description.precision, self.device):
                batch = normalise(own, self.description.preprocessing)
                logits = network.logits(tensors, batch.unsqueeze(0)).squeeze(0)
            answers: Float[np.ndarray, "asked answers"] = logits.float().cpu().numpy()
            return answers

        combined = combined_logits(generalist.cpu().numpy(), self._covered, ask, top_n=self._top_n)
        return torch.from_numpy(combined).to(self.device).unsqueeze(0)


def ensemble_of(
    description: TeacherDescription,
    tensors: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
) -> StackedEnsemble:
    """Return the teacher of this description, ready to answer."""
    kind = StackedEnsemble if description.nets.specialists is None else SpecialistEnsemble
    return kind(description, tensors, device=device)


def shapes_of(description: TeacherDescription) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a teacher of this description consists of."""
    image = description.preprocessing.seen
    network = Network(description.nets.architecture, image, len(description.classes))
    if description.nets.specialists is None:
        return {name: (description.nets.members, *shape) for name, shape in network.shapes.items()}
    parts = {GENERALIST: network} | {
        specialist_name(number): one for number, one in enumerate(_specialist_networks(description))
    }
    return {
        f"{part}/{name}": (1, *shape) for part, one in parts.items() for name, shape in one.shapes.items()
    }


def _specialist_networks(description: TeacherDescription) -> list[Network]:
    combination = description.nets.specialists
    parts = combination.specialists if combination is not None else ()
    image = description.preprocessing.seen
    architecture, classes = description.nets.architecture, len(description.classes)
    return [Network(architecture, image, part.answers(classes)) for part in parts]


def _of_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{part}/")
    }

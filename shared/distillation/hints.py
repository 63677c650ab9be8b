"""Terms that look into layers: hints (FitNets) and attention transfer, and the teacher whose layers they see.

Sources: Romero et al. 2015, arXiv:1412.6550; Zagoruyko, Komodakis 2017, arXiv:1612.03928.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import Objective
from shared.distillation.losses import attention_transfer_loss, hint_loss, takes_teacher
from shared.errors import InputMismatch, LayersDoNotJoin
from shared.models.families import known_layers
from shared.models.network import Network
from shared.models.normalise import normalise
from shared.models.seeds import generator_of

Shape = tuple[int, ...]


class TeacherFeatures:
    """A stored teacher of one net, run beside the student for what its layers say of the same images.

    Args:
        description: of the teacher.
        tensors: its weights, each with a leading dimension of members, as they are stored.
        device: where it answers.
        bf16: run the products in bfloat16.

    Raises:
        TeacherNotLoadable: it is more than one net: the layers of several are not one layer.
    """

    def __init__(
        self,
        description: TeacherDescription,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        bf16: bool = False,
    ) -> None:
        architecture = description.one_net.architecture
        self.digest = description.digest
        self.network = Network(architecture, description.preprocessing.seen, len(description.classes))
        self._preprocessing = description.preprocessing
        self._device = torch.device(device)
        self._bf16 = bf16
        self._tensors = {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def of(
        self, pixels: UInt8[Tensor, "nets batch height width channels"], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return what the named layers say of each net's batch: nets x batch x the layer's shape.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
        """
        takes = self._preprocessing.input
        if pixels.shape[2:] != (takes.height, takes.width, takes.channels):
            raise InputMismatch(
                f"the teacher takes images of {takes.height} x {takes.width} x {takes.channels}, got "
                f"{' x '.join(map(str, pixels.shape[2:]))}"
            )
        with (
            torch.no_grad(),
            torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16),
        ):
            images = normalise(pixels.flatten(0, 1), self._preprocessing).unsqueeze(0)
            _, features = self.network.features(self._tensors, images, layers)
        return {
            name: feature.reshape(*pixels.shape[:2], *feature.shape[2:]) for name, feature in features.items()
        }


class LayerTerms:
    """The hint and attention terms of nets that share an objective, with a regressor a net.

    Args:
        objective: with a hint, attention, or both.
        student: the nets' architecture.
        teacher: whose layers are led to.
        seeds: a net's each, for the regressors' first weights.
        device: where the nets are.

    Raises:
        UnknownLayer: student or teacher has no such layer.
        LayersDoNotJoin: a pair of layers cannot be compared.
    """

    def __init__(
        self,
        objective: Objective,
        student: Network,
        teacher: TeacherFeatures,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        check_layers(objective, student, teacher.network)
        self._objective = objective
        self._teacher = teacher
        pairs = list(objective.attention.layers) if objective.attention is not None else []
        self.regressors: dict[str, Tensor] = {}
        """Weights [nets, outputs, inputs] and biases [nets, outputs]; they are trained along."""
        if (hint := objective.hint) is not None:
            pairs.append((hint.student_layer, hint.teacher_layer))
            inputs = _channels(student.layers[hint.student_layer])
            outputs = _channels(teacher.network.layers[hint.teacher_layer])
            drawn = [
                torch.empty(outputs, inputs).normal_(
                    std=1 / math.sqrt(inputs), generator=generator_of("regressor", seed)
                )
                for seed in seeds
            ]
            self.regressors = {
                "weight": torch.stack(drawn).to(device).requires_grad_(),
                "bias": torch.zeros(len(seeds), outputs, device=device).requires_grad_(),
            }
        self.layers = tuple(dict.fromkeys(of_student for of_student, _ in pairs))
        """Of the student, whose features `losses` wants."""
        self._teacher_layers = tuple(dict.fromkeys(of_teacher for _, of_teacher in pairs))

    def losses(
        self,
        features: Mapping[str, Tensor],
        pixels: UInt8[Tensor, "nets batch height width channels"],
        *,
        step: int,
    ) -> Float[Tensor, " nets"] | None:
        """Return the weighted terms of each net, or None in a step that takes the hard labels alone.

        Args:
            features: the nets' layers.
            pixels: the images that made them.
            step: steps of the training before this one.
        """
        if not takes_teacher(self._objective, step):
            return None
        teacher = self._teacher.of(pixels, self._teacher_layers)
        terms = []
        if (hint := self._objective.hint) is not None:
            regressed = self._regressed(features[hint.student_layer].float())
            wanted = _positions(teacher[hint.teacher_layer].float())
            terms.append(hint.weight * hint_loss(regressed, wanted))
        if (attention := self._objective.attention) is not None:
            of_student = [features[layer].float() for layer, _ in attention.layers]
            of_teacher = [teacher[layer].float() for _, layer in attention.layers]
            terms.append(attention.weight * attention_transfer_loss(of_student, of_teacher))
        return torch.stack(terms).sum(0)

    def _regressed(self, feature: Tensor) -> Float[Tensor, "nets batch positions outputs"]:
        """Return a linear map of the channels at each position: for images a 1 x 1 convolution."""
        positions = _positions(feature)
        weight, bias = self.regressors["weight"], self.regressors["bias"]
        mapped = torch.baddbmm(bias.unsqueeze(1), positions.flatten(1, 2), weight.mT)
        return mapped.view(*positions.shape[:3], -1)


def check_layers(objective: Objective, student: Network, teacher: Network) -> None:
    """Check that the layers named by an objective are there and can be joined.

    Raises:
        UnknownLayer: student or teacher has no such layer.
        LayersDoNotJoin: a pair of layers cannot be compared.
    """
    hints = [(objective.hint.student_layer, objective.hint.teacher_layer)] if objective.hint else []
    maps = list(objective.attention.layers) if objective.attention else []
    known_layers([of_student for of_student, _ in hints + maps], student.layers)
    known_layers([of_teacher for _, of_teacher in hints + maps], teacher.layers)
    for of_student, of_teacher in hints + maps:
        shapes = student.layers[of_student], teacher.layers[of_teacher]
        if not _join(*shapes) or ((of_student, of_teacher) in maps and len(shapes[0]) != 3):
            raise LayersDoNotJoin(of_student, shapes[0], of_teacher, shapes[1])


def _join(student: Shape, teacher: Shape) -> bool:
    """Return whether both have the same positions: none, rows and columns, or tokens."""
    return len(student) == len(teacher) and _places(student) == _places(teacher)


def _places(shape: Shape) -> Shape:
    # Channels come first in images (channels, rows, columns) and last elsewhere (tokens, channels).
    return shape[1:] if len(shape) == 3 else shape[:-1]


def _channels(shape: Shape) -> int:
    return shape[0] if len(shape) == 3 else shape[-1]


def _positions(feature: Tensor) -> Float[Tensor, "nets batch positions channels"]:
    if feature.ndim == 5:
        return feature.flatten(3).mT
    return feature if feature.ndim == 4 else feature.unsqueeze(2)

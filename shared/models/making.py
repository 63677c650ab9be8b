"""Makes of a description a teacher that answers, whatever its kind, checked before anyone asks it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared.artefacts.tensors import read_tensors
from shared.contracts.teachers import (
    MemberTeacher,
    MixedEnsemble,
    Nets,
    OnnxModel,
    RemoteModel,
    TeacherDescription,
)
from shared.errors import TeacherAnswerInvalid
from shared.models.answering import AnsweringTeacher
from shared.models.checkpoints import from_arrays
from shared.models.mixed import MixedTeacher
from shared.models.onnx_teacher import OnnxTeacher
from shared.models.probes import PROBE, read_probe
from shared.models.remote import RemoteTeacher, Server
from shared.models.specialist_ensemble import ensemble_of, shapes_of

WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"


@dataclass(frozen=True)
class Means:
    """What a teacher is made with.

    Attributes:
        file: where a file of the model lies, by its name, compared with its digest.
        server: reaches the server that a remote model names.
        member: gives a member of an ensemble, loaded and with the digest that is wanted.
        device: where nets and graphs answer.
        probe_every_s: how often a server is compared with its probe while it is asked, in seconds.
    """

    file: Callable[[str], Path]
    server: Callable[[RemoteModel], Server]
    member: Callable[[MemberTeacher], AnsweringTeacher]
    device: torch.device
    probe_every_s: float = 60.0


def teacher_of(description: TeacherDescription, means: Means, *, unproven: bool = False) -> AnsweringTeacher:
    """Return the teacher of this description, ready to answer.

    One that is elsewhere, or has a member there, is asked nothing here: whoever loads teachers would wait for
    its server. It is compared with its probe before its first answer.

    Args:
        description: of the teacher.
        means: what it is made with.
        unproven: whoever makes it looks by himself whether its logits are finite; it is not asked here.

    Raises:
        TeacherAnswerInvalid: its weights make no net, its precision is not one that it can have, or it gives
            no finite logits for a black and a white image.
        InvalidModelFiles: its graph does not run.
        OipHostNotAllowed: its server may not be asked here.
        TeacherChanged: a member is no longer what it was when the teacher was added.
        ClassMismatch, InputMismatch, TeacherDoesNotTemper: its members cannot answer together.
        Corrupt, TeacherNotFound: a file or a member is not there, or not as its digest says.
    """
    need_precision(description)
    teacher = _made(description, means)
    if not (unproven or teacher.elsewhere):
        check_answer(teacher)
    return teacher


def need_precision(description: TeacherDescription) -> None:
    """Raise where a precision is stated for what computes as it was made to.

    Raises:
        TeacherAnswerInvalid: a graph, a server or an ensemble of teachers is to run in another precision.
    """
    if not isinstance(description.model, Nets) and description.precision != "float32":
        raise TeacherAnswerInvalid(
            f"teacher {description.name!r} cannot run in {description.precision}: only nets on PyTorch "
            "change their precision; a graph, a server and the members of an ensemble have their own",
            remedy="Leave `precision` out.",
        )


def _made(description: TeacherDescription, means: Means) -> AnsweringTeacher:
    model = description.model
    if isinstance(model, OnnxModel):
        return OnnxTeacher(description, means.file(GRAPH), device=means.device)
    if isinstance(model, RemoteModel):
        # Whoever adds a teacher, or tries it otherwise than it was added, describes it without a probe.
        probe = read_probe(means.file(PROBE)) if PROBE in description.files else None
        return RemoteTeacher(description, means.server(model), probe, probe_every_s=means.probe_every_s)
    if isinstance(model, MixedEnsemble):
        members = [means.member(member) for member in model.members]
        return MixedTeacher(description, members, device=means.device)
    arrays, _ = read_tensors(means.file(WEIGHTS))
    tensors = from_arrays(arrays)
    check_tensors(description, tensors)
    return ensemble_of(description, tensors, device=means.device)


def check_tensors(description: TeacherDescription, tensors: dict[str, Tensor]) -> None:
    """Compare names, shapes and kind of number with the nets that the description names.

    Raises:
        TeacherAnswerInvalid: they differ; the tensors are named.
    """
    expected = {name: (torch.float32, shape) for name, shape in shapes_of(description).items()}
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if found != expected:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise TeacherAnswerInvalid(
            f"teacher {description.name!r} cannot be loaded: tensors {', '.join(differing)} are missing, not "
            "known, or not of the shape and number type of its architecture"
        )


def check_answer(teacher: AnsweringTeacher) -> None:
    """Ask about a black and a white image; this also warms the device up.

    Raises:
        TeacherAnswerInvalid: the logits are not finite.
        DistillationError: what asking raises.
    """
    size = teacher.description.preprocessing.input
    extremes = torch.zeros(2, size.height, size.width, size.channels, dtype=torch.uint8)
    extremes[1] = 255
    logits = teacher.softened_logits(extremes, temperature=1.0)
    if not bool(torch.isfinite(logits).all()):
        raise TeacherAnswerInvalid(
            f"teacher {teacher.description.name!r} cannot be used: its logits are not finite"
        )

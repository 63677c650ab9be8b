"""Teachers: the description stored beside their weights, and what the teacher service answers."""

from datetime import datetime
from typing import Final, Literal

from pydantic import Field, model_validator

from shared.contracts.architectures import Architecture
from shared.contracts.base import Classes, Contract, Digest, Name, Temperature
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specialists import Combination, need_classes

TEACHER_FORMAT: Final = 1

SAFETENSORS_MEDIA_TYPE: Final = "application/vnd.safetensors"
"""Of a body of uint8 images (one tensor, `images`) and of an answer (`logits`, `probabilities`)."""

PRECISION_HEADER = "X-Teacher-Precision"
DIGEST_HEADER = "X-Teacher-Digest"
TEMPERATURE_HEADER = "X-Temperature"
MOST_ROWS_HEADER = "X-Most-Rows"


class TeacherDescription(Contract):
    """`teacher.json` beside `model.safetensors`: all that is needed to ask the teacher and to trust it."""

    format: Literal[1] = TEACHER_FORMAT
    name: Name
    digest: Digest
    """Of the weights, architecture, merge, classes and preprocessing together."""
    architecture: Architecture
    members: int = Field(ge=1)
    """Nets in the ensemble; each parameter is stored with this leading dimension."""
    merge: Literal["geometric", "arithmetic"]
    specialists: Combination | None = None
    """Where given, the one net is a generalist that answers together with its specialists. Its tensors are
    stored as `generalist/NAME`, theirs as `specialist-00/NAME` and so on."""
    classes: Classes
    preprocessing: Preprocessing
    test_accuracy: float | None = None
    job_id: str | None = None
    created_at: datetime

    @model_validator(mode="after")
    def _specialists_fit(self) -> "TeacherDescription":
        need_classes(self.classes, self.specialists)
        if self.specialists is not None and self.members != 1:
            raise ValueError("a generalist with specialists is one net")
        return self


class TeacherView(Contract):
    """A teacher as `GET /v1/teachers/{name}` answers it."""

    name: Name
    digest: Digest
    classes: Classes
    input: ImageInput
    architecture: Architecture
    members: int
    merge: Literal["geometric", "arithmetic"]
    specialists: int = 0
    """How many specialists answer together with it."""
    tempers: bool
    """True where logits at any T are logits at T = 1 divided by T (not so for an arithmetic ensemble)."""
    test_accuracy: float | None = None
    device: str
    precision: str
    most_rows: int
    """Most images one request may carry."""


class TeacherList(Contract):
    """All teachers the service holds, by name."""

    teachers: tuple[TeacherView, ...]


class TeacherDescriptions(Contract):
    """All teachers in the artefact store, by name, as the gateway answers them."""

    teachers: tuple[TeacherDescription, ...]


class SoftTargets(Contract):
    """The JSON answer: temperature-softened logits z/T in the order of `classes`, one row an image.

    Logits have zero mean in each row. `probabilities` is softmax(z/T), where it was asked for.
    """

    teacher: Name
    digest: Digest
    temperature: Temperature
    classes: Classes
    logits: list[list[float]]
    probabilities: list[list[float]] | None = None

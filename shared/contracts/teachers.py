"""Teachers: the description stored beside their weights, and what the teacher service answers."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.architectures import Architecture
from shared.contracts.base import Classes, Contract, Digest, Name, Temperature
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specialists import Combination, need_classes
from shared.errors import TeacherNotLoadable

TEACHER_FORMAT: Final = 2

SAFETENSORS_MEDIA_TYPE: Final = "application/vnd.safetensors"
"""Of a body of uint8 images (one tensor, `images`) and of an answer (`logits`, `probabilities`)."""

PRECISION_HEADER = "X-Teacher-Precision"
DIGEST_HEADER = "X-Teacher-Digest"
TEMPERATURE_HEADER = "X-Temperature"
LANE_HEADER = "X-Lane"
DEADLINE_HEADER = "X-Deadline-Ms"
MOST_ROWS_HEADER = "X-Most-Rows"
ACCOUNT_HEADER = "X-Imago-Account"
"""Id of the key on whose budget the rows go; taken from administrators only, such as worker and gateway."""


Merge = Literal["geometric", "arithmetic"]
"""How members answer together: the mean of logits, or the mean of probabilities at the T asked for."""

Precision = Literal["float32", "bfloat16", "float16"]

Lane = Literal["interactive", "bulk"]
"""Which queue a request waits in; interactive ones are answered first."""

Layout = Literal["NCHW", "NHWC"]

Answers = Literal["logits", "probabilities"]
"""What a model gives. Of probabilities the logarithm is taken: they are softmax(log p) at T = 1."""


ServerUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", max_length=500)]
"""Of a server of the Open Inference Protocol, without `/v2` and without credentials."""

ServedModel = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$")]
"""A model's name on a server. It becomes part of a path there, so it has no slash."""

ServedVersion = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")]


class Nets(Contract):
    """Nets of a registered architecture on PyTorch, their tensors in `model.safetensors`."""

    kind: Literal["nets"] = "nets"
    architecture: Architecture
    members: int = Field(default=1, ge=1)
    """Nets in the ensemble; each tensor is stored with this leading dimension."""
    merge: Merge = "geometric"
    specialists: Combination | None = None
    """Where given, the one net is a generalist that answers together with its specialists. Its tensors are
    stored as `generalist/NAME`, theirs as `specialist-00/NAME` and so on."""


class OnnxModel(Contract):
    """A graph for ONNX Runtime, `model.onnx`, with one input and the output that is meant."""

    kind: Literal["onnx"] = "onnx"
    input: str
    output: str
    layout: Layout = "NCHW"
    datatype: Literal["float32", "float16", "uint8"] = "float32"
    """Of the input. A graph that takes uint8 takes pixels as they are and normalises by itself."""
    rows: int | None = Field(default=None, ge=1)
    """Images a call where the graph fixes it; a call of fewer is filled up."""
    answers: Answers = "logits"


class RemoteModel(Contract):
    """A model behind the Open Inference Protocol v2 over REST (Triton, KServe, MLServer).

    Its weights cannot be seen. What it answered about a few probe images when it was added is kept in
    `probe.safetensors` and stands for them: a server that answers otherwise is another teacher.
    """

    kind: Literal["oip"] = "oip"
    url: ServerUrl
    model: ServedModel
    version: ServedVersion | None = None
    input: str
    output: str
    layout: Layout = "NCHW"
    datatype: Literal["float32", "float16", "uint8"] = "float32"
    binary: bool = False
    """Whether tensors travel by the binary extension; else as JSON."""
    rows: int = Field(default=64, ge=1, le=8192)
    """Most images a call."""
    answers: Answers = "logits"


class MemberTeacher(Contract):
    """A teacher that is part of an ensemble, as it was when the ensemble was added."""

    name: Name
    digest: Digest


class MixedEnsemble(Contract):
    """Other teachers, of whatever kinds, that answer together. Each tempers; all take the same `input`."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[MemberTeacher, ...] = Field(min_length=2, max_length=32)
    merge: Merge = "geometric"


TeacherModel = Annotated[Nets | OnnxModel | RemoteModel | MixedEnsemble, Field(discriminator="kind")]


def tempers(model: TeacherModel) -> bool:
    """Return whether softened logits at any T are those at T = 1 divided by T.

    Not so for the mean of probabilities of several members.
    """
    if isinstance(model, Nets):
        return model.merge == "geometric" or model.members == 1
    return not (isinstance(model, MixedEnsemble) and model.merge == "arithmetic")


class TeacherDescription(Contract):
    """`teacher.json` beside the model's files: all that is needed to ask the teacher and to trust it."""

    format: Literal[2] = TEACHER_FORMAT
    name: Name
    digest: Digest
    """Of all that changes the answer: model, files, classes, preprocessing and precision together."""
    model: TeacherModel
    files: dict[str, Digest] = Field(default_factory=dict)
    """The model's files beside `teacher.json`, by name, with the SHA-256 of each."""
    classes: Classes
    preprocessing: Preprocessing
    precision: Precision = "float32"
    """Of the products inside the nets; what is answered is float32 or float16 as asked."""
    test_accuracy: float | None = None
    """Measured by the job that trained or checked it."""
    source: str = ""
    """Where it comes from, in words."""
    job_id: str | None = None
    created_at: datetime

    @property
    def tempers(self) -> bool:
        """Whether softened logits at any T are those at T = 1 divided by T."""
        return tempers(self.model)

    @property
    def nets(self) -> Nets:
        """The nets that answer, of a teacher that is known to be of that kind.

        Raises:
            TeacherNotLoadable: it is of another kind.
        """
        if not isinstance(self.model, Nets):
            raise TeacherNotLoadable(self.name, f"it is of kind {self.model.kind!r}, not a net of ours")
        return self.model

    @property
    def one_net(self) -> Nets:
        """The one net that answers.

        Raises:
            TeacherNotLoadable: there are several, or it is of another kind.
        """
        nets = self.nets
        if nets.members != 1:
            raise TeacherNotLoadable(self.name, f"it is an ensemble of {nets.members} nets")
        if nets.specialists is not None:
            raise TeacherNotLoadable(
                self.name, f"it is a generalist with {len(nets.specialists.specialists)} specialists"
            )
        return nets

    @model_validator(mode="after")
    def _specialists_fit(self) -> "TeacherDescription":
        if isinstance(self.model, Nets):
            need_classes(self.classes, self.model.specialists)
            if self.model.specialists is not None and self.model.members != 1:
                raise ValueError("a generalist with specialists is one net")
        return self


class TeacherView(Contract):
    """A teacher as `GET /v1/teachers/{name}` of the teacher service answers it."""

    name: Name
    digest: Digest
    classes: Classes
    input: ImageInput
    model: TeacherModel
    tempers: bool
    """True where logits at any T are logits at T = 1 divided by T (not so for an arithmetic ensemble)."""
    test_accuracy: float | None = None
    device: str
    precision: Precision
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

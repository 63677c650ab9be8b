"""Where a teacher may come from that was not trained here; the job `teacher_import` reads them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.contracts.architectures import Architecture
from shared.contracts.base import Classes, Contract, Name
from shared.contracts.images import ImageInput
from shared.contracts.teachers import (
    Answers,
    Layout,
    Merge,
    Precision,
    ServedModel,
    ServedVersion,
    ServerUrl,
)


class SentFiles(Contract):
    """Files that were uploaded with the request, or that lie in a folder of the store."""

    upload: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$")
    """The gateway's name for what was uploaded; a client leaves it out and sends the files."""
    folder: Name | None = None
    """A folder in `incoming` of the artefact store, put there by whoever runs it."""


class _Source(Contract):
    classes: Classes | None = None
    """In the order of the logits; None where a file says it (`classes.json`, `labels.txt`, `config.json`)."""
    input: ImageInput | None = None
    """The images it will be asked about; None takes what its files or the dataset say."""
    mean: tuple[float, ...] | None = None
    """A channel, of pixels from 0 to 1; None where a file says it."""
    std: tuple[float, ...] | None = None
    resample: Literal["bilinear", "bicubic"] | None = None
    precision: Precision = "float32"


class SafetensorsSource(_Source):
    """`model.safetensors` of one net of a registered architecture, its tensors named as we name them."""

    kind: Literal["safetensors"] = "safetensors"
    files: SentFiles = SentFiles()
    architecture: Architecture


class TransformersSource(_Source):
    """A folder of a Hugging Face image classifier: `config.json`, safetensors, `preprocessor_config.json`."""

    kind: Literal["transformers"] = "transformers"
    files: SentFiles = SentFiles()


class TimmSource(_Source):
    """A net of `timm` by its name, and `model.safetensors` with its weights."""

    kind: Literal["timm"] = "timm"
    files: SentFiles = SentFiles()
    model: str = Field(pattern=r"^[a-z0-9_.]{1,100}$")


class OnnxSource(_Source):
    """`model.onnx`. Names, layout and kind of number are read from the graph where they are not given."""

    kind: Literal["onnx"] = "onnx"
    files: SentFiles = SentFiles()
    output: str | None = None
    """Which output, where there are several."""
    layout: Layout | None = None
    answers: Answers = "logits"


class OipSource(_Source):
    """A server that speaks the Open Inference Protocol v2 over REST. Its host must be on the allow-list."""

    kind: Literal["oip"] = "oip"
    url: ServerUrl
    model: ServedModel
    version: ServedVersion | None = None
    output: str | None = None
    layout: Layout | None = None
    answers: Answers = "logits"


class EnsembleSource(_Source):
    """Teachers that are here already, of whatever kinds."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[Name, ...] = Field(min_length=2, max_length=32)
    merge: Merge = "geometric"

    @model_validator(mode="after")
    def _once_each(self) -> "EnsembleSource":
        if len(set(self.members)) != len(self.members):
            raise ValueError("a teacher is named twice")
        return self


TeacherSource = Annotated[
    SafetensorsSource | TransformersSource | TimmSource | OnnxSource | OipSource | EnsembleSource,
    Field(discriminator="kind"),
]

"""Students: the card of a served bundle, and how students are listed, promoted and rolled back."""

from datetime import datetime
from typing import Final, Literal

from pydantic import Field, model_validator

from shared.contracts.architectures import Architecture
from shared.contracts.base import Classes, Contract, Digest, Name
from shared.contracts.cascade import CascadeCurve
from shared.contracts.evaluation import Comparison, Evaluation
from shared.contracts.images import Preprocessing
from shared.contracts.served_graphs import GraphChoice
from shared.contracts.specialists import Combination, need_classes
from shared.contracts.training import Objective

STUDENT_FORMAT: Final = 1

SAMPLES: Final = "samples.safetensors"
"""A file that a bundle may have: `images` (uint8, N x H x W x C) and the `probabilities` (float32, N x
classes) that the served graph, or the trained nets of an ensemble, gave them. Whoever loads the bundle
compares its answers with these. `reference` are those of `model.onnx`, where there is one."""


class BundleFile(Contract):
    """A file of the bundle, which `GET /v1/students/{version}/files/{name}` downloads."""

    sha256: Digest
    size_bytes: int


class Latency(Contract):
    """Time of one in-process call on the machine that exported, in milliseconds."""

    batch: int
    p50_ms: float
    p99_ms: float
    calls: int
    threads: int


class StudentCard(Contract):
    """`card.json` of a student: provenance, verdict, calibration, size and latency."""

    format: Literal[1] = STUDENT_FORMAT
    version: str
    name: Name
    job_id: str
    created_at: datetime
    classes: Classes
    preprocessing: Preprocessing
    architecture: Architecture
    specialists: Combination | None = None
    """Where given, the student is a generalist with specialists: `generalist.onnx` and `specialist-00.onnx`
    and so on, in place of `model.onnx`. Then `teacher` is the generalist, and the comparison is with it."""
    parameters: int
    """Numbers in the net, or in all of them."""
    teacher: Name | None = None
    """None where nets taught themselves or each other."""
    teacher_digest: Digest | None = None
    teacher_parameters: int | None = None
    dataset: Name
    dataset_digest: Digest
    transfer_set_digest: Digest | None = None
    objective: Objective
    seed: int
    """The seed served: the one of the best validation accuracy."""
    evaluation: Evaluation
    """On the test split, at T = 1."""
    comparison: Comparison
    latency: tuple[Latency, ...]
    """Of the graph that is served, on the machine that exported."""
    onnx_largest_difference: float
    """Largest difference between the logits of `model.onnx` and PyTorch on held-out images."""
    graphs: GraphChoice | None = None
    """Which graph is served, and what it was chosen from. None where there was no choice: then it is
    `model.onnx`, or the graphs of an ensemble."""
    cascade: CascadeCurve | None = None
    """What it is worth together with its teacher, by the share of images that the teacher is asked about."""
    files: dict[str, BundleFile]

    @model_validator(mode="after")
    def _specialists_fit(self) -> "StudentCard":
        need_classes(self.classes, self.specialists)
        return self

    @model_validator(mode="after")
    def _served_file_listed(self) -> "StudentCard":
        if self.graphs is not None and self.graphs.file not in self.files:
            raise ValueError(f"the served graph {self.graphs.file!r} is none of the files")
        return self


class StudentView(Contract):
    """A student in a list."""

    version: str
    name: Name
    live: bool
    created_at: datetime
    job_id: str
    accuracy: float
    verdict: str
    parameters: int


class StudentList(Contract):
    """All students, newest first, and the version that answers predictions."""

    live: str | None
    students: tuple[StudentView, ...]


class LiveStudent(Contract):
    """`live.json`: which student answers; `previous` is the way back, the newest last."""

    version: str
    previous: tuple[str, ...] = ()
    promotion: int = Field(ge=1)
    """Counts promotions and rollbacks; a larger number replaces a smaller one."""
    changed_at: datetime

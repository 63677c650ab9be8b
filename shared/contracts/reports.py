"""Reports: what a finished job says about itself, as JSON; `distillation.report` writes the Markdown."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Contract, Digest
from shared.contracts.evaluation import Comparison, Evaluation
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.students import Latency


class EpochPoint(Contract):
    """One epoch of training: loss in nats an example, accuracies 0 to 1, seconds since training began."""

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float


class TrainingCurve(Contract):
    """How one net was trained. `arm` is `teacher`, `taught` or `untaught`."""

    arm: str
    seed: int
    best_epoch: int
    points: tuple[EpochPoint, ...]


class Cost(Contract):
    """What the job cost: seconds a stage, rows asked of the teacher, and where it ran."""

    seconds: dict[str, float]
    teacher_rows: int
    device: str
    threads: int
    torch: str
    imago: str


class TeacherReport(Contract):
    """The report of a job of kind `teacher`."""

    kind: Literal["teacher"] = "teacher"
    job_id: str
    created_at: datetime
    spec: TeacherSpec
    dataset_digest: Digest
    teacher_digest: Digest
    parameters: int
    evaluation: Evaluation
    curves: tuple[TrainingCurve, ...]
    cost: Cost


class DistillationReport(Contract):
    """The report of a job of kind `distillation`. Evaluations are on the test split at T = 1."""

    kind: Literal["distillation"] = "distillation"
    job_id: str
    created_at: datetime
    spec: DistillationSpec
    dataset_digest: Digest
    teacher_digest: Digest
    transfer_set_digest: Digest
    student_version: str
    teacher_parameters: int
    student_parameters: int
    teacher: Evaluation
    taught: Evaluation
    """The served seed."""
    untaught: Evaluation
    """The untaught twin of the same seed."""
    agreement: float
    """Share of test images on which the served student names the teacher's class."""
    comparison: Comparison
    latency: tuple[Latency, ...]
    teacher_latency_ms: float | None = None
    curves: tuple[TrainingCurve, ...]
    cost: Cost


Report = Annotated[TeacherReport | DistillationReport, Field(discriminator="kind")]

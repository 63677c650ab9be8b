"""Reports: what a finished job says about itself, as JSON; `distillation.reports` adds Markdown and plots."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.base import Contract, Digest, Name
from shared.contracts.evaluation import Comparison, Evaluation, NetFigures
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.students import Latency


class EpochPoint(Contract):
    """One epoch of training: loss in nats an example, accuracies 0 to 1, seconds since training began."""

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float


class TrainingCurve(Contract):
    """How one net was trained. `arm` is what the net is in its job, such as `taught` or `untaught`."""

    arm: str
    seed: int
    best_epoch: int
    points: tuple[EpochPoint, ...]


class Cost(Contract):
    """What the job cost: seconds a stage, rows asked of the teacher, and where it ran."""

    seconds: dict[str, float]
    teacher_rows: int
    """Views of images that the teacher was asked about in this job."""
    cached_rows: int = 0
    """Rows of the transfer set that another job had asked for before."""
    device: str
    threads: int
    torch: str
    imago: str


class Plot(Contract):
    """A drawing of a report: `<name>.png` and `<name>.svg` lie beside `report.md`."""

    name: Name
    title: str


REPORT_JSON: Final = "report.json"
REPORT_MD: Final = "report.md"


class JobReport(Contract):
    """What the reports of all kinds of job have in common; each kind adds its `spec` and its figures."""

    kind: str
    """A literal of each kind's own."""
    job_id: str
    created_at: datetime
    cost: Cost
    warnings: tuple[str, ...] = ()
    """What was noticed before training and ought to be known to whoever reads the figures."""
    plots: tuple[Plot, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The report's files, which `GET /v1/jobs/{id}/report/files/{name}` downloads."""
        drawn = (f"{plot.name}.{ending}" for plot in self.plots for ending in ("png", "svg"))
        return (REPORT_JSON, REPORT_MD, *drawn)


class TeacherReport(JobReport):
    """The report of a job of kind `teacher`."""

    kind: Literal["teacher"] = "teacher"
    spec: TeacherSpec
    dataset_digest: Digest
    teacher_digest: Digest
    parameters: int
    evaluation: Evaluation
    members: tuple[NetFigures, ...] = ()
    """Each net of the ensemble alone, on the test split."""
    curves: tuple[TrainingCurve, ...]


class PairCheck(Contract):
    """The teacher on the validation split before training, and what untaught students are known to reach."""

    images: int
    teacher_accuracy: float
    untaught_accuracy: float | None = None
    """The best validation accuracy of an untaught net of the same network on the same data, in the store."""
    untaught_job: str | None = None
    """The job that trained it."""


class RepairedNet(Contract):
    """Class biases that were added to one net's last layer, and the net on the test split without them."""

    arm: str
    seed: int
    biases: tuple[float, ...]
    """In the order of the classes, with zero mean."""
    before: NetFigures


class RepairReport(Contract):
    """How class biases were repaired, each net's by itself, taught and untaught alike."""

    source: Literal["unlabelled", "validation"]
    images: int
    """Whose mean softmax mass was matched."""
    shares: tuple[float, ...]
    """What it was matched to, a class."""
    nets: tuple[RepairedNet, ...]
    comparison_before: Comparison


class DistillationReport(JobReport):
    """The report of a job of kind `distillation`. Evaluations are on the test split at T = 1."""

    kind: Literal["distillation"] = "distillation"
    spec: DistillationSpec
    dataset_digest: Digest
    teacher_digest: Digest
    transfer_set_digest: Digest
    student_version: str
    teacher_parameters: int
    student_parameters: int
    student_bytes: int | None = None
    """Of the ONNX file that is served."""
    teacher: Evaluation
    taught: Evaluation
    """The served seed."""
    untaught: Evaluation
    """The untaught twin of the same seed."""
    agreement: float
    """Share of test images on which the served student names the teacher's class."""
    comparison: Comparison
    nets: tuple[NetFigures, ...] = ()
    """Every net, taught and untaught, on the test split."""
    repair: RepairReport | None = None
    pair: PairCheck | None = None
    latency: tuple[Latency, ...]
    teacher_latency_ms: float | None = None
    curves: tuple[TrainingCurve, ...]


Report = Annotated[TeacherReport | DistillationReport, Field(discriminator="kind")]
"""The report of any kind of job, told apart by its `kind`."""

"""Reports: what a finished job says about itself, as JSON; `distillation.reports` adds Markdown and plots."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.architectures import Architecture
from shared.contracts.base import Contract, Digest, Name
from shared.contracts.cascade import CascadeCurve
from shared.contracts.evaluation import Comparison, Evaluation, NetFigures
from shared.contracts.findings import Finding
from shared.contracts.served_graphs import GraphChoice
from shared.contracts.specs import (
    CodistillationSpec,
    DistillationSpec,
    MutualSpec,
    SelfDistillationSpec,
    SpecialistsSpec,
    SweepSpec,
    TeacherCheckSpec,
    TeacherImportSpec,
    TeacherSpec,
    TransferSetJobSpec,
)
from shared.contracts.students import Latency
from shared.contracts.succession import Succession
from shared.contracts.transfer_sets import TopKError, TransferSetCost, TransferSetSummary


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


class AskedTransferSet(Contract):
    """How a job came by its transfer set."""

    cost: TransferSetCost
    top_k_error: tuple[TopKError, ...] | None = None
    """By temperature; None where all logits are kept."""
    waited_share: float | None = None
    """Of the time that training took, what it waited for answers; None where all were there before."""


class Plot(Contract):
    """A drawing of a report: `<name>.png` and `<name>.svg` lie beside `report.md`."""

    name: Name
    title: str


REPORT_JSON: Final = "report.json"
REPORT_MD: Final = "report.md"


def file_names(plots: Iterable[Plot]) -> tuple[str, ...]:
    """Return the names of a report's files, given its plots."""
    return (REPORT_JSON, REPORT_MD, *(f"{plot.name}.{ending}" for plot in plots for ending in ("png", "svg")))


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
        return file_names(self.plots)


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


class TeacherCheckReport(JobReport):
    """The report of a job of kind `teacher_import` or `teacher_check`: a list to read from top to bottom.

    An import that fails a check leaves it, too: the teacher is not published then.
    """

    kind: Literal["teacher_check"] = "teacher_check"
    spec: Annotated[TeacherImportSpec | TeacherCheckSpec, Field(discriminator="kind")]
    teacher: Name
    teacher_digest: Digest
    dataset_digest: Digest | None
    findings: tuple[Finding, ...]
    images: int
    """How many images were asked about."""
    accuracy: float | None = None
    """On the labelled ones among them, of the validation split."""
    suggested_temperature: float | None = None
    """T at which its targets are soft enough to teach, by the rule of `shared.distillation.target_checks`."""


class TransferSetReport(JobReport):
    """The report of a job of kind `transfer_set`."""

    kind: Literal["transfer_set"] = "transfer_set"
    spec: TransferSetJobSpec
    dataset_digest: Digest
    teacher_digest: Digest
    transfer_set_digest: Digest
    images: int
    """Training images in the set; times the views they are its rows."""
    asked: AskedTransferSet
    summary: TransferSetSummary
    """As it lies beside the shards."""


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
    asked: AskedTransferSet | None = None
    student_version: str
    teacher_parameters: int | None
    """None where a server answers, whose numbers cannot be seen."""
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
    findings: tuple[Finding, ...] = ()
    """Of the checks of the teacher, before training."""
    latency: tuple[Latency, ...]
    graphs: GraphChoice | None = None
    """Which ONNX graph is served, and what it was chosen from; None where there was no choice."""
    teacher_latency_ms: float | None = None
    succession: Succession | None = None
    """Of a job of kind `redistillation`, which repeats another one's order."""
    cascade: CascadeCurve | None = None
    """The student with the teacher behind it; None of a report of an older version."""
    curves: tuple[TrainingCurve, ...]


class Divergence(Contract):
    """Where a loss was not finite any more: epoch and its step, both counted from 1."""

    epoch: int
    step: int | None
    """None where it was noticed between two epochs."""


class SweepTrial(Contract):
    """One point of a sweep, trained with each seed. Its value is the mean validation accuracy."""

    number: int
    temperature: float
    soft_weight: float
    hard_weight: float
    validation_accuracies: tuple[float, ...]
    """A seed each."""
    test_accuracies: tuple[float, ...]
    """For the report alone: nothing is chosen by them."""
    diverged: Divergence | None = None
    """The trial failed with one of its seeds; it has no accuracies then."""

    @property
    def validation_accuracy(self) -> float:
        """Mean over seeds; 0 where it diverged."""
        return sum(self.validation_accuracies) / max(1, len(self.validation_accuracies))


class SweptNetwork(Contract):
    """A network of a sweep: all its trials, its untaught twin, and the export of its best trial."""

    network: Architecture
    job_id: str
    """The child job that trained its best trial."""
    jobs: tuple[str, ...] = ()
    """All child jobs that trained its trials; the first one trained its untaught twins."""
    parameters: int
    trials: tuple[SweepTrial, ...]
    """Of the grid in the order of its points, of TPE one of each child job in turn."""
    best: int
    """Number of the trial of the highest mean validation accuracy."""
    untaught_validation_accuracies: tuple[float, ...]
    """Of the same net on hard labels alone, under the same budget and seeds."""
    untaught_test_accuracies: tuple[float, ...]
    seed: int
    """Of the best trial, the one of the best validation accuracy; it was exported."""
    onnx_bytes: int
    latency: tuple[Latency, ...]
    graphs: GraphChoice | None = None
    """Which ONNX graph is served, and what it was chosen from; None where there was no choice."""
    satisfies: bool
    """Whether it keeps to the constraint; True where there is none."""

    @property
    def best_trial(self) -> SweepTrial:
        """The trial that `best` names."""
        return next(trial for trial in self.trials if trial.number == self.best)


class SweepReport(JobReport):
    """The report of a job of kind `sweep`. Validation accuracies choose, test accuracies only report."""

    kind: Literal["sweep"] = "sweep"
    spec: SweepSpec
    dataset_digest: Digest
    teacher_digest: Digest
    transfer_set_digest: Digest
    asked: AskedTransferSet | None = None
    teacher_parameters: int | None
    teacher_validation_accuracy: float
    teacher: Evaluation
    """On the test split."""
    networks: tuple[SweptNetwork, ...]
    chosen: int | None
    """Place in `networks`; None where none keeps to the constraint, and then no student is published."""
    student_version: str | None = None
    taught: Evaluation | None = None
    """The published student on the test split."""
    untaught: Evaluation | None = None
    """Its untaught twin of the same seed."""
    agreement: float | None = None
    """Share of test images on which the published student names the teacher's class."""
    comparison: Comparison | None = None
    """Of the chosen network at its best trial with its untaught twin, over the seeds."""
    cascade: CascadeCurve | None = None
    """The published student with the teacher behind it."""
    curves: tuple[TrainingCurve, ...] = ()
    """Of the chosen network's best trial and its twin."""


class SpecialistFigures(Contract):
    """A set of classes and the specialists that were trained for it, one a seed."""

    classes: tuple[str, ...]
    share: float
    """s: of the labelled training images, those of its classes. Half of what a specialist saw is special."""
    correction: float
    """What was added to the logits of "not special" after training: log((1 - s) / s)."""
    jobs: tuple[str, ...]
    """The child job of each seed."""
    validation_accuracies: tuple[float | None, ...]
    """Of each seed, over its own classes and the dustbin, on validation images half of which are special."""
    best_epochs: tuple[int, ...]
    asked: int
    """Test images on which it is active."""


class CoverageRow(Contract):
    """Test images whose true class so many specialists cover (arXiv:1503.02531, table 4)."""

    covering: int
    or_more: bool = False
    """The last row lumps together what would be many."""
    examples: int
    generalist_correct: int
    changes: tuple[int, ...]
    """Of each seed: how many more of them generalist and specialists get right together."""

    @property
    def change(self) -> float:
        """Mean over seeds."""
        return sum(self.changes) / len(self.changes)

    @property
    def relative_change(self) -> float | None:
        """The mean change over what the generalist gets right; None where it gets nothing right."""
        return self.change / self.generalist_correct if self.generalist_correct else None


class SpecialistsReport(JobReport):
    """The report of a job of kind `specialists`. Evaluations are on the test split at T = 1."""

    kind: Literal["specialists"] = "specialists"
    spec: SpecialistsSpec
    dataset_digest: Digest
    generalist_digest: Digest
    transfer_set_digest: Digest
    asked: AskedTransferSet | None = None
    teacher_digest: Digest
    """Of generalist and specialists together, as a teacher."""
    student_version: str
    generalist_parameters: int
    parameters: int
    """Of all nets together."""
    seed: int
    """The one published: of the best validation accuracy."""
    generalist: Evaluation
    combined: Evaluation
    """Generalist and specialists of the published seed."""
    comparison: Comparison
    """Combined ("taught") minus generalist ("untaught"), over seeds. The generalist is the same in each."""
    coverage: tuple[CoverageRow, ...]
    specialists: tuple[SpecialistFigures, ...]
    latency: tuple[Latency, ...]
    generalist_latency: tuple[Latency, ...]
    """Of the generalist's graph alone."""
    curves: tuple[TrainingCurve, ...]
    """Of the published seed's specialists."""


class PeerReport(JobReport):
    """What kinds report whose nets have no teacher but themselves or each other. Test split, T = 1."""

    dataset_digest: Digest
    student_version: str
    parameters: int
    onnx_bytes: int
    seed: int
    """The one published: of the best validation accuracy."""
    taught: Evaluation
    untaught: Evaluation
    """The twin of the same seed: same first weights, hard labels alone."""
    comparison: Comparison
    nets: tuple[NetFigures, ...]
    """Every net that was trained; the published ones are of the arm `taught`."""
    latency: tuple[Latency, ...]
    graphs: GraphChoice | None = None
    """Which ONNX graph is served, and what it was chosen from; None where there was no choice."""
    curves: tuple[TrainingCurve, ...]


class SelfDistillationReport(PeerReport):
    """The report of a job of kind `self_distillation`; `taught` is the last generation."""

    kind: Literal["self_distillation"] = "self_distillation"
    spec: SelfDistillationSpec


class MutualReport(PeerReport):
    """The report of a job of kind `mutual`; `taught` is the first member of each cohort."""

    kind: Literal["mutual"] = "mutual"
    spec: MutualSpec


class ExchangeFigures(Contract):
    """What a member of a co-distilled cohort took of the others' copies while it trained with one seed."""

    member: int
    seed: int
    exchanges: int
    """Times it looked for copies, those of the burn-in left out."""
    found_none: int
    """Times when there was none of any other member."""
    copies: int
    """Taken in all."""
    mean_age_epochs: float | None
    """Own epoch less the copy's, mean over copies: below 0 where the others were ahead."""


class CodistillationReport(PeerReport):
    """The report of a job of kind `codistillation`; `taught` is the last member."""

    kind: Literal["codistillation"] = "codistillation"
    spec: CodistillationSpec
    members: tuple[str, ...]
    """The child jobs, in the order of the members."""
    exchanges: tuple[ExchangeFigures, ...]


Report = Annotated[
    TeacherReport
    | TeacherCheckReport
    | TransferSetReport
    | DistillationReport
    | SweepReport
    | SpecialistsReport
    | SelfDistillationReport
    | MutualReport
    | CodistillationReport,
    Field(discriminator="kind"),
]
"""The report of any kind of job, told apart by its `kind`."""

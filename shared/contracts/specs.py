"""What a job may ask for, a contract a kind; those below the line are made by other jobs as children."""

from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.base import Contract, Digest, Name, Temperature
from shared.contracts.teacher_sources import TeacherSource
from shared.contracts.teachers import Precision
from shared.contracts.training import (
    Asking,
    BiasRepair,
    Budget,
    Objective,
    PairedSeeds,
    Regularisation,
    Seed,
    Seeds,
    StudentSpec,
    TransferSetSpec,
)

PAPER_REGULARISATION = Regularisation(input_dropout=0.2, hidden_dropout=0.5, max_norm=3.0, jitter_px=2)
"""Of the cumbersome MNIST net in arXiv:1503.02531, section 3."""


class TeacherSpec(Contract):
    """Train a cumbersome model, or an ensemble of it with a seed a member, the normal way."""

    kind: Literal["teacher"] = "teacher"
    name: Name
    dataset: Name
    architecture: Architecture = Mlp(hidden_units=(1200, 1200))
    regularisation: Regularisation = PAPER_REGULARISATION
    budget: Budget = Budget(epochs=60)
    seeds: Seeds = (0,)
    """One net a seed; more than one make an ensemble."""
    merge: Literal["geometric", "arithmetic"] = "geometric"
    """How an ensemble answers: mean of logits, or mean of probabilities at the temperature asked for."""
    precision: Precision = "float32"
    """Of its products when it answers; `budget.precision` is for its training."""


class DistillationSpec(Contract):
    """Distil a student from a teacher, and train its untaught twin under the same budget and seeds."""

    kind: Literal["distillation"] = "distillation"
    name: Name
    """What the student is called."""
    teacher: Name
    dataset: Name
    student: StudentSpec = StudentSpec()
    objective: Objective = Objective()
    transfer_set: TransferSetSpec = TransferSetSpec()
    asking: Asking = Asking()
    bias_repair: BiasRepair | None = None
    budget: Budget = Budget()
    seeds: PairedSeeds = (0, 1, 2)
    """Taught and untaught nets are paired by seed: same first weights, same order of batches."""


class SelfDistillationSpec(Contract):
    """Train a net, then teach the same net by it, generation after generation (arXiv:1805.04770).

    Generation 0 learns from hard labels and is the untaught twin; generation k is taught by k - 1 of its
    seed. The last generation becomes the student.
    """

    kind: Literal["self_distillation"] = "self_distillation"
    name: Name
    dataset: Name
    network: Architecture = Mlp(hidden_units=(800, 800))
    regularisation: Regularisation = Regularisation()
    generations: int = Field(default=2, ge=1, le=10)
    """After generation 0."""
    objective: Objective = Objective(temperature=4.0, soft_weight=0.5, hard_weight=0.5)
    transfer_set: TransferSetSpec = TransferSetSpec()
    budget: Budget = Budget()
    seeds: PairedSeeds = (0, 1, 2)


class MutualSpec(Contract):
    """Train a cohort whose members teach each other at every step (Zhang et al. 2018, arXiv:1706.00384).

    Each member's loss is the hard labels plus the mean over the others of the KL from them to it, at T. A
    cohort a seed; its members differ in their first weights. The untaught twin is a net trained alone.
    """

    kind: Literal["mutual"] = "mutual"
    name: Name
    dataset: Name
    network: Architecture = Mlp(hidden_units=(800, 800))
    regularisation: Regularisation = Regularisation()
    members: int = Field(default=2, ge=2, le=16)
    temperature: Temperature = 1.0
    soft_weight: float = Field(default=1.0, gt=0)
    hard_weight: float = Field(default=1.0, gt=0)
    """Without hard labels the members would learn to agree, and nothing of the classes."""
    budget: Budget = Budget()
    seeds: PairedSeeds = (0, 1, 2)


class CodistillationSpec(Contract):
    """Train the members of a cohort on several workers; each is taught by stale copies of the others.

    Members are jobs of their own. Every `exchange_epochs` each leaves a copy of its weights in the artefact
    store and takes the newest of the others', as many as there are; nobody waits (Anil et al. 2018,
    arXiv:1804.03235). So a run does not repeat bit for bit.
    """

    kind: Literal["codistillation"] = "codistillation"
    name: Name
    dataset: Name
    network: Architecture = Mlp(hidden_units=(800, 800))
    regularisation: Regularisation = Regularisation()
    members: int = Field(default=2, ge=2, le=16)
    exchange_epochs: int = Field(default=1, ge=1)
    burn_in_epochs: int = Field(default=1, ge=0)
    """Epochs on hard labels alone before the others' copies count."""
    temperature: Temperature = 1.0
    soft_weight: float = Field(default=1.0, gt=0)
    hard_weight: float = Field(default=1.0, gt=0)
    """Without hard labels the members would learn to agree, and nothing of the classes."""
    budget: Budget = Budget()
    seeds: PairedSeeds = (0, 1, 2)


class SpecialistPlan(Contract):
    """How the sets of confusable classes are found (arXiv:1503.02531, section 5.3).

    On-line K-means over the columns of the covariance matrix of the generalist's predictions on the training
    images; each set takes the `size` classes nearest to its centre, so sets may overlap.
    """

    sets: int = Field(default=8, ge=1, le=1000)
    size: int = Field(default=10, ge=1, le=10_000)
    """Classes a set."""
    seed: Seed = 0
    classes: tuple[tuple[str, ...], ...] | None = None
    """The sets themselves, in place of finding them; `sets` and `size` are then not used."""


class SpecialistTraining(Contract):
    """How a specialist is trained (arXiv:1503.02531, sections 5.2 and 6.1)."""

    budget: Budget = Budget(epochs=10, learning_rate=3e-4)
    regularisation: Regularisation = Regularisation()
    rest: Literal["dustbin", "soft_targets"] = "dustbin"
    """What stands for all other classes: one dustbin class, or the generalist's soft targets over the classes
    that are not special, for the images that are not (section 6.1). The latter are taken at T = 1 and every
    image weighs the same, as hard targets of special images and soft ones of the others would not add up
    otherwise; so weights and temperature are not used then."""
    soft_weight: float = Field(default=0.5, ge=0)
    """Of the generalist's soft targets over the special classes and the dustbin, shifted to the resampled
    class shares; 0 leaves them out. They keep a specialist from overfitting."""
    hard_weight: float = Field(default=0.5, ge=0)
    temperature: Temperature = 2.0


class SpecialistsSpec(Contract):
    """Train specialists for a generalist and publish both together, as a student and as a teacher.

    Each specialist is a job of its own, so they spread over workers.
    """

    kind: Literal["specialists"] = "specialists"
    name: Name
    """Of the student and of the teacher that the ensemble becomes."""
    generalist: Name
    """A teacher of one net."""
    dataset: Name
    plan: SpecialistPlan = SpecialistPlan()
    training: SpecialistTraining = SpecialistTraining()
    transfer_set: TransferSetSpec = TransferSetSpec()
    """The views on which the generalist is asked and specialists are trained: jitter and flips go here."""
    asking: Asking = Asking()
    top_n: int = Field(default=1, ge=1, le=100)
    """Specialists that cover any of the generalist's top n classes are asked."""
    seeds: PairedSeeds = (0, 1, 2)
    """An ensemble a seed; the one of the best validation accuracy is published."""


class SweepConstraint(Contract):
    """The smallest student within so many points of the teacher's accuracy and so many milliseconds."""

    within_points: float | None = Field(default=None, ge=0, le=100)
    """Percentage points of validation accuracy below the teacher's."""
    p50_ms: float | None = Field(default=None, gt=0)
    """Median of one in-process call on the machine that exports."""


class FloatRange(Contract):
    """Numbers to choose from: listed, or between two bounds."""

    values: tuple[float, ...] | None = Field(default=None, max_length=1000)
    low: float | None = None
    high: float | None = None
    log: bool = False


class SweepSpec(Contract):
    """Look for temperature, weights and width on one transfer set; the teacher is asked once.

    Trials are kept by Optuna on the project's Redis and spread over workers: a child job for each five trials
    of a network, at most eight a network, each of which trains its students together. A trial whose loss is
    not finite is reported as diverged, and the others go on.
    """

    kind: Literal["sweep"] = "sweep"
    name: Name
    teacher: Name
    dataset: Name
    networks: tuple[Architecture, ...] = Field(
        default=(Mlp(hidden_units=(800, 800)),), min_length=1, max_length=64
    )
    temperatures: FloatRange = FloatRange(values=(1.0, 2.0, 4.0, 8.0, 20.0))
    soft_weights: FloatRange = FloatRange(values=(1.0,))
    hard_weights: FloatRange = FloatRange(values=(0.0,))
    sampler: Literal["grid", "tpe"] = "grid"
    trials: int = Field(default=20, ge=1, le=10_000)
    """A network's. A grid takes all its points, and is refused where they are more than these."""
    transfer_set: TransferSetSpec = TransferSetSpec()
    asking: Asking = Asking()
    budget: Budget = Budget()
    seeds: PairedSeeds = (0, 1, 2)
    """Each trial is trained with each seed; its value is the mean validation accuracy."""
    constraint: SweepConstraint = SweepConstraint()


class RedistillationSpec(Contract):
    """Distil a student again, on what it learned from and on images that gateways have kept since.

    The kept images are frozen as a dataset, the order of the student's own job is repeated on it, and the new
    student is compared with the old one on the same validation images.
    """

    kind: Literal["redistillation"] = "redistillation"
    name: Name
    """What the new student is called."""
    collection: Name
    """Of the kept images."""
    dataset: Name
    """What the frozen dataset is called: the base's images and labels, and the kept images without any."""
    student: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$")
    """Version of the student whose order is repeated; None is the one that is live when the job begins."""
    promote: Literal["if_better", "never"] = "if_better"
    """`if_better` makes the new student live where it beats the live one on the validation images."""
    budget: Budget | None = None
    """In place of the order's own."""
    seeds: PairedSeeds | None = None
    """In place of the order's own."""


class TeacherImportSpec(Contract):
    """Take a model that was trained elsewhere as a teacher: read, check, publish."""

    kind: Literal["teacher_import"] = "teacher_import"
    name: Name
    source: TeacherSource
    dataset: Name | None = None
    """Whose classes it must have, and on whose labelled images it is tried."""
    claimed_accuracy: float | None = Field(default=None, ge=0, le=1)
    """What its owner says it gets right; the check compares."""


class TeacherCheckSpec(Contract):
    """Try a teacher on a dataset before anything is asked of it at length; makes a report, nothing else."""

    kind: Literal["teacher_check"] = "teacher_check"
    name: Name
    """Of the teacher."""
    dataset: Name
    claimed_accuracy: float | None = Field(default=None, ge=0, le=1)


class TransferSetJobSpec(Contract):
    """Build a transfer set and nothing else; later jobs that want the same one find it."""

    kind: Literal["transfer_set"] = "transfer_set"
    name: Name
    """Of the job, as it is listed."""
    teacher: Name
    dataset: Name
    transfer_set: TransferSetSpec = TransferSetSpec()
    asking: Asking = Asking()
    temperature: Temperature = 1.0
    """At which a teacher is asked whose logits do not serve any T; the others are asked at 1."""


# --- children of other jobs --------------------------------------------------------------------------------


class SpecialistSpec(Contract):
    """Train one specialist: a net over a set of classes and a dustbin, or over all classes (section 6.1)."""

    kind: Literal["specialist"] = "specialist"
    name: Name
    generalist: Name
    generalist_digest: Digest
    dataset: Name
    classes: tuple[str, ...] = Field(min_length=1)
    training: SpecialistTraining = SpecialistTraining()
    transfer_set: TransferSetSpec = TransferSetSpec()
    seed: Seed = 0


class CodistillationMemberSpec(Contract):
    """Train one member of a co-distilled cohort."""

    kind: Literal["codistillation_member"] = "codistillation_member"
    name: Name
    dataset: Name
    cohort: str
    """Where the copies are exchanged in the artefact store: the id of the parent job."""
    member: int = Field(ge=0)
    order: CodistillationSpec


class TransferSetShardsSpec(Contract):
    """Ask for some of the shards of a transfer set."""

    kind: Literal["transfer_set_shards"] = "transfer_set_shards"
    name: Name
    teacher: Name
    teacher_digest: Digest
    dataset: Name
    transfer_set: TransferSetSpec
    temperature: Temperature = 1.0
    shards: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Their numbers: a part of those that were missing when the parent looked."""


class SweepTrialsSpec(Contract):
    """Train a part of the trials of one network of a sweep."""

    kind: Literal["sweep_trials"] = "sweep_trials"
    name: Name
    dataset: Name
    study: str
    """Name of the Optuna study: the id of the parent job and the network's place in it. Parts share it."""
    part: int = Field(default=0, ge=0)
    """Which part; the first one trains the untaught twins as well."""
    parts: int = Field(default=1, ge=1)
    """Child jobs that share the network's trials."""
    transfer_set: Digest
    """Of the transfer set that the parent built; the teacher is asked nothing more."""
    network: Architecture
    order: SweepSpec


JobSpec = Annotated[
    TeacherSpec
    | DistillationSpec
    | SelfDistillationSpec
    | MutualSpec
    | CodistillationSpec
    | SpecialistsSpec
    | SweepSpec
    | RedistillationSpec
    | TeacherImportSpec
    | TeacherCheckSpec
    | TransferSetJobSpec
    | SpecialistSpec
    | CodistillationMemberSpec
    | SweepTrialsSpec
    | TransferSetShardsSpec,
    Field(discriminator="kind"),
]

JobKind = Literal[
    "teacher",
    "distillation",
    "self_distillation",
    "mutual",
    "codistillation",
    "specialists",
    "sweep",
    "redistillation",
    "teacher_import",
    "teacher_check",
    "transfer_set",
    "specialist",
    "codistillation_member",
    "sweep_trials",
    "transfer_set_shards",
]

MADE_BY: Final[dict[str, str]] = {
    "specialist": "specialists",
    "codistillation_member": "codistillation",
    "sweep_trials": "sweep",
    "transfer_set_shards": "transfer_set",
}
"""The kinds that nobody submits, and the kind of job that makes each as its children. `transfer_set_shards`
are made by every kind that asks a teacher, too."""

"""Jobs: what may be asked for, the words for how it goes, what is answered. Arrows: `shared.jobs.states`."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.base import Classes, Contract, Digest, Name, Temperature, refuse
from shared.errors import InvalidWeights


class JobState(StrEnum):
    """Where a job is; `succeeded`, `failed` and `cancelled` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Stage(StrEnum):
    """The stages of a job, in this order; a teacher job has no transfer set."""

    CHECK = "check"
    TRANSFER_SET = "transfer_set"
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"
    REPORT = "report"


# --- what is asked for -------------------------------------------------------------------------------------

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Budget(Contract):
    """How long and how fast a net is trained; the same for the student and its untaught twin."""

    epochs: int = Field(default=20, ge=1, le=10_000)
    batch_size: int = Field(default=128, ge=1, le=65_536)
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, le=100)
    """The rate at the start; it falls to 0 along a cosine over the epochs."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD (Nesterov); Adam ignores it."""


class Regularisation(Contract):
    """What keeps a cumbersome net from overfitting (arXiv:1503.02531, section 3)."""

    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of a hidden unit's incoming weights."""
    jitter_px: int = Field(default=0, ge=0, le=64)
    """Each image is shifted by up to this many pixels in each direction, anew each epoch."""


class TeacherSpec(Contract):
    """Train a cumbersome model, or an ensemble of it with a seed a member, the normal way."""

    kind: Literal["teacher"] = "teacher"
    name: Name
    dataset: Name
    architecture: Architecture = Mlp(hidden_units=(1200, 1200))
    regularisation: Regularisation = Regularisation(
        input_dropout=0.2, hidden_dropout=0.5, max_norm=3.0, jitter_px=2
    )
    budget: Budget = Budget(epochs=60)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, max_length=32)
    """One net a seed; more than one make an ensemble."""
    merge: Literal["geometric", "arithmetic"] = "geometric"
    """How an ensemble answers: mean of logits, or mean of probabilities at the temperature asked for."""


class Objective(Contract):
    """Soft targets at T (T² times the mean KL), plus hard labels at T = 1; arXiv:1503.02531, section 2."""

    temperature: Temperature = 20.0
    # NaN and infinity pass the field so that the validator below refuses them by their own code.
    soft_weight: float = Field(default=1.0, allow_inf_nan=True)
    hard_weight: float = Field(default=0.0, allow_inf_nan=True)

    @model_validator(mode="after")
    def _weights_make_sense(self) -> "Objective":
        weights = (self.soft_weight, self.hard_weight)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise refuse(InvalidWeights(*weights))
        return self


class TransferSetSpec(Contract):
    """On which views of the dataset's images the teacher is asked. View 0 is always the image as it is."""

    views: int = Field(default=1, ge=1, le=1000)
    jitter_px: int = Field(default=0, ge=0, le=64)
    seed: Seed = 0


class StudentSpec(Contract):
    """The net to be taught. Where `classes` is given, it must equal the teacher's."""

    network: Architecture = Mlp(hidden_units=(800, 800))
    classes: Classes | None = None


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
    budget: Budget = Budget()
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=2, max_length=32)
    """Taught and untaught nets are paired by seed: same first weights, same order of batches."""


JobSpec = Annotated[TeacherSpec | DistillationSpec, Field(discriminator="kind")]


# --- how it goes -------------------------------------------------------------------------------------------


class Progress(Contract):
    """How far a stage is. `eta_s` is the estimated time to the end of the stage in seconds."""

    stage: Stage
    done: int
    total: int
    unit: str
    eta_s: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class Failure(Contract):
    """Why a job failed: the stable code, the words, what to do."""

    code: str
    detail: str
    remedy: str = ""


class JobResult(Contract):
    """What a succeeded job made."""

    teacher: Name | None = None
    teacher_digest: Digest | None = None
    student: str | None = None
    """Version of the student; `GET /v1/students/{version}` shows its card."""
    verdict: str | None = None


class JobView(Contract):
    """A job as the API answers it. Times are UTC; `epoch` counts how often a worker took the job's lease."""

    id: str
    state: JobState
    spec: JobSpec
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    epoch: int = 0
    cancel_requested: bool = False
    progress: Progress | None = None
    failure: Failure | None = None
    result: JobResult | None = None


class JobPage(Contract):
    """One page of jobs, newest first; `next_cursor` is null on the last."""

    jobs: tuple[JobView, ...]
    next_cursor: str | None = None


class JobEventKind(StrEnum):
    """What an event tells: a new state, a stage's progress, a note in words."""

    STATE = "state"
    PROGRESS = "progress"
    NOTE = "note"


class JobEvent(Contract):
    """Something that happened to a job. `id` orders events and resumes a stream (Last-Event-ID)."""

    id: str
    kind: JobEventKind
    at: datetime
    data: dict[str, JsonValue]

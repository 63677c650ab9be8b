"""Jobs: the words for how one goes, and what is answered about it. What may be asked for: `contracts.specs`.

Which state may follow which: `shared.jobs.states`.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import Field, JsonValue

from shared.contracts.base import Contract, Digest, Name
from shared.contracts.specs import JobKind, JobSpec


class JobState(StrEnum):
    """Where a job is; `succeeded`, `failed` and `cancelled` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """For its child jobs; no worker holds it."""
    PAUSED = "paused"
    """Until it is resumed; no worker holds it."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Stage(StrEnum):
    """The stages of a job, in this order; no kind of job has all of them."""

    CHECK = "check"
    FREEZE = "freeze"
    """Of kept images, as a dataset."""
    TRANSFER_SET = "transfer_set"
    PLAN = "plan"
    """What the child jobs are to do: sets of classes, trials, members."""
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"
    REPORT = "report"
    SUCCESSION = "succession"
    """The new student is compared with the old one, and promoted where it is better."""


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
    transfer_set: Digest | None = None
    """Digest of the transfer set, of a job that makes nothing else."""
    artefact: str | None = None
    """What a child job leaves for its parent: the name of a folder in its own part of the store."""


class ChildJob(Contract):
    """How a child job ended, as its parent reads it."""

    id: str
    kind: JobKind
    state: JobState
    result: JobResult | None = None
    """Of a child that succeeded."""
    failure: Failure | None = None


MOST_CHILDREN: Final = 1000
"""That one job may make: a child's id is its parent's and three digits."""


MOST_UNFINISHED: Final = 10_000
"""Jobs of one owner that have not ended; with more, nothing new is taken from them."""


class JobView(Contract):
    """A job as the API answers it. Times are UTC; `epoch` counts how often a worker took the job's lease."""

    id: str
    state: JobState
    spec: JobSpec
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    parent: str | None = None
    """The job that made this one."""
    owner: Name | None = None
    """Whose it is, and its children's; None where it was submitted while keys were switched off."""
    children: tuple[str, ...] = ()
    """The jobs that this one made, in the order of its plan."""
    attempts: int = 0
    epoch: int = 0
    cancel_requested: bool = False
    pause_requested: bool = False
    """Its worker was asked to make a checkpoint and leave; then it is `paused`."""
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

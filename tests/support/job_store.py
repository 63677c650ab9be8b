"""What tests of job stores do again and again: submit a job, take its lease, read its states."""

from shared.contracts.jobs import Failure, JobEventKind, JobResult, Progress, Stage
from shared.contracts.specs import JobSpec
from shared.jobs.ports import Grant, JobStore
from shared.jobs.service import new_job_id
from tests.support.jobs import teacher_spec

LONG_S = 60.0
SHORT_S = 0.03
RESULT = JobResult(teacher="big", teacher_digest="0" * 64)
FAILURE = Failure(code="diverged", detail="the loss is nan", remedy="Lower the learning rate.")
PROGRESS = Progress(stage=Stage.TRAIN, done=3, total=10, unit="epochs", eta_s=2.5, metrics={"loss": 0.5})


def submitted(store: JobStore, spec: JobSpec | None = None) -> str:
    job, created = store.submit(new_job_id(), spec or teacher_spec())
    assert created
    return job.id


def running(store: JobStore, lease_s: float = LONG_S, job_id: str | None = None) -> Grant:
    grant = store.acquire(job_id or submitted(store), lease_s, 3)
    assert grant is not None
    return grant


def states(store: JobStore, job_id: str) -> list[object]:
    return [e.data["state"] for e in store.events(job_id) if e.kind is JobEventKind.STATE]

"""Jobs: submit, look, list, cancel, pause, resume. `events.py` streams one, `reports.py` has its report."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Response, status
from fastapi.openapi import models as openapi_models

from services.gateway import examples
from services.gateway.errors import STATUSES, TOO_MUCH, UNREADABLE
from services.gateway.state import CallerDep, CatalogueDep, GatewayDep, JobsDep
from services.gateway.uploads.teachers import check_without_files
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import ScopedRoute, needs
from shared.contracts.jobs import JobPage, JobState, JobView
from shared.contracts.keys import Scope
from shared.contracts.specs import JobKind, JobSpec, RedistillationSpec, TeacherImportSpec
from shared.errors import (
    ArchitectureInvalid,
    BodyTooLarge,
    CannotRedistil,
    ClassMismatch,
    DatasetExists,
    DatasetNotFound,
    DecoupledNeedsClasses,
    EmptyTransferSet,
    IdempotencyConflict,
    IncomingNotFound,
    InputMismatch,
    InvalidDataset,
    InvalidEnsemble,
    InvalidModelFiles,
    InvalidPrior,
    InvalidRange,
    InvalidSpecialistPlan,
    InvalidTemperature,
    InvalidWeights,
    JobAlreadyFinal,
    JobNotFound,
    JobNotPaused,
    JobStoreUnavailable,
    KeptNotFound,
    LabelsMissing,
    MadeByAnotherJob,
    NoLabelsLeft,
    NoLiveStudent,
    OipHostNotAllowed,
    OmitAndOnly,
    PickleRefused,
    StudentNotFound,
    TeacherDoesNotTemper,
    TeacherExists,
    TeacherNotFound,
    TeacherNotLoadable,
    TooManyChildren,
    TooManyTrials,
    UnknownArchitecture,
    UnknownClass,
    UnknownLayer,
    ViewsBelongToTransferSet,
)

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], dependencies=[needs(Scope.JOBS)], route_class=ScopedRoute
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body within 24 hours answers with the same job (200).",
    ),
]


_EXAMPLES: dict[str, openapi_models.Example] = {
    "teacher": {
        "summary": "Train a teacher",
        "value": examples.TEACHER_SPEC.model_dump(mode="json"),
    },
    "distillation": {
        "summary": "Distil a student",
        "value": examples.DISTILLATION_SPEC.model_dump(mode="json"),
    },
    "specialists": {
        "summary": "Train specialists, a child job each",
        "value": examples.SPECIALISTS_SPEC.model_dump(mode="json"),
    },
}


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Submit a job",
    responses={
        201: examples.located(examples.JOB),
        400: UNREADABLE,
        200: {"model": JobView, "description": "The job that this Idempotency-Key made before"},
        **documented(
            STATUSES,
            InvalidTemperature,
            InvalidWeights,
            ArchitectureInvalid,
            UnknownArchitecture,
            ClassMismatch,
            InputMismatch,
            InvalidDataset,
            LabelsMissing,
            DecoupledNeedsClasses,
            EmptyTransferSet,
            InvalidEnsemble,
            InvalidModelFiles,
            InvalidPrior,
            InvalidRange,
            InvalidSpecialistPlan,
            MadeByAnotherJob,
            NoLabelsLeft,
            OmitAndOnly,
            TeacherDoesNotTemper,
            TeacherNotLoadable,
            TooManyChildren,
            TooManyTrials,
            UnknownClass,
            UnknownLayer,
            ViewsBelongToTransferSet,
            OipHostNotAllowed,
            PickleRefused,
            TeacherNotFound,
            TeacherExists,
            IncomingNotFound,
            DatasetNotFound,
            StudentNotFound,
            KeptNotFound,
            CannotRedistil,
            DatasetExists,
            NoLiveStudent,
            IdempotencyConflict,
            BodyTooLarge,
            *TOO_MUCH,
            JobStoreUnavailable,
        ),
    },
)
def submit(
    spec: Annotated[
        JobSpec,
        Body(openapi_examples=_EXAMPLES),
    ],
    gateway: GatewayDep,
    caller: CallerDep,
    catalogue: CatalogueDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Check and queue a job. It costs nothing where it cannot end well: the refusal says why."""
    if isinstance(spec, RedistillationSpec):
        caller.need(Scope.ADMIN)  # it promotes
    if isinstance(spec, TeacherImportSpec):
        caller.need(Scope.UPLOAD)
        check_without_files(spec, gateway, catalogue)
    job, created = gateway.jobs.submit(spec, idempotency_key, caller.owner, catalogue, caller.key_id)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not created:
        response.status_code = status.HTTP_200_OK
    return job


@router.get(
    "",
    summary="List jobs, newest first",
    responses={200: examples.answers(examples.JOBS), **documented(STATUSES, JobStoreUnavailable)},
)
def list_jobs(
    jobs: JobsDep,
    caller: CallerDep,
    state: JobState | None = None,
    kind: JobKind | None = None,
    parent: Annotated[str | None, Query(description="Only the child jobs that this job made")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next_cursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> JobPage:
    """Return one page of jobs, of one state, kind or parent where asked for. A key sees its owner's."""
    return jobs.list(state, kind, cursor, limit, parent, caller.confined_to)


@router.get(
    "/{job_id}",
    summary="A job",
    responses={
        200: examples.answers(examples.JOB),
        **documented(STATUSES, JobNotFound, JobStoreUnavailable),
    },
)
def show(job_id: str, jobs: JobsDep, caller: CallerDep) -> JobView:
    """Return the job as it is now."""
    return jobs.get(job_id, caller.confined_to)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses={
        200: examples.answers(examples.JOB),
        **documented(STATUSES, JobNotFound, JobAlreadyFinal, JobStoreUnavailable),
    },
)
def cancel(job_id: str, jobs: JobsDep, caller: CallerDep) -> JobView:
    """Cancel a job and its child jobs: at once where no worker runs them, otherwise within seconds."""
    return jobs.cancel(job_id, caller.confined_to)


@router.post(
    "/{job_id}/pause",
    summary="Pause a job",
    responses={
        200: examples.answers(examples.JOB),
        **documented(STATUSES, JobNotFound, JobAlreadyFinal, JobStoreUnavailable),
    },
)
def pause(job_id: str, jobs: JobsDep, caller: CallerDep) -> JobView:
    """Pause a job and its child jobs: at once where no worker runs them, otherwise within seconds.

    What runs makes a checkpoint and leaves its worker to other jobs. No attempt is spent.
    """
    return jobs.pause(job_id, caller.confined_to)


@router.post(
    "/{job_id}/resume",
    summary="Resume a paused job",
    responses={
        200: examples.answers(examples.JOB),
        **documented(STATUSES, JobNotFound, JobNotPaused, JobStoreUnavailable),
    },
)
def resume(job_id: str, jobs: JobsDep, caller: CallerDep) -> JobView:
    """Queue a paused job again, with its child jobs; each goes on from its last checkpoint."""
    return jobs.resume(job_id, caller.confined_to)

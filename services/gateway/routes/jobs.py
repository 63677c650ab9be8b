"""Jobs: submit, look, list, cancel, read the report. What happens to one is streamed by `events.py`."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Header, Query, Response, status
from fastapi.openapi import models as openapi_models
from starlette.responses import FileResponse

from services.gateway import examples
from services.gateway.errors import STATUSES, UNREADABLE
from services.gateway.state import GatewayDep, JobsDep
from shared.adapters.web.problems import documented
from shared.contracts.jobs import JobPage, JobState, JobView
from shared.contracts.reports import DistillationReport, TeacherReport
from shared.contracts.specs import JobSpec
from shared.errors import (
    BodyTooLarge,
    ClassMismatch,
    DatasetNotFound,
    IdempotencyConflict,
    InputMismatch,
    InvalidDataset,
    InvalidTemperature,
    InvalidWeights,
    JobAlreadyFinal,
    JobNotFound,
    JobStoreUnavailable,
    LabelsMissing,
    NotAcceptable,
    ReportNotReady,
    TeacherNotFound,
    UnknownArchitecture,
)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


_EXAMPLES: dict[str, openapi_models.Example] = {
    "teacher": {
        "summary": "Train a teacher",
        "value": examples.TEACHER_SPEC.model_dump(mode="json"),
    },
    "distillation": {
        "summary": "Distil a student",
        "value": examples.DISTILLATION_SPEC.model_dump(mode="json"),
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
            UnknownArchitecture,
            ClassMismatch,
            InputMismatch,
            InvalidDataset,
            LabelsMissing,
            TeacherNotFound,
            DatasetNotFound,
            IdempotencyConflict,
            BodyTooLarge,
            JobStoreUnavailable,
        ),
    },
)
def submit(
    spec: Annotated[
        JobSpec,
        Body(openapi_examples=_EXAMPLES),
    ],
    jobs: JobsDep,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="The same key with the same body within 24 hours answers with the same job (200).",
        ),
    ] = None,
) -> JobView:
    """Check and queue a job. It costs nothing where it cannot end well: the refusal says why."""
    job, created = jobs.submit(spec, idempotency_key)
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
    state: JobState | None = None,
    kind: Literal["teacher", "distillation"] | None = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next_cursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> JobPage:
    """Return one page of jobs, of one state or kind where asked for."""
    return jobs.list(state, kind, cursor, limit)


@router.get(
    "/{job_id}",
    summary="A job",
    responses={
        200: examples.answers(examples.JOB),
        **documented(STATUSES, JobNotFound, JobStoreUnavailable),
    },
)
def show(job_id: str, jobs: JobsDep) -> JobView:
    """Return the job as it is now."""
    return jobs.get(job_id)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses={
        200: examples.answers(examples.JOB),
        **documented(STATUSES, JobNotFound, JobAlreadyFinal, JobStoreUnavailable),
    },
)
def cancel(job_id: str, jobs: JobsDep) -> JobView:
    """Cancel a waiting job at once and a running one within seconds; asking again changes nothing."""
    return jobs.cancel(job_id)


@router.get(
    "/{job_id}/report",
    summary="The report of a job that succeeded",
    response_model=TeacherReport | DistillationReport,
    responses={
        200: {"content": {"text/markdown": {"schema": {"type": "string"}}}},
        **documented(STATUSES, JobNotFound, ReportNotReady, NotAcceptable, JobStoreUnavailable),
    },
)
def report(
    job_id: str,
    gateway: GatewayDep,
    accept: Annotated[str, Header(description="`application/json` or `text/markdown`")] = "*/*",
) -> Response:
    """Return the report as JSON, or as Markdown where `Accept` prefers it."""
    media_type = _preferred(accept)
    job = gateway.jobs.get(job_id)
    files = gateway.store.job(job.id)
    path = files.report_json if media_type == "application/json" else files.report_md
    if not path.is_file():
        raise ReportNotReady(job.id, job.state)
    return FileResponse(path, media_type=media_type, headers={"Vary": "Accept"})


def _preferred(accept: str) -> str:
    """Return the media type of ours that the header likes best; JSON where it likes both the same."""
    best, chosen = 0.0, ""
    for media_type, names in _REPORT_TYPES.items():
        liked = max((q for name, q in _qualities(accept) if name in names), default=0.0)
        if liked > best:
            best, chosen = liked, media_type
    if not chosen:
        raise NotAcceptable(accept, tuple(_REPORT_TYPES))
    return chosen


def _qualities(accept: str) -> Iterator[tuple[str, float]]:
    """Read an Accept header: each media range and its q; one that is no number counts as 1."""
    for wanted in accept.lower().split(","):
        name, *parameters = (part.strip() for part in wanted.split(";"))
        q = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        yield name, float(q) if _Q.fullmatch(q) else 1.0


_REPORT_TYPES = {
    "application/json": ("application/json", "application/*", "*/*"),
    "text/markdown": ("text/markdown", "text/*", "*/*"),
}
_Q = re.compile(r"[01](\.[0-9]{0,3})?")

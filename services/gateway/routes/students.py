"""Students: their cards and files, and which of them answers predictions."""

from fastapi import APIRouter, status
from starlette.responses import FileResponse

from services.gateway import examples
from services.gateway.catalogue import StoreCatalogue
from services.gateway.errors import STATUSES
from services.gateway.state import CallerDep, CatalogueDep, GatewayDep
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs
from shared.contracts.keys import Scope
from shared.contracts.students import LiveStudent, StudentCard, StudentList, StudentView
from shared.errors import (
    FileNotInBundle,
    JobStoreUnavailable,
    NoMeasuredGain,
    NothingToRollBack,
    StoreFull,
    StudentInUse,
    StudentNotFound,
    StudentUnusable,
)
from shared.jobs.in_use import jobs_that_name_student, told

router = APIRouter(prefix="/v1/students", tags=["students"])

_MOST_IDS = 12
"""Of jobs, that a refusal names."""


@router.get(
    "",
    dependencies=[needs(Scope.JOBS)],
    summary="List students, newest first",
    responses={200: examples.answers(examples.STUDENTS)},
)
def list_students(gateway: GatewayDep, catalogue: CatalogueDep) -> StudentList:
    """Return one's own students, an administrator everybody's, and the version that is promoted.

    That version is told whosever it is: every answer to a prediction names it.
    """
    live = gateway.store.students.live()
    version = live.version if live is not None else None
    return StudentList(
        live=version,
        students=tuple(
            StudentView(
                version=card.version,
                name=card.name,
                live=card.version == version,
                created_at=card.created_at,
                job_id=card.job_id,
                accuracy=card.evaluation.accuracy,
                verdict=card.comparison.verdict,
                parameters=card.parameters,
            )
            for card in catalogue.students()
        ),
    )


# Above the routes with {version}, so that it can never be read as one.
@router.post(
    "/rollback",
    dependencies=[needs(Scope.ADMIN)],
    summary="Let the student before the live one answer again",
    responses={
        200: examples.answers(examples.LIVE),
        **documented(STATUSES, NothingToRollBack, StudentUnusable, StoreFull),
    },
)
def rollback(gateway: GatewayDep) -> LiveStudent:
    """Take the last promotion back; the earlier student is loaded and checked before it is live."""
    live = gateway.live.rollback()
    gateway.traffic.refresh()
    return live


@router.get(
    "/{version}",
    dependencies=[needs(Scope.JOBS)],
    summary="A student's card",
    responses={200: examples.answers(examples.CARD), **documented(STATUSES, StudentNotFound)},
)
def show(version: str, catalogue: CatalogueDep) -> StudentCard:
    """Return where the student comes from, what it is worth and what it costs."""
    return catalogue.student(version)


@router.get(
    "/{version}/files/{name}",
    dependencies=[needs(Scope.JOBS)],
    summary="Download a file of a student",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **documented(STATUSES, StudentNotFound, FileNotInBundle),
    },
)
def download(version: str, name: str, gateway: GatewayDep, catalogue: CatalogueDep) -> FileResponse:
    """Return one of the files that the card lists, or `card.json` itself."""
    _need(version, catalogue)
    path = gateway.store.students.file(version, name)
    return FileResponse(path, media_type=_MEDIA_TYPES.get(path.suffix), filename=f"{version}-{path.name}")


@router.post(
    "/{version}/promote",
    dependencies=[needs(Scope.ADMIN)],
    summary="Let a student answer predictions",
    responses={
        200: examples.answers(examples.LIVE),
        **documented(STATUSES, StudentNotFound, StudentUnusable, NoMeasuredGain, StoreFull),
    },
)
def promote(version: str, gateway: GatewayDep) -> LiveStudent:
    """Load and check the student, then make it live in every gateway process without losing a request.

    This process answers from it at once, the others within half a second. Promoting the live one changes
    nothing. A canary or a shadow of this student ends. A generalist with specialists goes live only where its
    report measured a gain.
    """
    live = gateway.live.promote(version)
    gateway.traffic.refresh()
    return live


@router.delete(
    "/{version}",
    dependencies=[needs(Scope.JOBS)],
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a student",
    responses=documented(STATUSES, StudentNotFound, StudentInUse, JobStoreUnavailable),
)
def delete(version: str, gateway: GatewayDep, caller: CallerDep, catalogue: CatalogueDep) -> None:
    """Remove a student that nobody needs: not the live one, none that the traffic policy or a job names.

    A job counts until it has ended. No rollback goes to a deleted student: it goes to the one before.
    """
    _need(version, catalogue)
    if not gateway.store.students.has(version):
        raise StudentNotFound(version)
    if ids := jobs_that_name_student(version, gateway.jobs):
        named = told(ids[:_MOST_IDS], gateway.jobs, caller.confined_to) or ("another owner's",)
        raise StudentInUse(version, f"jobs that have not ended name it: {', '.join(named)}")
    gateway.store.students.delete(version)
    gateway.store.owners.forget("students", version)
    gateway.versions.forget(version)


def _need(version: str, catalogue: StoreCatalogue) -> None:
    if not catalogue.sees_student(version):
        raise StudentNotFound(version)


_MEDIA_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}

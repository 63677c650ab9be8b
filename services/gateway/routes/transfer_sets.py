"""Transfer sets: have one built, look at those that there are, download them, delete them."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response, status
from starlette.responses import FileResponse, StreamingResponse

from services.gateway import examples
from services.gateway.errors import STATUSES, TOO_MUCH, UNREADABLE
from services.gateway.routes.jobs import IdempotencyKey
from services.gateway.state import CallerDep, CatalogueDep, GatewayDep
from services.gateway.tar import TAR_MEDIA_TYPE, TarResponse
from services.gateway.transfer_sets import CURSOR
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import ScopedRoute, needs
from shared.contracts.jobs import JobView
from shared.contracts.keys import Scope
from shared.contracts.specs import TransferSetJobSpec
from shared.contracts.teachers import SAFETENSORS_MEDIA_TYPE
from shared.contracts.transfer_sets import TransferSetCard, TransferSetPage
from shared.errors import (
    AskingImpossible,
    BodyTooLarge,
    ClassMismatch,
    DatasetNotFound,
    EmptyTransferSet,
    FileNotInBundle,
    IdempotencyConflict,
    InputMismatch,
    InvalidTemperature,
    JobStoreUnavailable,
    LabelsMissing,
    OmitAndOnly,
    StudentNotFound,
    TeacherNotFound,
    TransferSetInUse,
    TransferSetNotFound,
    TransferSetsUnavailable,
    UnknownClass,
)

router = APIRouter(prefix="/v1/transfer-sets", tags=["transfer-sets"], route_class=ScopedRoute)

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "",
    dependencies=[needs(Scope.JOBS)],
    status_code=status.HTTP_201_CREATED,
    summary="Build a transfer set",
    responses={
        201: examples.located(examples.TRANSFER_SET_JOB),
        400: UNREADABLE,
        200: {
            "model": JobView,
            "description": "The job that this Idempotency-Key made before",
            **examples.answers(examples.TRANSFER_SET_JOB),
        },
        **documented(
            STATUSES,
            InvalidTemperature,
            AskingImpossible,
            ClassMismatch,
            InputMismatch,
            LabelsMissing,
            EmptyTransferSet,
            OmitAndOnly,
            UnknownClass,
            TeacherNotFound,
            DatasetNotFound,
            StudentNotFound,
            IdempotencyConflict,
            BodyTooLarge,
            *TOO_MUCH,
            JobStoreUnavailable,
        ),
    },
)
def build(
    spec: Annotated[TransferSetJobSpec, Body(examples=[examples.TRANSFER_SET_SPEC.model_dump(mode="json")])],
    gateway: GatewayDep,
    caller: CallerDep,
    catalogue: CatalogueDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Submit the job that asks the teacher; the same as `POST /v1/jobs` with `"kind": "transfer_set"`.

    Its result names the set. Later jobs that want the same answers find them and ask nothing.
    """
    job, created = gateway.jobs.submit(spec, idempotency_key, caller.owner, catalogue, caller.key_id)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not created:
        response.status_code = status.HTTP_200_OK
    return job


@router.get(
    "",
    dependencies=[needs(Scope.JOBS)],
    summary="List transfer sets, newest first",
    responses={
        200: examples.answers(examples.TRANSFER_SETS),
        **documented(STATUSES, TransferSetsUnavailable),
    },
)
def list_transfer_sets(
    gateway: GatewayDep,
    catalogue: CatalogueDep,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`next_cursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> TransferSetPage:
    """Return one page of finished sets, those that other kinds of job built among them.

    They are one's own, an administrator's list has everybody's; one set may have several owners.
    """
    return gateway.transfer_sets.page(cursor, limit, catalogue)


@router.get(
    "/{digest}",
    dependencies=[needs(Scope.JOBS)],
    summary="A transfer set",
    responses={
        200: examples.answers(examples.TRANSFER_SET),
        **documented(STATUSES, TransferSetNotFound, TransferSetsUnavailable),
    },
)
def show(digest: str, gateway: GatewayDep, catalogue: CatalogueDep) -> TransferSetCard:
    """Return what the set is made of, its coverage by class, the entropy of its targets, and what it cost."""
    return gateway.transfer_sets.card(digest, catalogue)


@router.get(
    "/{digest}/files/{name}",
    dependencies=[needs(Scope.TEACH)],
    summary="Download a file of a transfer set",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": _BINARY}},
        **documented(STATUSES, TransferSetNotFound, FileNotInBundle, TransferSetsUnavailable),
    },
)
def download_file(digest: str, name: str, gateway: GatewayDep, catalogue: CatalogueDep) -> FileResponse:
    """Return a shard, `manifest.json`, `summary.json`, or the plot of entropies as PNG or SVG."""
    path = gateway.transfer_sets.file(digest, name, catalogue)
    return FileResponse(path, media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"))


@router.get(
    "/{digest}/download",
    dependencies=[needs(Scope.TEACH)],
    summary="Download a whole transfer set",
    response_class=StreamingResponse,
    responses={
        200: {"content": {TAR_MEDIA_TYPE: _BINARY}},
        **documented(STATUSES, TransferSetNotFound, TransferSetsUnavailable),
    },
)
def download(digest: str, gateway: GatewayDep, catalogue: CatalogueDep) -> TarResponse:
    """Return all files as one tar, uncompressed, with its length; the manifest comes last.

    Unpacked in the folder of transfer sets of another store, the set is known there.
    """
    manifest, entries = gateway.transfer_sets.entries(digest, catalogue)
    return TarResponse(entries, manifest.created_at, f"transfer-set-{manifest.digest[:12]}.tar")


@router.delete(
    "/{digest}",
    dependencies=[needs(Scope.JOBS)],
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a transfer set",
    responses=documented(
        STATUSES, TransferSetNotFound, TransferSetInUse, JobStoreUnavailable, TransferSetsUnavailable
    ),
)
def delete(digest: str, gateway: GatewayDep, catalogue: CatalogueDep) -> None:
    """Remove a set, finished or left unfinished; refused while a job that may use it has not ended.

    A set that others have as well is gone for the caller only; an administrator removes it for everybody.
    Such a job is one on the set's teacher and dataset, whatever views it asks for. What a later job needs of
    the set it asks the teacher for again.
    """
    gateway.transfer_sets.delete(digest, gateway.jobs, catalogue)


_MEDIA_TYPES = {
    ".json": "application/json",
    ".png": "image/png",
    ".safetensors": SAFETENSORS_MEDIA_TYPE,
    ".svg": "image/svg+xml",
}

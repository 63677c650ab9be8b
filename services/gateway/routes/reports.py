"""What jobs leave: their reports, as JSON or Markdown with plots, and their newest checkpoints."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel
from starlette.responses import FileResponse, StreamingResponse

from services.gateway.errors import STATUSES
from services.gateway.state import CallerDep, GatewayDep
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs
from shared.artefacts.checkpoints import Checkpoint, last_checkpoint
from shared.contracts.jobs import JobView
from shared.contracts.keys import Scope
from shared.contracts.reports import Plot, Report, file_names
from shared.contracts.specs import MADE_BY
from shared.errors import (
    CheckpointNotFound,
    FileNotInBundle,
    JobNotFound,
    JobStoreUnavailable,
    NotAcceptable,
    ReportNotReady,
)

_LOOKS = 3
"""How often the newest checkpoint is looked for where it is gone before it could be opened."""

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[needs(Scope.JOBS)])


@router.get(
    "/{job_id}/report",
    summary="The report of a job that succeeded",
    response_model=Report,
    responses={
        200: {"content": {"text/markdown": {"schema": {"type": "string"}}}},
        **documented(STATUSES, JobNotFound, ReportNotReady, NotAcceptable, JobStoreUnavailable),
    },
)
def report(
    job_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    accept: Annotated[str, Header(description="`application/json` or `text/markdown`")] = "*/*",
) -> Response:
    """Return the report as JSON, or as Markdown where `Accept` prefers it.

    The pictures of the Markdown are among its files: `GET /v1/jobs/{job_id}/report/files/{name}`.
    """
    media_type = _preferred(accept)
    job = gateway.jobs.get(job_id, caller.confined_to)
    files = gateway.store.job(job.id)
    path = files.report_json if media_type == "application/json" else files.report_md
    if not path.is_file():
        raise _no_report(job)
    return FileResponse(path, media_type=media_type, headers={"Vary": "Accept"})


@router.get(
    "/{job_id}/report/files/{name}",
    summary="A file of a report, such as a plot",
    response_class=FileResponse,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **documented(STATUSES, JobNotFound, ReportNotReady, FileNotInBundle, JobStoreUnavailable),
    },
)
def report_file(job_id: str, name: str, gateway: GatewayDep, caller: CallerDep) -> FileResponse:
    """Return `report.json`, `report.md`, or a plot that the report lists, as `<plot>.png` or `<plot>.svg`."""
    job = gateway.jobs.get(job_id, caller.confined_to)
    files = gateway.store.job(job.id)
    if not files.report_json.is_file():
        raise _no_report(job)
    # The JSON is written last, so all that it lists is there; nothing else is looked for on the disk.
    known = file_names(_Listed.model_validate_json(files.report_json.read_bytes()).plots)
    if name not in known:
        raise FileNotInBundle(f"the report of job {job.id!r}", name, known)
    path = files.directory / name
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix])


@router.get(
    "/{job_id}/checkpoint",
    summary="The newest checkpoint of a job's training",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **documented(STATUSES, JobNotFound, CheckpointNotFound, JobStoreUnavailable),
    },
)
def checkpoint(job_id: str, gateway: GatewayDep, caller: CallerDep) -> StreamingResponse:
    """Return it as safetensors, all nets in one file; a cancelled, paused or failed job keeps it.

    `<net>/best/<name>` are a net's weights in its best epoch so far, `<net>/tensors/<name>` those of its
    last step; the rest is what training goes on from. Nets are counted from 0, in the order of training.
    """
    job = gateway.jobs.get(job_id, caller.confined_to)
    opened = _opened(gateway.store.job(job.id).checkpoints)
    if opened is None:
        raise CheckpointNotFound(job.id)
    found, file = opened
    name = f"{job.id}-{found.name.replace('/', '-')}.safetensors"
    headers = {
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


def _opened(folder: Path) -> tuple[Checkpoint, BinaryIO] | None:
    """Return the newest checkpoint and its weights, open; None where there is none."""
    # A job that runs may replace what was found before it is open.
    for _ in range(_LOOKS):
        found = last_checkpoint(folder)
        if found is not None:
            with suppress(FileNotFoundError):
                return found, found.weights.open("rb")
    return None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1 << 20):
            yield chunk


def _no_report(job: JobView) -> ReportNotReady:
    """Return the refusal; what a child job found out is in the report of the job that made it."""
    return ReportNotReady(job.id, job.state, parent=job.parent if job.spec.kind in MADE_BY else None)


class _Listed(BaseModel):
    """All that is read of a report here, whatever its kind."""

    plots: tuple[Plot, ...] = ()


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
_MEDIA_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_Q = re.compile(r"[01](\.[0-9]{0,3})?")

"""Datasets: upload one, look at what there is."""

import re
from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter, Request, Response, status
from fastapi.exceptions import RequestValidationError

from services.gateway import examples
from services.gateway.errors import STATUSES
from services.gateway.parts import media_type
from services.gateway.state import CallerDep, CatalogueDep, GatewayDep
from services.gateway.uploads.datasets import Upload, take_in, uploading
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs
from shared.artefacts.names import is_name
from shared.contracts.datasets import DatasetList, DatasetView
from shared.contracts.keys import Scope
from shared.datasets.ingest import IngestFile, IngestOrder, ingest_in_child
from shared.datasets.limits import UploadLimits
from shared.errors import (
    BodyTooLarge,
    DatasetExists,
    DatasetNotFound,
    ImageTooLarge,
    InvalidDataset,
    InvalidImage,
    MalformedBody,
    QueueFull,
    StoreFull,
    UnsupportedMediaType,
)

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

MULTIPART = "multipart/form-data"
_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
_INGEST_S = 600.0
_INGEST_BYTES = 4 * 2**30
"""Address space of the process that reads an upload; what needs more is refused."""

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["name", "files"],
                    "properties": {
                        "name": {
                            "type": "string",
                            "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$",
                            "examples": ["my-digits"],
                        },
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "One zip with a folder a class, idx files, or Parquet files.",
                        },
                        "size": {
                            "type": "string",
                            "pattern": f"^{_SIZE.pattern}$",
                            "examples": ["28x28"],
                            "description": "Height x width to which all images are resized; "
                            "without it they must all have one size.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs(Scope.UPLOAD)],
    summary="Upload a dataset",
    openapi_extra=_FORM,
    responses={
        201: examples.located(examples.DATASET),
        **documented(
            STATUSES,
            InvalidDataset,
            InvalidImage,
            MalformedBody,
            ImageTooLarge,
            BodyTooLarge,
            UnsupportedMediaType,
            DatasetExists,
            QueueFull,
            StoreFull,
        ),
    },
)
async def upload(
    request: Request,
    response: Response,
    gateway: GatewayDep,
    caller: CallerDep,
    catalogue: CatalogueDep,
) -> DatasetView:
    """Take a dataset in, check every image of it, and store it under its name.

    The files are read in a process of their own. Sending the same dataset again changes nothing.
    """
    given = media_type(request)
    if given != MULTIPART:
        raise UnsupportedMediaType(given or None, (MULTIPART,))
    if gateway.uploads.available_tokens < 1:
        raise QueueFull("uploads", gateway.settings.max_uploads, retry_after_s=5.0)
    async with gateway.uploads, uploading(gateway.store, "datasets") as directory:
        sent = await take_in(request, directory)
        order = _order(sent, gateway.store.root, UploadLimits(images=gateway.image_limits), caller.owner)
        await anyio.to_thread.run_sync(ingest_in_child, order, _INGEST_S, _INGEST_BYTES)
    response.headers["Location"] = f"/v1/datasets/{order.name}"
    return await anyio.to_thread.run_sync(catalogue.dataset, order.name)


@router.get(
    "",
    dependencies=[needs(Scope.JOBS)],
    summary="List datasets",
    responses={200: examples.answers(examples.DATASETS)},
)
def list_datasets(catalogue: CatalogueDep) -> DatasetList:
    """Return one's own and built-in datasets by name; a built-in one says whether its files are here.

    An administrator's list has everybody's.
    """
    return DatasetList(datasets=catalogue.datasets())


@router.get(
    "/{name}",
    dependencies=[needs(Scope.JOBS)],
    summary="A dataset",
    responses={200: examples.answers(examples.DATASET), **documented(STATUSES, DatasetNotFound)},
)
def show(name: str, catalogue: CatalogueDep) -> DatasetView:
    """Return the dataset with its classes, counts and digest."""
    return catalogue.dataset(name)


def _order(sent: Upload, store: Path, limits: UploadLimits, owner: str | None) -> IngestOrder:
    name = sent.fields.get("name", "")
    if not is_name(name):
        raise _wrong("name", "a name is lower-case letters, digits, - and _, 64 at most", name)
    if not sent.files:
        raise _wrong("files", "no file was sent", None)
    size = sent.fields.get("size")
    found = _SIZE.fullmatch(size) if size is not None else None
    if size is not None and found is None:
        raise _wrong("size", "a size is height x width in pixels, such as 28x28", size)
    return IngestOrder(
        store=store.absolute(),
        name=name,
        files=tuple(
            IngestFile(path=path.absolute(), name=given)
            for path, given in zip(sent.files, sent.names, strict=True)
        ),
        limits=limits,
        size=(int(found[1]), int(found[2])) if found is not None else None,
        owner=owner,
    )


def _wrong(field: str, what: str, given: str | None) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": ("body", field), "msg": what, "input": given}]
    )

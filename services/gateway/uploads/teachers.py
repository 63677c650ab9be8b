"""Takes in an order for a teacher from outside: its words, then its files, each checked before the next.

What is wrong with the words is said before a byte of the files is kept: the field `teacher` comes first.
"""

from typing import Any, Final

import anyio.to_thread
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request

from services.gateway.catalogue import StoreCatalogue
from services.gateway.state import Gateway
from services.gateway.uploads.datasets import (
    Upload,
    incoming_of,
    sweep_incoming,
    take_in,
    uploading,
)
from shared.artefacts.incoming import new_upload
from shared.artefacts.model_archives import unpack_model
from shared.artefacts.model_files import (
    FilesKind,
    check_model_folder,
    checked_name,
    is_files_kind,
)
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teacher_sources import OipSource, SentFiles
from shared.errors import BodyTooLarge, InvalidModelFiles, QueueFull
from shared.jobs.checks import check_submitted

FIELD: Final = "teacher"
_ARCHIVE: Final = "upload.zip"
_UNPACKED: Final = "unpacked"


def order_of(data: bytes) -> TeacherImportSpec:
    """Return the order for a teacher; raises `RequestValidationError` where it is none."""
    try:
        return TeacherImportSpec.model_validate_json(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError(
            [{**one, "loc": ("body", FIELD, *one["loc"])} for one in found]
        ) from error


async def read_words(request: Request, most_bytes: int) -> bytes:
    """Return a body that carries no files; raises `BodyTooLarge` as soon as it is longer."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise BodyTooLarge(most_bytes)
    return bytes(body)


def check_without_files(order: TeacherImportSpec, gateway: Gateway, catalogue: StoreCatalogue) -> None:
    """Refuse an order that nothing was uploaded for, as far as that can be told here.

    Args:
        order: for a teacher.
        gateway: the parts.
        catalogue: as the caller sees it.

    Raises:
        OipHostNotAllowed: it names a server that is not on the list.
        InvalidModelFiles: its kind needs files, and it names no folder of the store.
        IncomingNotFound: there is no such folder; folders have no owner, so they are for administrators.
        DistillationError: what `check_submitted` refuses.
    """
    if isinstance(order.source, OipSource):
        gateway.settings.oip_hosts.need(order.source.url)
    sent = _sent_files(order)
    if sent is not None:
        if sent.upload is not None or sent.folder is None:
            raise _no_files(order.source.kind)
        catalogue.need_every_folder(sent.folder)
        check_model_folder(incoming_of(gateway.store).folder(sent), _kind_of(order))
    check_submitted(order, catalogue)


async def take_in_teacher(request: Request, gateway: Gateway, catalogue: StoreCatalogue) -> TeacherImportSpec:
    """Take in a multipart order with its files; return it with the name of its upload.

    The files are whole and in `incoming` then, or nothing is left of them.

    Raises:
        QueueFull: too many uploads arrive already.
        StoreFull: the disk is.
        RequestValidationError, InvalidModelFiles, PickleRefused, DistillationError: it was refused.
    """
    if gateway.uploads.available_tokens < 1:
        raise QueueFull("uploads", gateway.settings.max_uploads, retry_after_s=5.0)
    async with gateway.uploads, uploading(gateway.store, "incoming") as directory:
        arriving = _Arriving(gateway, catalogue)
        sent = await take_in(
            request,
            directory,
            most_field_bytes=gateway.settings.max_body_bytes,
            name_of=arriving.name_of,
        )
        return await anyio.to_thread.run_sync(arriving.finished, sent)


class _Arriving:
    """One order on its way in."""

    def __init__(self, gateway: Gateway, catalogue: StoreCatalogue) -> None:
        self._gateway = gateway
        self._catalogue = catalogue
        self._order: TeacherImportSpec | None = None

    async def name_of(self, upload: Upload, given: str) -> str:
        """Return under which name a file is written, after refusing what its order or its name allows to."""
        if self._order is None:
            self._order = _order_in(upload)
            _need_unnamed(self._order)
            await anyio.to_thread.run_sync(check_submitted, self._order, self._catalogue)
        kind = _kind_of(self._order)
        name = _ARCHIVE if given.lower().endswith(".zip") else checked_name(given, kind)
        if any(path.name in (name, _ARCHIVE) for path in upload.files) or (name == _ARCHIVE and upload.files):
            raise InvalidModelFiles("a file is sent twice, or beside a zip that should hold all", file=name)
        return name

    def finished(self, upload: Upload) -> TeacherImportSpec:
        """Check what has arrived and give it its place."""
        if self._order is None:
            order = _order_in(upload)
            check_without_files(order, self._gateway, self._catalogue)
            return order
        directory, kind = upload.files[0].parent, _kind_of(self._order)
        files = upload.files
        if files[0].name == _ARCHIVE:
            directory = directory / _UNPACKED
            directory.mkdir()
            files = unpack_model(files[0], directory, kind, self._gateway.settings.max_teacher_bytes)
        check_model_folder(directory, kind)
        name = new_upload()
        sweep_incoming(self._gateway.store, self._gateway.jobs)
        incoming_of(self._gateway.store).admit(name, {path.name: path for path in files})
        source = self._order.source.model_copy(update={"files": SentFiles(upload=name)})
        return self._order.model_copy(update={"source": source})


def discard(order: TeacherImportSpec, gateway: Gateway) -> None:
    """Remove the upload of an order that no job was made of."""
    sent = _sent_files(order)
    if sent is not None:
        incoming_of(gateway.store).discard(sent)


def _order_in(upload: Upload) -> TeacherImportSpec:
    if FIELD not in upload.fields:
        raise _wrong("the field `teacher` is missing, or does not come before the files", None)
    return order_of(upload.fields[FIELD].encode())


def _need_unnamed(order: TeacherImportSpec) -> None:
    sent = _sent_files(order)
    if sent is None:
        raise InvalidModelFiles(
            f"files were sent with a source of kind {order.source.kind!r}, which has none",
            remedy="Send the order as application/json, without files.",
        )
    if sent != SentFiles():
        raise InvalidModelFiles(
            "files were sent, and the order names others",
            remedy="Leave `files` out where files are sent with the order.",
        )


def _sent_files(order: TeacherImportSpec) -> SentFiles | None:
    found: SentFiles | None = getattr(order.source, "files", None)
    return found


def _kind_of(order: TeacherImportSpec) -> FilesKind:
    kind = order.source.kind
    assert is_files_kind(kind)
    return kind


def _no_files(kind: str) -> InvalidModelFiles:
    return InvalidModelFiles(
        f"a source of kind {kind!r} needs files, and none were sent",
        remedy="Send them with the order as multipart/form-data, the field `teacher` first; or name a folder "
        "in `incoming` of the store as `files.folder`.",
    )


def _wrong(what: str, given: Any) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": ("body", FIELD), "msg": what, "input": given}]
    )

"""Takes files in as they arrive, into a folder of their own beside the store, under names that we give.

The boundary counts the bytes of the whole request, so that the disk holds at most the limit and one piece.
"""

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from services.gateway.parts import PartBegins, PartData, parts
from shared.artefacts.incoming import Incoming
from shared.artefacts.room import room
from shared.artefacts.store import ArtefactStore
from shared.errors import JobStoreUnavailable, MalformedBody
from shared.jobs.in_use import uploads_that_jobs_name
from shared.jobs.service import JobService

log = logging.getLogger(__name__)

_MOST_FILES = 64
_MOST_FIELDS = 16
_MOST_FIELD_BYTES = 1024
_WRITE_BYTES = 2**20
_KEPT_S = 24 * 3600.0


@dataclass
class Upload:
    """A form on the disk: its plain fields, and its files with the names that the client gave them."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


NameOf = Callable[[Upload, str], Awaitable[str]]
"""Gives a file its name on the disk, from what has arrived so far and the client's name; or refuses it."""


@asynccontextmanager
async def uploading(store: ArtefactStore, folder: str) -> AsyncIterator[Path]:
    """Yield a fresh folder beside the store, which goes afterwards with all that is in it.

    Args:
        store: of artefacts.
        folder: of the store, for which files are taken in; named where the disk is full.

    Raises:
        StoreFull: the disk is, then or while files are taken in.
    """
    with room(store.root / folder):
        directory = await asyncio.to_thread(_fresh, _root(store))
        try:
            yield Path(directory.name)
        finally:
            await asyncio.to_thread(directory.cleanup)


def incoming_of(store: ArtefactStore) -> Incoming:
    """Return where whole uploads of teachers wait for the job that reads them."""
    return Incoming(store.root / "incoming")


def sweep_incoming(store: ArtefactStore, jobs: JobService) -> None:
    """Remove uploads of teachers that no job waits for; none, where the job store does not answer."""
    try:
        incoming_of(store).sweep(lambda: uploads_that_jobs_name(jobs))
    except JobStoreUnavailable as error:
        log.warning("old uploads are not looked through", extra={"reason": str(error)})


def clear_old_uploads(store: ArtefactStore, jobs: JobService) -> None:
    """Remove what killed processes left: of uploads a day later, of what they were deleting at once.

    Uploads of teachers that no job waits for go as well, a day later.
    """
    store.datasets.sweep()
    store.kept.sweep()
    sweep_incoming(store, jobs)
    root = _root(store)
    if not root.is_dir():
        return
    for directory in root.iterdir():
        with suppress(FileNotFoundError):  # another process has just finished with it
            if time.time() - directory.stat().st_mtime > _KEPT_S:
                shutil.rmtree(directory, ignore_errors=True)


async def take_in(
    request: Request,
    directory: Path,
    *,
    most_field_bytes: int = _MOST_FIELD_BYTES,
    name_of: NameOf | None = None,
) -> Upload:
    """Write the files of a multipart request into `directory`, as they arrive.

    Args:
        request: the request.
        directory: an empty folder.
        most_field_bytes: of a plain field.
        name_of: names each file before a byte of it is written; without it they are numbered.

    Raises:
        MalformedBody: it is no multipart, or has too many files or fields, or a field that is too long.
        BodyTooLarge: raised by the boundary while the body is read.
    """
    upload = Upload()
    value = bytearray()
    target: Path | None = None
    name = ""
    async for event in parts(request):
        if isinstance(event, PartBegins):
            value, name, target = bytearray(), event.name, None
            if event.filename is not None:
                if len(upload.files) == _MOST_FILES:
                    raise MalformedBody(f"one upload may carry {_MOST_FILES} files")
                own = f"file-{len(upload.files):02}"
                target = directory / (await name_of(upload, event.filename) if name_of else own)
                upload.files.append(target)
                upload.names.append(event.filename[:255])
        elif isinstance(event, PartData):
            value += event.data
            if target is None and len(value) > most_field_bytes:
                raise MalformedBody(f"the field {name[:64]!r} is longer than {most_field_bytes} bytes")
            if target is not None and len(value) >= _WRITE_BYTES:
                await asyncio.to_thread(_append, target, bytes(value))
                value.clear()
        elif target is not None:
            await asyncio.to_thread(_append, target, bytes(value))
        elif len(upload.fields) == _MOST_FIELDS:
            raise MalformedBody(f"one upload may carry {_MOST_FIELDS} fields beside its files")
        else:
            upload.fields[name] = value.decode("utf-8", "replace")
    return upload


def _fresh(root: Path) -> "tempfile.TemporaryDirectory[str]":
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=root)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _root(store: ArtefactStore) -> Path:
    return store.root / "uploads"

"""Transfer sets at a URL that fsspec knows, such as `s3://bucket/folder`, and their copies on this machine.

A file there is one object, put in one piece: it is whole or not there. What is read is copied into a folder
of this machine, compared with its digest, and mapped from there like a file of the store.
"""

import importlib
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeVar

from shared.artefacts.files import sha256_bytes
from shared.errors import Corrupt, ExtraMissing, StoreFull, TransferSetsUnavailable
from shared.transfer_set.places import FolderFiles

log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""How long a server that is away is asked again, by who can wait."""
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 8.0
_FULL: Final = ("StorageFull", "QuotaExceeded")
"""In the codes by which servers of S3 say so, of which client libraries know nothing (MinIO, Ceph)."""
_TAKEN_MEANWHILE: Final = "ConditionalRequestConflict"
_NOT_CONDITIONAL: Final = "NotImplemented"
_REFUSALS: Final = (FileNotFoundError, PermissionError)
"""Answers, though not those that were hoped for: asking again gives the same."""

ResultT = TypeVar("ResultT")


class Remote:
    """Transfer sets below a URL: `<url>/<digest>/`. Credentials are those of the environment."""

    def __init__(self, url: str, cache: Path, pause: Callable[[float], None] | None = None) -> None:
        """Arguments as `TransferSetStore` has them."""
        self._url = url.rstrip("/")
        self._cache = cache
        self._pause = pause
        self._root = self._url.partition("://")[2]

    def digests(self) -> list[str]:
        """Return the names of the folders."""
        return sorted(entry["name"].rpartition("/")[2] for entry in self.list("") if entry["type"] != "file")

    def files(self, digest: str) -> "RemoteFiles":
        """Return the files of a set."""
        return RemoteFiles(self, digest, self._cache / digest)

    def remove(self, digest: str) -> None:
        """Remove what is left of a set, there and here; copies on other machines stay."""
        with suppress(FileNotFoundError):
            self._ask(digest, lambda: self._remote.rm(self.path(digest), recursive=True))
        with suppress(FileNotFoundError):
            shutil.rmtree(self._cache / digest)

    def path(self, *parts: str) -> str:
        """Return a path as the client library wants it."""
        return "/".join((self._root, *filter(None, parts)))

    def list(self, folder: str) -> list[dict[str, Any]]:
        """Return what is in a folder, by `name`, `size` and `type`; nothing where there is none."""
        try:
            listed: list[dict[str, Any]] = self._ask(
                folder, lambda: self._remote.ls(self.path(folder), detail=True, refresh=True)
            )
        except FileNotFoundError:
            return []
        return [entry for entry in listed if entry["name"].rstrip("/") != self.path(folder)]

    def read(self, folder: str, name: str) -> bytes:
        """Return a file's content, or raise FileNotFoundError."""
        data: bytes = self._ask(f"{folder}/{name}", lambda: self._remote.cat_file(self.path(folder, name)))
        return data

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Put a file, whatever is there."""
        path = self.path(folder, name)
        self._ask(f"{folder}/{name}", lambda: self._remote.pipe_file(path, data), writing=True)

    def create(self, folder: str, name: str, data: bytes) -> bool:
        """Put a file that is not there; return whether this call did.

        Servers refuse the second of two writers (`If-None-Match`). Where one cannot, or its client has no
        word for it, the later of two that write at once stays; both mean the same rows.
        """
        put = partial(self._create, self.path(folder, name), data)
        return self._ask(f"{folder}/{name}", put, writing=True)

    def remove_file(self, folder: str, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._ask(f"{folder}/{name}", lambda: self._remote.rm_file(self.path(folder, name)))

    def _create(self, path: str, data: bytes) -> bool:
        try:
            self._remote.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except (OSError, NotImplementedError, TypeError) as error:
            if _TAKEN_MEANWHILE in str(error):
                return False
            if isinstance(error, OSError) and _NOT_CONDITIONAL not in str(error):
                raise
            if self._remote.exists(path):
                return False
            self._remote.pipe_file(path, data)
        return True

    @cached_property
    def _remote(self) -> Any:
        scheme = self._url.partition("://")[0]
        try:
            filesystem = importlib.import_module("fsspec").filesystem
            # Others write there too: what was listed a moment ago says nothing.
            return filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise ExtraMissing("s3fs" if scheme in ("s3", "s3a") else "fsspec", str(error)) from error
        except ValueError as error:  # a scheme that it does not know
            raise TransferSetsUnavailable(self._url, str(error), refused=True) from error

    def _ask(self, what: str, call: Callable[[], ResultT], *, writing: bool = False) -> ResultT:
        """Return what a call of the client library does, and name what goes wrong on the way.

        A server that is away is asked again, in waits that grow: whoever can wait loses nothing by it. That
        what is read is not there is nothing that goes wrong.
        """
        wait_s, until = _FIRST_WAIT_S, time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except _errors(_OF_CLIENTS) as error:
                if isinstance(error, FileNotFoundError) and not writing:
                    raise
                if any(word in str(error) for word in _FULL):
                    raise StoreFull(what) from error
                reason = str(error) or type(error).__name__
                away = isinstance(error, _errors(_OF_THE_WAY)) and not isinstance(error, _REFUSALS)
                if not away or self._pause is None or time.monotonic() > until:
                    raise TransferSetsUnavailable(self._url, reason, refused=not away) from error
                log.warning("transfer sets are away", extra={"reason": reason, "wait_s": wait_s})
            self._pause(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


class RemoteFiles:
    """The files of one set, and the folder with their copies."""

    def __init__(self, remote: Remote, digest: str, directory: Path) -> None:
        self.directory = directory
        self._remote = remote
        self._digest = digest
        self._copies = FolderFiles(directory)

    def names(self) -> list[str]:
        """Return the names of the files."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Return how many bytes each file has, by name."""
        listed = {
            entry["name"].rpartition("/")[2]: int(entry["size"])
            for entry in self._remote.list(self._digest)
            if entry["type"] == "file"
        }
        return dict(sorted(listed.items()))

    def fetch(self, name: str) -> Path:
        """Copy the file as it is now, and return the copy."""
        self._copies.put(name, self._remote.read(self._digest, name))
        return self.directory / name

    def verified(self, name: str, sha256: str) -> Path:
        """Return the copy of this digest; fetch it where there is none."""
        try:
            return self._copies.verified(name, sha256)
        except Corrupt:
            pass  # none yet, or of a set that was built anew: what counts lies there
        try:
            data = self._remote.read(self._digest, name)
        except FileNotFoundError as error:
            raise Corrupt(str(self.directory / name)) from error
        if sha256_bytes(data) != sha256:
            raise Corrupt(str(self.directory / name))
        self._copies.put(name, data)
        return self.directory / name

    def put_once(self, name: str, data: bytes) -> bool:
        """Write the copy, then put it there unless a file is there."""
        self._copies.put(name, data)
        if self._remote.create(self._digest, name, data):
            return True
        self._copies.remove(name)
        return False

    def put(self, name: str, data: bytes) -> None:
        """Put the file there, in place of what may be."""
        self._remote.write(self._digest, name, data)

    def remove(self, name: str) -> None:
        """Remove the file there, and the copy."""
        self._remote.remove_file(self._digest, name)
        self._copies.remove(name)

    def sweep(self) -> None:
        """Remove what killed processes left among the copies; there, nothing is ever half written."""
        self._copies.sweep()


_OF_CLIENTS: Final = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
"""What client libraries raise beside OSError."""
_OF_THE_WAY: Final = (
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("aiohttp", "ClientError"),
)
"""Those of them that say nothing but that there was no answer; others are about credentials and the like."""


def _errors(named: tuple[tuple[str, str], ...]) -> tuple[type[Exception], ...]:
    """Return OSError and those of these that are here; asked only where something was raised."""
    found: list[type[Exception]] = [OSError]
    for module, name in named:
        with suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)

"""Files of teachers that are not teachers yet: `incoming/<upload>/` and `incoming/<folder>/` of the store.

An upload gets its name from us and appears whole or not at all; the job that reads it removes it, and one
that no job waits for is swept after a day. A folder is put there by whoever runs the store, and stays.
"""

import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared.artefacts.files import publish_directory
from shared.artefacts.names import is_name
from shared.contracts.teacher_sources import SentFiles
from shared.errors import IncomingNotFound, InvalidModelFiles

KEPT_S: Final = 24 * 3600.0
"""How long an upload stays that no job waits for."""
_UPLOAD: Final = re.compile(r"upload-[0-9a-f]{32}")


def new_upload() -> str:
    """Return a fresh name for an upload, which nobody can guess."""
    return f"upload-{secrets.token_hex(16)}"


class Incoming:
    """The folder `incoming` of an artefact store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def admit(self, upload: str, files: Mapping[str, Path]) -> None:
        """Move files in as one upload: all of them are there afterwards, or none.

        Args:
            upload: a name that `new_upload` gave.
            files: where each lies, on the disk of the store, by the name that it is to have.

        Raises:
            OSError: the disk is full; nothing is left behind.
        """

        def build(directory: Path) -> None:
            for name, path in files.items():
                path.rename(directory / name)

        publish_directory(self._root / upload, build)

    def folder(self, sent: SentFiles) -> Path:
        """Return the folder in which the files of a source lie.

        Raises:
            InvalidModelFiles: the source names neither an upload nor a folder, or both.
            IncomingNotFound: it is not there, or not there any more.
        """
        if (sent.upload is None) == (sent.folder is None):
            raise InvalidModelFiles("a source of files has either an upload or a folder in the store")
        name = sent.upload if sent.upload is not None else sent.folder
        assert name is not None
        path = self._root / name
        is_upload = _UPLOAD.fullmatch(name) is not None
        if is_upload != (sent.upload is not None) or not is_name(name) or not path.is_dir():
            raise IncomingNotFound(name)
        return path

    def discard(self, sent: SentFiles) -> None:
        """Remove an upload; folders stay, and what is gone already is no error."""
        if sent.upload is not None and _UPLOAD.fullmatch(sent.upload):
            shutil.rmtree(self._root / sent.upload, ignore_errors=True)

    def sweep(self, in_use: Callable[[], Set[str]]) -> None:
        """Remove uploads that are older than a day and that no job waits for.

        Args:
            in_use: returns the names of all uploads that a job still wants. It is asked only where there is
                something to remove; what it raises comes through, and nothing is removed then.
        """
        if not self._root.is_dir():
            return
        # Looked for before the jobs are: whose upload is a day old was submitted long ago.
        old = [path for path in self._root.iterdir() if _UPLOAD.fullmatch(path.name) and _is_old(path)]
        if not old:
            return
        wanted = in_use()
        for path in old:
            if path.name not in wanted:
                shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    with suppress(FileNotFoundError):  # its job has just ended
        return time.time() - path.stat().st_mtime > KEPT_S
    return False

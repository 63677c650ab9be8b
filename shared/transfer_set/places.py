"""Where transfer sets are kept: what reader and writer ask of such a place, and the one in a folder."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from shared.artefacts.files import sha256_file, sweep_temporaries, write_atomic, write_once
from shared.artefacts.room import FULL
from shared.errors import Corrupt, StoreFull


class SetFiles(Protocol):
    """The files of one transfer set."""

    directory: Path
    """Of this machine, in which the files are, or in which copies of them are kept."""

    def names(self) -> list[str]:
        """Return the names of the files, sorted; none where the set is not there."""

    def fetch(self, name: str) -> Path:
        """Return where this machine has the file as it is now.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def verified(self, name: str, sha256: str) -> Path:
        """Return where this machine has the file, after comparing its digest.

        Raises:
            Corrupt: it is another file, or there is none.
        """

    def put_once(self, name: str, data: bytes) -> bool:
        """Store a file unless it exists; return whether this call did. Nobody ever sees a part of it.

        Raises:
            StoreFull: there is no room; what was there stays.
        """

    def put(self, name: str, data: bytes) -> None:
        """Store a file in place of what may be there; errors as `put_once`."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def sizes(self) -> dict[str, int]:
        """Return how many bytes each file has, by name, sorted; none where the set is not there."""

    def sweep(self) -> None:
        """Clear away what killed writers left."""


class Place(Protocol):
    """All transfer sets, each by its digest."""

    def digests(self) -> list[str]:
        """Return the digests of all sets of which there is a file, sorted."""

    def files(self, digest: str) -> SetFiles:
        """Return the files of a set, which need not exist."""

    def remove(self, digest: str) -> None:
        """Remove what is left of a set."""


class FolderFiles:
    """The files of a set in a folder that all processes share; it appears with the first of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self) -> list[str]:
        """Return the names of the files; what is being written has a name that begins with a dot."""
        try:
            return sorted(path.name for path in self.directory.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []

    def fetch(self, name: str) -> Path:
        """Return the file itself."""
        path = self.directory / name
        if not path.is_file():
            raise FileNotFoundError(path)
        return path

    def verified(self, name: str, sha256: str) -> Path:
        """Return the file itself, once its digest was compared."""
        path = self.directory / name
        try:
            if sha256_file(path) == sha256:
                return path
        except FileNotFoundError as error:
            raise Corrupt(str(path)) from error
        raise Corrupt(str(path))

    def put_once(self, name: str, data: bytes) -> bool:
        """Write aside, sync, then link: of several processes exactly one wins."""
        with room_for(self.directory / name) as path:
            return write_once(path, data)

    def put(self, name: str, data: bytes) -> None:
        """Write aside, sync, then rename."""
        with room_for(self.directory / name) as path:
            write_atomic(path, data)

    def remove(self, name: str) -> None:
        """Unlink; who has the file open or mapped keeps it."""
        (self.directory / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Return how many bytes each file has; one that goes away meanwhile is left out."""
        found = {}
        for name in self.names():
            with suppress(FileNotFoundError):
                found[name] = (self.directory / name).stat().st_size
        return found

    def sweep(self) -> None:
        """Remove the temporaries of writers that live no more."""
        if self.directory.is_dir():
            sweep_temporaries(self.directory)


class Folder:
    """Transfer sets in a folder: `<root>/<digest>/`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def digests(self) -> list[str]:
        """Return the names of the folders."""
        try:
            return sorted(path.name for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []

    def files(self, digest: str) -> FolderFiles:
        """Return the folder of a set."""
        return FolderFiles(self._root / digest)

    def remove(self, digest: str) -> None:
        """Remove the folder of a set with all that is in it."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._root / digest)


@contextmanager
def room_for(path: Path) -> Iterator[Path]:
    """Make the folder of a file that is written meanwhile, and name the error where it does not fit."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(str(path)) from error
        raise

"""The store of kept images: `kept/<collection>/images.sqlite`, filled by gateways, frozen by jobs.

An image is its raw pixels at the size that the student takes in, and its digest is its key, so that it is
there once. Several processes write: a lock file lets one in at a time, and SQLite makes each batch whole or
not there at all when a process dies in the middle of it. Deleting a collection removes its folder.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.files import canonical_json, exclusive_lock, remove_directory, sweep_temporaries
from shared.artefacts.names import is_name
from shared.contracts.images import ImageInput
from shared.contracts.kept import KeptByStudent, KeptCollection, KeptReason
from shared.errors import Corrupt, KeptNotFound

if TYPE_CHECKING:
    from sqlite3 import Connection

log = logging.getLogger(__name__)

FILE: Final = "images.sqlite"
_LOCK: Final = ".lock"
_WAIT_S: Final = 30.0
"""For a reader while a batch is written."""
_SCHEMA: Final = """
create table if not exists students (
    version text primary key, dataset text not null, sort text not null
);
create table if not exists images (
    digest blob primary key, pixels blob not null, student text not null, reason text not null,
    kept_at real not null
);
create index if not exists counted on images (student, reason, kept_at);
"""


class KeptImage(NamedTuple):
    """An image as a student saw it."""

    pixels: bytes
    """Height x width x channels, uint8."""
    reason: KeptReason
    kept_at: float
    """Seconds since 1970."""


class Witness(NamedTuple):
    """The student that was not sure, and what its images are of."""

    version: str
    dataset: str
    """What it was distilled on."""
    input: ImageInput
    classes: tuple[str, ...]


class Added(NamedTuple):
    """What became of a batch."""

    kept: tuple[KeptReason, ...]
    """The reason of each image that is new."""
    refused: int
    """Would have been new, and there is no room for them."""


class KeptStore:
    """Collections of images by name. Making one touches no disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(
        self, collection: str, witness: Witness, images: Sequence[KeptImage], *, most_images: int
    ) -> Added:
        """Keep those images that are not there yet, while the collection has fewer than `most_images`.

        All of the batch are on the disk when this returns, or none of it is.

        Args:
            collection: a safe name; the collection begins with its first image.
            witness: the student that all of them come from.
            images: of the witness's input size.
            most_images: in the whole collection; what comes later is not kept, and nothing is replaced.

        Raises:
            ValueError: the name is no safe file name, or an image is not of the witness's size.
            OSError: the disk is full, or does not answer.
            Corrupt: the collection's file is damaged.
        """
        if not is_name(collection):
            raise ValueError(f"a collection cannot be called {collection!r}")
        if any(len(image.pixels) != witness.input.values for image in images):
            raise ValueError(f"images of {witness.version!r} are {witness.input.values} bytes each")
        sort = sort_of(witness.input, witness.classes)
        rows = {_digest(sort, image.pixels): image for image in images}
        with exclusive_lock(self._root / _LOCK):
            directory = self._root / collection
            directory.mkdir(exist_ok=True)
            with _opened(directory / FILE, "rwc") as database, database:
                database.execute("begin immediate")
                return _add(database, witness, sort, rows, most_images)

    def list(self) -> list[KeptCollection]:
        """Return all collections that hold an image, by name; a damaged one is left out, as the log says."""
        if not self._root.is_dir():
            return []
        found = []
        for path in sorted(self._root.iterdir()):
            try:
                found.append(self.show(path.name))
            except KeptNotFound:
                continue
            except Corrupt as error:
                log.warning("kept images left out", extra={"collection": path.name, "path": error.path})
        return found

    def show(self, collection: str) -> KeptCollection:
        """Return how many images a collection has, of what and since when.

        Raises:
            KeptNotFound: it does not exist or holds nothing.
            Corrupt: its file is damaged.
        """
        with self._read(collection) as database:
            rows = database.execute(
                "select student, dataset, reason, count(*), min(kept_at), max(kept_at) "
                "from images join students on version = student group by student, reason order by student"
            ).fetchall()
        if not rows:
            raise KeptNotFound(collection)
        images: dict[tuple[str, str], int] = {}
        reasons = {"escalated": 0, "disagreed": 0}
        for student, dataset, reason, count, _, _ in rows:
            images[student, dataset] = images.get((student, dataset), 0) + count
            reasons[reason] += count
        return KeptCollection(
            name=collection,
            images=sum(reasons.values()),
            size_bytes=(self._root / collection / FILE).stat().st_size,
            since=datetime.fromtimestamp(min(row[4] for row in rows), UTC),
            until=datetime.fromtimestamp(max(row[5] for row in rows), UTC),
            escalated=reasons["escalated"],
            disagreed=reasons["disagreed"],
            students=tuple(
                KeptByStudent(student=student, dataset=dataset, images=count)
                for (student, dataset), count in images.items()
            ),
        )

    def load(self, collection: str, size: ImageInput, classes: tuple[str, ...]) -> NDArray[np.uint8]:
        """Return the images of one sort, uint8 N x H x W x C, in the order of their digests.

        Args:
            collection: its name.
            size: of the images.
            classes: that the students name which they come from. Images of other classes that are as large
                may lie in the same collection.

        Raises:
            KeptNotFound: it does not exist.
            Corrupt: its file is damaged.
        """
        with self._read(collection) as database:
            found = database.execute(
                "select pixels from images join students on version = student where sort = ? order by digest",
                (sort_of(size, classes),),
            )
            data = b"".join(row[0] for row in found)
        return np.frombuffer(data, np.uint8).reshape(-1, size.height, size.width, size.channels)

    def delete(self, collection: str) -> int:
        """Remove a collection with all its images; return how many they were.

        What an earlier call has left that was killed goes as well, whatever it was of.

        Raises:
            KeptNotFound: it does not exist.
        """
        self.sweep()
        self._need(collection)
        with exclusive_lock(self._root / _LOCK):
            try:
                images = self.show(collection).images
            except (KeptNotFound, Corrupt):
                images = 0  # nobody can count what is damaged, and it is to go all the same
            if not remove_directory(self._root / collection):
                raise KeptNotFound(collection)
        return images

    def sweep(self) -> None:
        """Remove what killed processes have left of collections that they deleted."""
        if self._root.is_dir():
            sweep_temporaries(self._root)

    def _need(self, collection: str) -> None:
        if not is_name(collection) or not (self._root / collection / FILE).is_file():
            raise KeptNotFound(collection)

    @contextmanager
    def _read(self, collection: str) -> Iterator["Connection"]:
        self._need(collection)
        try:
            # Not read-only: whoever comes first after a writer's death takes its half batch back.
            with _opened(self._root / collection / FILE, "rw") as database:
                yield database
        except OSError:
            self._need(collection)  # deleted meanwhile
            raise


def sort_of(size: ImageInput, classes: tuple[str, ...]) -> str:
    """Return what parts images that may not be mixed: their size, and the classes that are meant."""
    return hashlib.sha256(canonical_json([size.model_dump(), classes])).hexdigest()


def _digest(sort: str, pixels: bytes) -> bytes:
    return hashlib.sha256(sort.encode() + pixels).digest()


def _add(
    database: "Connection", witness: Witness, sort: str, rows: dict[bytes, KeptImage], most_images: int
) -> Added:
    database.execute(
        "insert or ignore into students values (?, ?, ?)", (witness.version, witness.dataset, sort)
    )
    (there,) = database.execute("select count(*) from images").fetchone()
    known = {
        digest
        for digest in rows
        if database.execute("select 1 from images where digest = ?", (digest,)).fetchone()
    }
    fresh = [digest for digest in rows if digest not in known]
    taken = fresh[: max(0, most_images - there)]
    database.executemany(
        "insert into images values (?, ?, ?, ?, ?)",
        [
            (digest, rows[digest].pixels, witness.version, rows[digest].reason, rows[digest].kept_at)
            for digest in taken
        ],
    )
    return Added(tuple(rows[digest].reason for digest in taken), refused=len(fresh) - len(taken))


@contextmanager
def _opened(path: Path, mode: str) -> Iterator["Connection"]:
    import sqlite3  # here: a gateway that keeps nothing need not load it

    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)) as database:
            database.executescript(_SCHEMA)  # where it is new, or its writer died before it had made tables
            yield database
    except sqlite3.OperationalError as error:
        raise OSError(f"{path} cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(str(path)) from error

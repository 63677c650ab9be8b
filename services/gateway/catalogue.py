"""What there is, as the artefact store and the data directory show it now, and as a caller sees it."""

import logging
from contextlib import suppress
from pathlib import Path

from shared.adapters.web.access import Caller
from shared.artefacts.owners import Collection
from shared.artefacts.store import ArtefactStore
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetView
from shared.contracts.kept import KeptCollection
from shared.contracts.students import StudentCard
from shared.contracts.teachers import TeacherDescription
from shared.datasets import builtin
from shared.errors import (
    Corrupt,
    DatasetNotFound,
    IncomingNotFound,
    KeptNotFound,
    NoLiveStudent,
    StudentNotFound,
    TeacherExists,
    TeacherNotFound,
)

log = logging.getLogger(__name__)


class StoreCatalogue:
    """The `Catalogue` of jobs on the artefact store; also what the lists of the API are made of.

    `seen_by` returns it as a caller sees it: what belongs to somebody else is not found, with the same error
    as what does not exist. Built-in datasets are everybody's.
    """

    def __init__(
        self,
        store: ArtefactStore,
        data_dir: Path | None,
        *,
        owner: str | None = None,
        confined_to: str | None = None,
    ) -> None:
        """Say where things are, and for whom.

        Args:
            store: of the artefacts.
            data_dir: where the files of built-in datasets may lie.
            owner: whose is what would be made; None where keys are switched off.
            confined_to: whose artefacts are all that is seen; None sees everything.
        """
        self._store = store
        self._data_dir = data_dir
        self._owner = owner
        self._confined_to = confined_to

    def seen_by(self, caller: Caller) -> "StoreCatalogue":
        """Return the catalogue as the caller sees it."""
        return StoreCatalogue(self._store, self._data_dir, owner=caller.owner, confined_to=caller.confined_to)

    @property
    def confined_to(self) -> str | None:
        """Whose artefacts are all that is seen; None where that is everything."""
        return self._confined_to

    def dataset(self, name: str) -> DatasetView:
        """Return the dataset; a built-in one has a manifest once it was used.

        Raises:
            DatasetNotFound: no such name, neither stored nor built in, or it is another owner's.
        """
        if not self._sees_dataset(name):
            raise DatasetNotFound(name)
        try:
            manifest = self._store.datasets.get(name)
        except DatasetNotFound:
            if name not in BUILTIN_DATASETS:
                raise
            manifest = None
        return DatasetView(
            name=name,
            builtin=name in BUILTIN_DATASETS,
            available=manifest is not None or builtin.available(name, self._data_dir),
            description=BUILTIN_DATASETS.get(name) or (manifest.source if manifest is not None else ""),
            manifest=manifest,
        )

    def datasets(self) -> tuple[DatasetView, ...]:
        """Return all datasets, stored or built in, by name."""
        found = []
        for name in sorted({*BUILTIN_DATASETS, *filter(self._sees_dataset, self._store.datasets.names())}):
            with suppress(DatasetNotFound):  # deleted since its name was read
                found.append(self.dataset(name))
        return tuple(found)

    def teacher(self, name: str) -> TeacherDescription:
        """Return the teacher as it is now; raises `TeacherNotFound`, also where it is another owner's."""
        if not self._sees("teachers", name):
            raise TeacherNotFound(name)
        return self._store.teachers.current(name)

    def need_teacher_name(self, name: str) -> None:
        """Raise `TeacherExists` where a teacher of this name is somebody else's, or nobody's.

        This holds for administrators, too: what somebody has is not replaced under their feet. The worker
        looks again, as others may take the name meanwhile.
        """
        owners = self._store.owners
        if self._owner is None or owners.may_see("teachers", name, self._owner):
            return
        if self._store.teachers.has(name):
            raise TeacherExists(name)

    def need_every_folder(self, folder: str) -> None:
        """Raise `IncomingNotFound` where a caller may not name folders that were put into the store."""
        if self._confined_to is not None:
            raise IncomingNotFound(folder)

    def student(self, version: str | None) -> StudentCard:
        """Return the card of a student, of the live one for None.

        Raises:
            StudentNotFound: there is no such version, or it is another owner's.
            NoLiveStudent: none was promoted yet.
        """
        if version is None:
            live = self._store.students.live()
            if live is None:
                raise NoLiveStudent
            version = live.version
        if not self.sees_student(version):
            raise StudentNotFound(version)
        return self._store.students.card(version)

    def students(self) -> list[StudentCard]:
        """Return the cards of all students, newest first. A damaged one is left out, and the log says so."""
        return self._store.students.list(self.sees_student)

    def sees_student(self, version: str) -> bool:
        """Tell whether a student of this version, if there is one, is to be seen."""
        return self._sees("students", version)

    def sees_transfer_set(self, digest: str) -> bool:
        """Tell whether a transfer set of this digest, if there is one, is to be seen."""
        return self._sees("transfer_sets", digest)

    def kept(self, collection: str) -> KeptCollection:
        """Return what is kept under a name; it has no owner, so `KeptNotFound` for all but administrators."""
        if self._confined_to is not None:
            raise KeptNotFound(collection)
        return self._store.kept.show(collection)

    def teachers(self) -> tuple[TeacherDescription, ...]:
        """Return all teachers, by name. A damaged one is left out, and the log says so."""
        found = []
        for name in self._store.owners.seen("teachers", self._store.teachers.names(), self._confined_to):
            try:
                found.append(self.teacher(name))
            except (Corrupt, TeacherNotFound) as error:
                log.warning("teacher left out", extra={"teacher": name, "detail": str(error)})
        return tuple(found)

    def _sees_dataset(self, name: str) -> bool:
        return name in BUILTIN_DATASETS or self._sees("datasets", name)

    def _sees(self, collection: Collection, name: str) -> bool:
        return self._store.owners.may_see(collection, name, self._confined_to)

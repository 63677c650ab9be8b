"""What datasets and teachers there are, as the artefact store and the data directory show it now."""

import logging
from pathlib import Path

from shared.artefacts.store import ArtefactStore
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetView
from shared.contracts.kept import KeptCollection
from shared.contracts.students import StudentCard
from shared.contracts.teachers import TeacherDescription
from shared.datasets import builtin
from shared.errors import Corrupt, DatasetNotFound, NoLiveStudent, TeacherNotFound

log = logging.getLogger(__name__)


class StoreCatalogue:
    """The `Catalogue` of jobs on the artefact store; also what the lists of the API are made of."""

    def __init__(self, store: ArtefactStore, data_dir: Path | None) -> None:
        self._store = store
        self._data_dir = data_dir

    def dataset(self, name: str) -> DatasetView:
        """Return the dataset; a built-in one has a manifest once it was used.

        Raises:
            DatasetNotFound: no such name, neither stored nor built in.
        """
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
        return tuple(map(self.dataset, sorted({*BUILTIN_DATASETS, *self._store.datasets.names()})))

    def teacher(self, name: str) -> TeacherDescription:
        """Return the teacher as it is now; raises `TeacherNotFound`."""
        return self._store.teachers.current(name)

    def student(self, version: str | None) -> StudentCard:
        """Return the card of a student, of the live one for None.

        Raises:
            StudentNotFound: there is no such version.
            NoLiveStudent: none was promoted yet.
        """
        if version is None:
            live = self._store.students.live()
            if live is None:
                raise NoLiveStudent
            version = live.version
        return self._store.students.card(version)

    def kept(self, collection: str) -> KeptCollection:
        """Return what is kept under a name; raises `KeptNotFound`."""
        return self._store.kept.show(collection)

    def teachers(self) -> tuple[TeacherDescription, ...]:
        """Return all teachers, by name. A damaged one is left out, and the log says so."""
        found = []
        for name in self._store.teachers.names():
            try:
                found.append(self.teacher(name))
            except (Corrupt, TeacherNotFound) as error:
                log.warning("teacher left out", extra={"teacher": name, "detail": str(error)})
        return tuple(found)

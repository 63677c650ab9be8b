"""The artefact store: one folder, shared by all services, in which nothing whole is ever changed in place."""

from pathlib import Path

from shared.artefacts.datasets import DatasetStore
from shared.artefacts.jobs import JobFiles
from shared.artefacts.kept import KeptStore
from shared.artefacts.keys import KeyStore
from shared.artefacts.owners import Owners
from shared.artefacts.students import StudentStore
from shared.artefacts.teachers import TeacherStore


class ArtefactStore:
    """Datasets, teachers, students, kept images, keys and job files under one root.

    Transfer sets are kept by `shared.transfer_set.store`.

    Making one touches no disk: folders appear with their first content. Several processes may use it at once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.datasets = DatasetStore(root / "datasets")
        self.teachers = TeacherStore(root / "teachers")
        self.students = StudentStore(root / "students")
        self.kept = KeptStore(root / "kept")
        self.keys = KeyStore(root)
        self.owners = Owners(root / "owners")

    def job(self, job_id: str) -> JobFiles:
        """Return where the job of this id keeps its files."""
        return JobFiles(self.root / "jobs", job_id)

"""Who has what in the store: an empty file for each owner of an artefact.

Beside the artefacts and not in them: what is named by its content may have several owners, who came to the
same content on their own, and whoever else wants it must not change its digest.
"""

from pathlib import Path
from typing import Literal

from shared.artefacts.files import sync_directory

Collection = Literal["datasets", "teachers", "students", "transfer_sets"]


class Owners:
    """`owners/<collection>/<name>/<owner>`, of an artefact store.

    An artefact without any owner was made while keys were switched off, and is for administrators.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, collection: Collection, name: str, owner: str | None) -> None:
        """Note that it is theirs too; None, where keys are switched off, notes nothing."""
        if owner is None:
            return
        folder = self._directory / collection / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / owner).touch()
        sync_directory(folder)

    def of(self, collection: Collection, name: str) -> frozenset[str]:
        """Return all owners."""
        try:
            return frozenset(entry.name for entry in (self._directory / collection / name).iterdir())
        except FileNotFoundError:
            return frozenset()

    def may_see(self, collection: Collection, name: str, confined_to: str | None) -> bool:
        """Say whether a caller who is confined to an owner's artefacts sees it; None sees everything."""
        return confined_to is None or (self._directory / collection / name / confined_to).exists()

    def forget(self, collection: Collection, name: str) -> None:
        """Remove all owners of what is deleted."""
        folder = self._directory / collection / name
        for entry in self.of(collection, name):
            (folder / entry).unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()

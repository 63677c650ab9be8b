"""Who has what in the store: an empty file for each owner of an artefact.

Beside the artefacts and not in them: what is named by its content may have several owners, who came to the
same content on their own, and whoever else wants it must not change its digest. An owner is noted before the
artefact can be seen, so that a process that dies in between leaves nothing that its owner cannot see.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from shared.artefacts.files import exclusive_lock, sync_directory
from shared.artefacts.names import is_name, is_version

Collection = Literal["datasets", "teachers", "students", "transfer_sets"]


class Owners:
    """`owners/<collection>/<name>/<owner>`, of an artefact store.

    An artefact without any owner was made while keys were switched off, and is for administrators.
    Everything may be called from several processes at once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, collection: Collection, name: str, owner: str | None) -> None:
        """Note that it is theirs too; None, where keys are switched off, notes nothing.

        Raises:
            ValueError: that cannot be the name of an artefact, or of an owner.
        """
        if owner is None:
            return
        folder = self._folder(collection, name)
        if not is_name(owner):
            raise ValueError(f"an owner cannot be called {owner!r}")
        with self._changing(collection):
            if (folder / owner).exists():
                return
            folder.mkdir(parents=True, exist_ok=True)
            (folder / owner).touch()
            for path in (folder, folder.parent, self._directory):
                sync_directory(path)

    def of(self, collection: Collection, name: str) -> frozenset[str]:
        """Return all owners; none of what is no name."""
        if not is_version(name):
            return frozenset()
        try:
            return frozenset(entry.name for entry in (self._directory / collection / name).iterdir())
        except FileNotFoundError:
            return frozenset()

    def may_see(self, collection: Collection, name: str, confined_to: str | None) -> bool:
        """Say whether a caller who is confined to an owner's artefacts sees it; None sees everything."""
        if confined_to is None:
            return True
        if not is_version(name) or not is_name(confined_to):
            return False
        # Not by `Path`, which takes longer than the look itself; a list takes one for each artefact.
        return os.access(f"{self._directory}/{collection}/{name}/{confined_to}", os.F_OK)

    def seen(self, collection: Collection, names: Iterable[str], confined_to: str | None) -> list[str]:
        """Return those of these names that such a caller sees, in their order."""
        return [name for name in names if self.may_see(collection, name, confined_to)]

    def give_up(self, collection: Collection, name: str, owner: str) -> frozenset[str]:
        """Note that it is theirs no more; return who has it still."""
        with self._changing(collection):
            (self._folder(collection, name) / owner).unlink(missing_ok=True)
            left = self.of(collection, name)
            if not left:
                self._forget(collection, name)
            return left

    def forget(self, collection: Collection, name: str) -> None:
        """Remove all owners of what is deleted."""
        if self._folder(collection, name).exists():
            with self._changing(collection):
                self._forget(collection, name)

    @contextmanager
    def held(self, collection: Collection, name: str) -> Iterator[None]:
        """Keep every other process from taking this name, or from deleting what bears it, for a while."""
        with exclusive_lock(self._folder(collection, name).parent / f".{name}.lock"):
            yield

    @contextmanager
    def taking(
        self, collection: Collection, name: str, owner: str | None, is_there: Callable[[str], bool]
    ) -> Iterator[bool]:
        """Hold a name that people choose while something is published under it; yield whether they may.

        They may where nothing bears the name, and become its owner before anything does; and where it is
        theirs already. Where keys are switched off everybody may.

        Args:
            collection: whose names no two owners share.
            name: of a dataset or a teacher.
            owner: who publishes.
            is_there: tells whether something bears the name.
        """
        with self.held(collection, name):
            if not is_there(name):
                # Whoever took it before never published, or what they published was deleted.
                self.forget(collection, name)
                self.add(collection, name, owner)
                yield True
            else:
                yield owner is None or self.may_see(collection, name, owner)

    def _forget(self, collection: Collection, name: str) -> None:
        folder = self._folder(collection, name)
        for entry in self.of(collection, name):
            (folder / entry).unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
            sync_directory(folder.parent)

    def _folder(self, collection: Collection, name: str) -> Path:
        if not is_version(name):
            raise ValueError(f"no name of an artefact: {name!r}")
        return self._directory / collection / name

    @contextmanager
    def _changing(self, collection: Collection) -> Iterator[None]:
        """Let no folder vanish under a process that is about to write into it."""
        with exclusive_lock(self._directory / collection / ".lock"):
            yield

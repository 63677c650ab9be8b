"""The students as models of the protocol: a model is a name, its versions are all students of that name."""

import time
from pathlib import Path
from typing import Final

from shared.artefacts.students import StudentStore

_SETTLED_S: Final = 2.0
"""After so long a change of a folder can be told from the next one by its time."""


class Models:
    """Names and versions in the store. `versions` reads files; it may be called from several threads.

    Args:
        students: the store.
        root: its folder, whose time of change tells whether there may be other students now.
    """

    def __init__(self, students: StudentStore, root: Path) -> None:
        self._students = students
        self._root = root
        self._known: tuple[int, dict[str, tuple[str, ...]]] | None = None

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Return the versions of each name, newest first."""
        try:
            changed_ns = self._root.stat().st_mtime_ns
        except OSError:
            return {}
        known = self._known
        if known is not None and known[0] == changed_ns:
            return known[1]
        found: dict[str, tuple[str, ...]] = {}
        for card in self._students.list():
            found[card.name] = (*found.get(card.name, ()), card.version)
        if time.time() - changed_ns / 1e9 > _SETTLED_S:
            self._known = changed_ns, found
        return found

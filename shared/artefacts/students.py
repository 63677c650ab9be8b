"""The store of students: `students/<version>/` with the card and its files, and `live.json`: who answers.

`traffic.json` beside it says how much of the traffic goes to others. Both change under one lock, so that no
candidate is the live student, and none that either file names is deleted.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from shared.artefacts.files import (
    exclusive_lock,
    publish_directory,
    remove_directory,
    sha256_file,
    sweep_temporaries,
    write_atomic,
)
from shared.artefacts.names import is_version
from shared.artefacts.room import room
from shared.artefacts.traffic import TrafficFile
from shared.contracts.students import LiveStudent, StudentCard
from shared.contracts.traffic import Traffic, TrafficPolicy
from shared.errors import (
    Corrupt,
    FileNotInBundle,
    NothingToRollBack,
    StudentInUse,
    StudentNotFound,
    TrafficRefused,
)

log = logging.getLogger(__name__)

CARD = "card.json"
LIVE = "live.json"
_LOCK = ".live.lock"
_MOST_PREVIOUS = 100


class StudentStore:
    """Students by version. A version never changes; which version is live does, one change at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._traffic = TrafficFile(root)

    def publish(self, version: str, build: Callable[[Path], None]) -> bool:
        """Store a bundle that `build` writes: `card.json` and the files whose digests it lists.

        Returns:
            False if the version exists already; it stays as it is.

        Raises:
            ValueError: the version is no safe name, or the card is missing or for another version.
            Corrupt: a file is missing or not what the card says.
        """
        if not is_version(version):
            raise ValueError(f"a student's version cannot be {version!r}")

        def build_checked(directory: Path) -> None:
            build(directory)
            card = StudentCard.model_validate_json((directory / CARD).read_bytes())
            if card.version != version:
                raise ValueError(f"the card of {version!r} is for {card.version!r}")
            for name in card.files:
                _check(card, name, directory / name)

        return publish_directory(self._root / version, build_checked)

    def card(self, version: str) -> StudentCard:
        """Return the card of a student.

        Raises:
            StudentNotFound: there is no such version.
            Corrupt: the card is unreadable or for another version.
        """
        if not is_version(version):
            raise StudentNotFound(version)
        path = self._root / version / CARD
        try:
            card = StudentCard.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise StudentNotFound(version) from None
        except ValidationError as error:
            raise Corrupt(str(path)) from error
        if card.version != version:
            raise Corrupt(str(path))
        return card

    def has(self, version: str) -> bool:
        """Tell whether there is such a version, whole or damaged."""
        return is_version(version) and self.directory(version).is_dir()

    def directory(self, version: str) -> Path:
        """Return where the bundle of a version lies, which `card` has found."""
        return self._root / version

    def list(self, wanted: Callable[[str], bool] = lambda _: True) -> list[StudentCard]:
        """Return the cards of all students, newest first. A damaged one is left out, and the log says so.

        Args:
            wanted: tells of a version whether its card is; the others are not opened.
        """
        if not self._root.is_dir():
            return []
        cards = []
        for path in self._root.iterdir():
            if not is_version(path.name) or not path.is_dir() or not wanted(path.name):
                continue
            try:
                cards.append(self.card(path.name))
            except Corrupt as error:
                log.warning("student left out", extra={"version": path.name, "path": error.path})
        return sorted(cards, key=lambda card: (card.created_at, card.version), reverse=True)

    def file(self, version: str, name: str, *, verify: bool = False) -> Path:
        """Return the path of a file that the card lists, or of the card.

        Args:
            version: the student.
            name: exactly as on the card; nothing else is ever looked for on the disk.
            verify: compare the file with its digest first, as everything that loads it should.

        Raises:
            StudentNotFound: there is no such version.
            FileNotInBundle: the card does not list the name.
            Corrupt: the file is missing, or `verify` found another digest.
        """
        card = self.card(version)
        path = self._root / version / name
        if name == CARD:
            return path
        if name not in card.files or Path(name).name != name:
            raise FileNotInBundle(f"student {version!r}", name, (CARD, *sorted(card.files)))
        if verify:
            _check(card, name, path)
        elif not path.is_file():
            raise Corrupt(str(path))
        return path

    # --- which one is live -------------------------------------------------------------------------------

    def live(self) -> LiveStudent | None:
        """Return which student answers predictions, or None before the first promotion."""
        path = self._root / LIVE
        try:
            return LiveStudent.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Corrupt(str(path)) from error

    def promote(self, version: str) -> LiveStudent:
        """Let a student answer predictions; promoting the live one changes nothing.

        Where it was a candidate of the traffic policy, it is none any more.

        Raises:
            StudentNotFound: there is no such version.
            StoreFull: there is no room to write that down, as in every method that changes who answers.
        """
        with self._changing():
            return self._promote(version, self.live())

    def succeed(self, version: str, incumbent: str | None) -> LiveStudent | None:
        """Promote a student in the place of the one that it was compared with, and of no other.

        Args:
            version: the new student.
            incumbent: who must be live still; None where nobody was.

        Returns:
            None where somebody else is live by now; nothing is changed then.

        Raises:
            StudentNotFound: there is no such version.
        """
        with self._changing():
            live = self.live()
            if (live.version if live is not None else None) not in (incumbent, version):
                return None
            return self._promote(version, live)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with room(self._root / LIVE), exclusive_lock(self._root / _LOCK):
            yield

    def _promote(self, version: str, live: LiveStudent | None) -> LiveStudent:
        self.card(version)
        # First: where this process dies in between, a canary has ended early, and none is left over.
        self._traffic.end(version)
        if live is None:
            return self._set_live(version, (), 1)
        if live.version == version:
            return live
        return self._set_live(version, (*live.previous, live.version), live.promotion + 1)

    def rollback(self) -> LiveStudent:
        """Let the student answer again that was live before the present one.

        Raises:
            NothingToRollBack: no other student was live before.
        """
        with self._changing():
            live = self.live()
            if live is None or not live.previous:
                raise NothingToRollBack
            self.card(live.previous[-1])
            self._traffic.end(live.version, live.previous[-1])
            return self._set_live(live.previous[-1], live.previous[:-1], live.promotion + 1)

    # --- how much of the traffic goes to others ----------------------------------------------------------

    def traffic(self) -> Traffic:
        """Return the traffic policy; raises `Corrupt` where its file is unreadable."""
        return self._traffic.read()

    def set_traffic(self, policy: TrafficPolicy, *, revision: int | None = None) -> Traffic:
        """Replace the traffic policy as a whole; the same one again changes nothing.

        Args:
            policy: what is to hold.
            revision: of the policy that is to be replaced; None for whatever is there.

        Raises:
            RevisionMismatch: another one is there.
            StudentNotFound: a version that it names does not exist.
            TrafficRefused: a version that it names is the live one.
        """
        with self._changing():
            live = self.live()
            for version in sorted(policy.students):
                self.card(version)
                if live is not None and live.version == version:
                    raise TrafficRefused(
                        "candidate",
                        f"{version!r} is the live student",
                        "Name another version; GET /v1/students lists them.",
                    )
            return self._traffic.write(policy, revision=revision)

    # --- deleting ----------------------------------------------------------------------------------------

    def delete(self, version: str) -> None:
        """Remove a student, whole or damaged, and let no rollback go to it.

        Whoever has it in memory may go on with it. A process that dies on the way leaves a student that is
        there as before, or a temporary that the next one clears away.

        Raises:
            StudentNotFound: there is no such version.
            StudentInUse: it is the live one, or the traffic policy names it.
        """
        if not self.has(version):
            raise StudentNotFound(version)
        with self._changing():
            live = self.live()
            if live is not None and live.version == version:
                raise StudentInUse(version, "it answers predictions")
            if self._traffic.names(version):
                raise StudentInUse(version, "the traffic policy names it")
            if live is not None and version in live.previous:
                self._write_live(live.model_copy(update={"previous": _without(version, live)}))
            if not remove_directory(self.directory(version)):
                raise StudentNotFound(version)

    def sweep(self) -> None:
        """Clear away what a process left that died while it published or deleted."""
        if self._root.is_dir():
            sweep_temporaries(self._root)

    def _set_live(self, version: str, previous: tuple[str, ...], promotion: int) -> LiveStudent:
        live = LiveStudent(
            version=version,
            previous=previous[-_MOST_PREVIOUS:],
            promotion=promotion,
            changed_at=datetime.now(UTC),
        )
        self._write_live(live)
        return live

    def _write_live(self, live: LiveStudent) -> None:
        write_atomic(self._root / LIVE, live.model_dump_json(indent=2).encode())


def _without(version: str, live: LiveStudent) -> tuple[str, ...]:
    """Return the way back without a version, and so that each step still leads to another student."""
    way = [one for one in live.previous if one != version]
    return tuple(one for one, after in zip(way, [*way[1:], live.version], strict=True) if one != after)


def _check(card: StudentCard, name: str, path: Path) -> None:
    try:
        found = sha256_file(path)
    except FileNotFoundError as error:
        raise Corrupt(str(path)) from error
    if found != card.files[name].sha256 or path.stat().st_size != card.files[name].size_bytes:
        raise Corrupt(str(path))

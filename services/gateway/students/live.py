"""Which student answers: the one that `live.json` names, loaded in this process and swapped in one step.

The pointer in the store is the truth. A promotion moves it; every process, also of other gateways on the same
store, looks at it a few times a second, loads and checks the new student in a thread, and then replaces one
reference. A request holds the student that it began with, so each answer is from exactly one version.
"""

import asyncio
import logging
import threading
import time

from shared.artefacts.files import stamp_of
from shared.artefacts.store import ArtefactStore
from shared.artefacts.students import LIVE, StudentStore
from shared.contracts.evaluation import Verdict
from shared.contracts.students import LiveStudent, StudentCard
from shared.errors import (
    Corrupt,
    DistillationError,
    NoLiveStudent,
    NoMeasuredGain,
    NothingToRollBack,
    StudentNotLoaded,
    StudentUnusable,
)
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

_RETRY_S = 5.0
"""After a load that failed; another promotion is looked at earlier."""
_MOST_TRIED = 3
"""Earlier students that a process tries that has just started and cannot load the promoted one."""


class Live:
    """The student of this process. `student` is for the event loop, the other methods block."""

    def __init__(self, store: ArtefactStore, *, threads: int) -> None:
        self.problem: str | None = None
        """Why the promoted student is not the one that answers."""
        self._students = store.students
        self._pointer = store.root / "students" / LIVE
        self._threads = threads
        self._student: StudentSession | None = None
        self._loading = threading.Lock()

    @property
    def current(self) -> StudentSession | None:
        """The student that answers now, or None where `student` would raise."""
        return self._student

    @property
    def version(self) -> str | None:
        """Version of the student that answers."""
        student = self._student
        return student.version if student is not None else None

    @property
    def ready(self) -> bool:
        """Whether nothing is missing: a student answers, or none was promoted yet."""
        return self._student is not None or self.problem is None

    def student(self) -> StudentSession:
        """Return the student that answers now.

        Raises:
            NoLiveStudent: none was promoted yet.
            StudentNotLoaded: one was promoted, but it could not be loaded and there is no earlier one.
        """
        student = self._student
        if student is not None:
            return student
        if self.problem is not None:
            raise StudentNotLoaded(self.problem)
        raise NoLiveStudent

    def promote(self, version: str) -> LiveStudent:
        """Move the pointer to `version` and answer from it at once in this process.

        Raises:
            StudentNotFound: there is no such version.
            StudentUnusable: it does not load or does not answer as its card says; the pointer stays.
            NoMeasuredGain: it is a generalist with specialists, and they were not measured to be of use.
        """
        candidate = self._load(version)
        _need_gain(candidate.card)
        live = self._students.promote(version)
        self.refresh(candidate)
        return live

    def rollback(self) -> LiveStudent:
        """Move the pointer back to the student that was live before, which is checked first.

        Raises:
            NothingToRollBack: no other student was live before.
            StudentUnusable: the earlier one does not load; the pointer stays.
        """
        live = self._students.live()
        if live is None or not live.previous:
            raise NothingToRollBack
        candidate = self._load(live.previous[-1])
        live = self._students.rollback()
        self.refresh(candidate)
        return live

    def refresh(self, candidate: StudentSession | None = None) -> None:
        """Answer from the student that the pointer names; where it cannot be loaded, from the one before.

        That is the one that this process has. A process that has just started loads it: it answers as those
        do that run already.

        Args:
            candidate: a student that is loaded already, used where the pointer names it.
        """
        with self._loading:
            live: LiveStudent | None = None
            try:
                live = self._students.live()
                if live is None:
                    return
                if self._student is None or self._student.version != live.version:
                    before = self.version
                    fits = candidate is not None and candidate.version == live.version
                    self._student = candidate if fits else self._load(live.version)
                    log.info("student is live", extra={"student": live.version, "before": before})
                self.problem = None
            except DistillationError as error:
                self._keep(str(error), live)
            except (OSError, MemoryError):  # the watcher goes on, and the student before answers
                self._keep("it could not be read; the log of the gateway says why", live)

    async def watch(self, every_s: float) -> None:
        """Follow the pointer until cancelled, looking every `every_s` seconds."""
        seen: tuple[int, int] | None = None
        tried = 0.0
        while True:
            stamp = await asyncio.to_thread(stamp_of, self._pointer)
            failed = self.problem is not None and time.monotonic() - tried > _RETRY_S
            if stamp != seen or failed:
                tried = time.monotonic()
                await asyncio.to_thread(self.refresh)
                seen = stamp
            await asyncio.sleep(every_s)

    def _keep(self, problem: str, live: LiveStudent | None) -> None:
        if self._student is None and live is not None:
            self._student = self._load_one_of(list(dict.fromkeys(reversed(live.previous)))[:_MOST_TRIED])
        if self.problem != problem:
            log.exception("the promoted student cannot be loaded", extra={"kept": self.version})
        self.problem = problem

    def _load_one_of(self, versions: list[str]) -> StudentSession | None:
        for version in versions:
            try:
                return self._load(version)
            except (DistillationError, OSError, MemoryError):
                log.warning("an earlier student cannot be loaded", extra={"student": version}, exc_info=True)
        return None

    def _load(self, version: str) -> StudentSession:
        return load_student(self._students, version, threads=self._threads)


def load_student(students: StudentStore, version: str, *, threads: int) -> StudentSession:
    """Return a student, loaded, checked and warmed.

    Args:
        students: where its bundle lies.
        version: the student's.
        threads: of ONNX Runtime for one call.

    Raises:
        StudentNotFound: there is no such version.
        StudentUnusable: its bundle does not load, or does not answer as its card says.
    """
    try:
        students.card(version)
    except Corrupt as error:
        raise StudentUnusable(version, "its card cannot be read") from error
    return StudentSession.load(students.directory(version), threads=threads)


def _need_gain(card: StudentCard) -> None:
    """Raise where specialists are no better than their generalist alone, which answers faster."""
    comparison = card.comparison
    useless = comparison.gain <= 0 or comparison.verdict is Verdict.DOES_NOT_BEAT
    if card.specialists is not None and useless:
        raise NoMeasuredGain(card.version, comparison.gain, comparison.verdict)

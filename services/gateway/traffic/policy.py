"""The policy that holds in this process: which student answers a request, and when the teacher is asked.

`traffic.json` in the store is the truth, as `live.json` is for the live student. Every process follows it:
what it names is loaded and checked first, in a thread, and then one reference is replaced. What cannot hold
is left out and told; the live student answers in its place.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakKeyDictionary

from services.gateway.students.live import Live
from services.gateway.students.versions import Versions
from services.gateway.traffic.canary import Split
from services.gateway.traffic.cascade import threshold_of
from services.gateway.traffic.preparing import Prepared, prepare
from shared.artefacts.files import stamp_of
from shared.artefacts.store import ArtefactStore
from shared.artefacts.traffic import TRAFFIC
from shared.contracts.traffic import Cascade, TrafficPolicy, TrafficView
from shared.errors import Corrupt
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

_RETRY_S = 5.0
"""After a candidate that could not be loaded; another change is looked at earlier."""


class Traffic:
    """Who answers. `student` and `threshold` are on the way of every prediction, and for the event loop.

    `refresh`, `set` and `view` block. `policy`, `canary` and `shadow_student` may be read anywhere.
    """

    def __init__(self, store: ArtefactStore, live: Live, versions: Versions) -> None:
        self.on_change: list[Callable[[], None]] = []
        """Are called on the event loop after what holds was replaced."""
        self.problems: tuple[str, ...] = ()
        """Why parts that are asked for do not hold here."""
        self._students = store.students
        self._file = store.root / "students" / TRAFFIC
        self._live = live
        self._versions = versions
        self._held = Prepared(TrafficPolicy())
        self._split: Split | None = None
        self._thresholds: _Thresholds | None = None
        self._changing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def policy(self) -> TrafficPolicy:
        """What holds now in this process, without the parts that cannot."""
        return self._held.policy

    @property
    def canary(self) -> StudentSession | None:
        """The candidate that answers a share of the requests."""
        return self._held.canary

    @property
    def shadow_student(self) -> StudentSession | None:
        """The candidate that is asked beside, where the shadow is a student."""
        return self._held.shadow

    def student(self, key: str | None) -> StudentSession:
        """Return the student that answers a request.

        Args:
            key: what the client calls itself, so that all its requests get the same student.

        Raises:
            NoLiveStudent: none was promoted yet.
            StudentNotLoaded: one was promoted, but it could not be loaded and there is no earlier one.
        """
        split = self._split
        if split is not None and split.takes(key):
            return split.candidate
        return self._live.student()

    def threshold(self, student: StudentSession) -> float | None:
        """Return the confidence below which the teacher is asked in place of the student, None for never."""
        thresholds = self._thresholds
        return None if thresholds is None else thresholds.of(student)

    def set(self, policy: TrafficPolicy, *, revision: int | None = None) -> TrafficView:
        """Let a policy hold, in this process at once; its candidates are loaded and checked first.

        Args:
            policy: replaces the one before as a whole.
            revision: of the one before; None for whatever it is.

        Raises:
            StudentNotFound: a version that it names does not exist.
            StudentUnusable: one does not load, or does not answer as its card says.
            TrafficRefused: one is the live student or does not fit it, or a teacher or a curve is missing.
            NoLiveStudent: a part needs a live student, and there is none.
            RevisionMismatch: the policy was changed meanwhile.
        """
        prepared = prepare(policy, self._live, self._versions)
        if prepared.refused:
            raise prepared.refused[0]
        self._students.set_traffic(policy, revision=revision)
        self.refresh()
        return self.view()

    def view(self) -> TrafficView:
        """Return the policy in the store, and what of it cannot hold here; raises `Corrupt`."""
        return TrafficView(**dict(self._students.traffic()), problems=self.problems)

    def refresh(self) -> None:
        """Let hold what the file says, as far as it can; where it is unreadable, what held before."""
        with self._changing:
            before = self._held
            try:
                asked = self._students.traffic()
            except (Corrupt, OSError) as error:
                self._tell_problems((str(error) if isinstance(error, Corrupt) else "it could not be read",))
                return
            # The old candidates stay pinned until the new ones have taken their place.
            self._versions.pin(before.policy.students | asked.policy.students)
            held = prepare(asked.policy, self._live, self._versions)
            self._split = (
                Split(held.canary, held.policy.canary.share)
                if held.canary is not None and held.policy.canary is not None
                else None
            )
            self._thresholds = None if held.policy.cascade is None else _Thresholds(held.policy.cascade)
            self._held = held
            self._versions.pin(held.policy.students)
            self._tell_problems(tuple(map(str, held.refused)))
            if (held.policy, held.canary, held.shadow) != (before.policy, before.canary, before.shadow):
                log.info("traffic policy holds", extra={"policy": held.policy.model_dump(exclude_none=True)})
                self._tell_change()

    def start(self) -> None:
        """Tell of changes on the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    async def watch(self, every_s: float) -> None:
        """Follow file, live student and deletions until cancelled, looking every `every_s` seconds."""
        seen: object = None
        tried = 0.0
        while True:
            found = (await asyncio.to_thread(self._look), self._live.version)
            failed = self.problems and time.monotonic() - tried > _RETRY_S
            if found != seen or failed:
                tried = time.monotonic()
                await asyncio.to_thread(self.refresh)
                seen = found
            await asyncio.sleep(every_s)

    def _look(self) -> tuple[object, bool]:
        """Return what changes whenever something has to be done."""
        gone = self._versions.forget_deleted()
        return stamp_of(self._file), bool(gone & self._held.policy.students)

    def _tell_problems(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self.problems:
                log.warning("a part of the traffic policy is off", extra={"problem": problem})
        self.problems = problems

    def _tell_change(self) -> None:
        if self._loop is None:
            self._call_all()
            return
        with suppress(RuntimeError):  # the loop has ended, and everybody with it
            self._loop.call_soon_threadsafe(self._call_all)

    def _call_all(self) -> None:
        for changed in self.on_change:
            changed()


class _Thresholds:
    """Of a cascade, for each student that answers; kept, as the line between two points takes a while."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self._known: WeakKeyDictionary[StudentSession, float | None] = WeakKeyDictionary()

    def of(self, student: StudentSession) -> float | None:
        """Return the threshold of a student, None where its teacher is never asked."""
        if student not in self._known:
            self._known[student] = threshold_of(student.card, self._cascade)
        return self._known[student]

"""Students beside the live one: loaded when somebody asks for them, checked and warmed, and a few kept.

A load takes from a tenth of a second to seconds, so it runs in a thread of its own, one at a time; whoever
asks for the same version meanwhile waits for the same load.
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from services.gateway.students.live import Live, load_student
from shared.artefacts.store import ArtefactStore
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)


class Versions:
    """Sessions by version. `get` is for the event loop; `load`, which blocks, for every other thread.

    Args:
        store: where the bundles lie.
        live: the student that answers. It is handed out from there, never loaded a second time.
        threads: of ONNX Runtime for one call.
        most: sessions that are kept beside the live one and the pinned ones; the longest unused goes first.
    """

    def __init__(self, store: ArtefactStore, live: Live, *, threads: int, most: int) -> None:
        self._students = store.students
        self._live = live
        self._threads = threads
        self._most = most
        self._pinned: frozenset[str] = frozenset()
        self._kept: OrderedDict[str, StudentSession] = OrderedDict()
        """The longest unused first."""
        self._loading: dict[str, Future[StudentSession]] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="versions")

    @property
    def loaded(self) -> tuple[str, ...]:
        """Versions in memory beside the live one, the longest unused first."""
        with self._lock:
            return tuple(self._kept)

    async def get(self, version: str) -> StudentSession:
        """Return the student of this version, at once where it is in memory.

        Raises:
            StudentNotFound: there is no such version.
            StudentUnusable: its bundle does not load, or does not answer as its card says.
        """
        found = self._find(version)
        if isinstance(found, Future):
            # Shielded: a client that goes away must not cancel the load that others wait for.
            return await asyncio.shield(asyncio.wrap_future(found))
        return found

    def load(self, version: str) -> StudentSession:
        """Return the student as `get` does, and raise the same; blocks."""
        found = self._find(version)
        return found.result() if isinstance(found, Future) else found

    def pin(self, versions: frozenset[str]) -> None:
        """Keep these versions once they are loaded, and only these; replaces what was pinned before."""
        with self._lock:
            self._pinned = versions
            unused = self._take_unused()
        _let_go(unused)

    def forget(self, version: str) -> None:
        """Let go of a version that was deleted; who holds the session may go on with it."""
        with self._lock:
            self._kept.pop(version, None)

    def forget_deleted(self) -> frozenset[str]:
        """Forget the versions that the store has no more, and return them; blocks."""
        gone = frozenset(version for version in self.loaded if not self._students.has(version))
        for version in gone:
            self.forget(version)
        return gone

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _find(self, version: str) -> StudentSession | Future[StudentSession]:
        live = self._live.current
        with self._lock:
            if live is not None and live.version == version:
                self._kept.pop(version, None)  # of the time before its promotion
                return live
            kept = self._kept.get(version)
            if kept is not None:
                self._kept.move_to_end(version)
                return kept
            loading = self._loading.get(version)
            if loading is None:
                loading = self._loading[version] = self._loader.submit(self._load, version)
            return loading

    def _load(self, version: str) -> StudentSession:
        try:
            student = load_student(self._students, version, threads=self._threads)
            log.info("student is loaded", extra={"student": version})
            with self._lock:
                self._kept[version] = student
                unused = self._take_unused()
            _let_go(unused)
            return student
        finally:
            with self._lock:
                self._loading.pop(version, None)

    def _take_unused(self) -> list[StudentSession]:
        unpinned = [version for version in self._kept if version not in self._pinned]
        return [self._kept.pop(version) for version in unpinned[: max(0, len(unpinned) - self._most)]]


def _let_go(unused: list[StudentSession]) -> None:
    """Free sessions, which takes a while: not under the lock, for which the event loop may wait."""
    while unused:
        log.info("student is let go", extra={"student": unused.pop().version})

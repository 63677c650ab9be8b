"""Keeps images that the student was not sure of, where the traffic policy says that it may.

Off the path of the answer: `offer` looks at the policy and fills a bounded queue, a thread writes batches to
the store. What finds the queue full is dropped and counted; nobody ever waits for an image to be kept.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import Counter

from shared.artefacts.kept import KeptImage, KeptStore, Witness
from shared.contracts.kept import KeptReason
from shared.contracts.traffic import Keeping
from shared.errors import DistillationError
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

_MOST_WAITING: Final = 2048
"""Images that wait to be written."""
_MOST_WAITING_BYTES: Final = 32 * 2**20
"""What they may hold: of large images, fewer wait."""
_BATCH: Final = 256
"""Images a transaction, at most."""

KEPT = Counter("imago_kept_images_total", "Images that were kept", ["reason"])
NOT_KEPT = Counter(
    "imago_not_kept_images_total",
    "Images offered with consent and not kept: known already, no room, queue full, store failed",
    ["why"],
)


class _Waiting(NamedTuple):
    collection: str
    student: StudentSession
    image: KeptImage


class Keeper:
    """Writes images to a collection. `offer` is for the event loop, the other methods block.

    Args:
        store: where they are kept.
        keeping: returns what the policy of this process says now; None is no consent.
    """

    def __init__(self, store: KeptStore, keeping: Callable[[], Keeping | None]) -> None:
        self._store = store
        self._keeping = keeping
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._failing = False

    def offer(self, student: StudentSession, pixels: bytes, reason: KeptReason) -> None:
        """Keep an image if the policy allows it for this reason. Returns at once and never raises.

        Args:
            student: who was not sure of it.
            pixels: what it saw: height x width x channels, uint8, as `shared.serving.images.pixels` gives it.
            reason: why it is worth learning from.
        """
        keeping = self._keeping()
        if keeping is None or not (keeping.escalated if reason == "escalated" else keeping.disagreed):
            return
        if self._queue.qsize() >= min(_MOST_WAITING, 1 + _MOST_WAITING_BYTES // len(pixels)):
            NOT_KEPT.labels("queue_full").inc()
            return
        self._queue.put(_Waiting(keeping.collection, student, KeptImage(pixels, reason, time.time())))
        if self._writer is None:
            self._writer = threading.Thread(target=self._run, name="keeper", daemon=True)
            self._writer.start()

    def stop(self) -> None:
        """Write what waits, then end the thread."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None

    def _run(self) -> None:
        while True:
            batch, ended = self._take()
            # By collection and student: these are the same for all of a call to the store.
            groups: dict[tuple[str, int], list[_Waiting]] = {}
            for one in batch:
                groups.setdefault((one.collection, id(one.student)), []).append(one)
            for group in groups.values():
                self._write(group)
            if ended:
                return

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Return what waits, at least one image, and whether it was the last."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while len(batch) < _BATCH:
            try:
                one = self._queue.get_nowait()
            except queue.Empty:
                break
            if one is None:
                return batch, True
            batch.append(one)
        return batch, False

    def _write(self, group: list[_Waiting]) -> None:
        keeping = self._keeping()
        if keeping is None or keeping.collection != group[0].collection:
            # Consent was withdrawn while they waited: what is deleted then must not come back.
            NOT_KEPT.labels("withdrawn").inc(len(group))
            return
        student = group[0].student
        witness = Witness(student.version, student.card.dataset, student.input, student.classes)
        try:
            added = self._store.add(
                keeping.collection, witness, [one.image for one in group], most_images=keeping.most_images
            )
        except (OSError, DistillationError):
            if not self._failing:  # once, and not for each batch of a full disk
                log.exception("images cannot be kept", extra={"collection": keeping.collection})
            self._failing = True
            NOT_KEPT.labels("store_failed").inc(len(group))
            return
        self._failing = False
        for reason in ("escalated", "disagreed"):
            kept = sum(reason == added_reason for added_reason in added.kept)
            if kept:
                KEPT.labels(reason).inc(kept)
        NOT_KEPT.labels("known").inc(len(group) - len(added.kept) - added.refused)
        NOT_KEPT.labels("no_room").inc(added.refused)

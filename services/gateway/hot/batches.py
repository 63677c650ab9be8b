"""Merges requests into calls of the student. Nobody ever waits for a batch to fill.

A student that answers in less than half a millisecond is run on the event loop: what one turn of the loop has
brought is one call, and a single request is a call at once. A thread would cost such a student more than it
takes. Every slower student runs in a thread of its own, and what waits when it gets free is the next call.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32

from services.gateway.hot.answered import DIGITS, Answered, Escalate, Found, Observer, Uncertain
from services.gateway.hot.answers import body
from services.gateway.hot.asked import Asked
from shared.errors import DeadlineExceeded, QueueFull
from shared.serving.images import stacked
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

LOOP_S = 0.0005
"""Up to here a call is made on the event loop."""
_CALL_S = 0.008
"""What a call may take, so that who comes after it waits little: fewer images where one takes long."""
_MOST_IMAGES = 64
"""In one call; beyond it, an image costs no less."""


class Batches:
    """The requests that wait. `submit` is for the event loop.

    Args:
        most_waiting: images that may wait.
        observers: are told of each call once its answers are sent.
    """

    def __init__(self, *, most_waiting: int, observers: Iterable[Observer] = ()) -> None:
        self.observers = list(observers)
        self.escalate: Escalate | None = None
        """Takes requests whose confidence is below their threshold."""
        self._most = most_waiting
        self._turn = _Queue()
        self._turn_scheduled = False
        self._thread = _Queue()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._runner: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Answer from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """End the thread after what waits has been answered."""
        if self._runner is not None:
            self._wake.put(False)
            self._runner.join()
            self._runner = None

    def need_room(self, student: StudentSession, images: int) -> None:
        """Raise `QueueFull` where more images would wait than may; one request alone always may."""
        waiting = self._turn.images + self._thread.images
        if waiting and waiting + images > self._most:
            raise QueueFull("predictions", self._most, retry_after_s=waiting * student.seconds_per_image)

    def submit(self, asked: Asked) -> None:
        """Answer the request by its `done`, with the next call that has room."""
        assert self._loop is not None  # the app has started
        asked.queued = time.perf_counter()
        if asked.student.call_s <= LOOP_S:
            self._turn.add(asked)
            if not self._turn_scheduled:
                self._turn_scheduled = True
                self._loop.call_soon(self._answer_turn)
            return
        self._thread.add(asked)
        if self._runner is None:
            self._runner = threading.Thread(target=self._run, name="student", daemon=True)
            self._runner.start()
        self._wake.put(True)

    def _answer_turn(self) -> None:
        batch, late = self._turn.take()
        # A turn at a time, so that new requests and other routes come in between.
        self._turn_scheduled = bool(self._turn.images)
        if self._turn_scheduled:
            assert self._loop is not None
            self._loop.call_soon(self._answer_turn)
        self._refuse(late)
        if batch:
            self.finish(batch, call(batch))

    def _run(self) -> None:
        assert self._loop is not None
        while self._wake.get():
            batch, late = self._thread.take()
            if late:
                self._loop.call_soon_threadsafe(self._refuse, late)
            if batch:
                self._loop.call_soon_threadsafe(self.finish, batch, call(batch))

    def _refuse(self, late: list[Asked]) -> None:
        for asked in late:
            assert asked.deadline is not None
            asked.done(DeadlineExceeded(asked.deadline - asked.began))

    def finish(self, batch: list[Asked], found: Found | Exception) -> None:
        """Give each request of a call its answer, on the event loop."""
        if isinstance(found, Exception):
            log.error("the student failed", extra={"student": batch[0].student.version}, exc_info=found)
            for asked in batch:
                asked.done(found)
            return
        assert self._loop is not None
        first = 0
        encoding = time.perf_counter()
        for asked in batch:
            end = first + len(asked.pixels)
            if asked.threshold is None and asked.encode is None:
                asked.done(body(asked, found, first))
            else:
                self._finish_otherwise(asked, found if len(batch) == 1 else _part(found, first, end))
            first = end
        # Afterwards: nobody waits for what is counted.
        answered = Answered(batch, found, time.perf_counter() - encoding)
        self._loop.call_soon(self._tell, answered)

    def _finish_otherwise(self, asked: Asked, own: Found) -> None:
        if asked.threshold is not None and self.escalate is not None and _unsure(own, asked.threshold):
            self.escalate(Uncertain(asked, own))
        else:
            asked.done(body(asked, own) if asked.encode is None else asked.encode(asked, own))

    def _tell(self, answered: Answered) -> None:
        for observer in self.observers:
            observer(answered)


def call(batch: list[Asked]) -> Found | Exception:
    """Return what the student says of all images of a batch; from whatever thread."""
    began = time.perf_counter()
    student = batch[0].student
    decoded = [image for asked in batch for image in asked.pixels]
    try:
        probabilities = student.probabilities(stacked(decoded, student.input))
        model_s = time.perf_counter() - began
        top = batch[0].top if len(batch) == 1 else max(asked.top for asked in batch)
        order, ranked = most_probable(probabilities, top)
        return Found(order, ranked, probabilities, began, model_s)
    except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
        return error


def most_probable(
    probabilities: Float32[np.ndarray, "images classes"], top: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Return for each image its most probable classes, most probable first, and their probabilities."""
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
    # `np.take_along_axis` takes ten times as long for a few images, and `round` as long as all the JSON.
    ranked = probabilities[np.arange(len(order))[:, None], order].astype(np.float64)
    return order.tolist(), ranked.round(DIGITS).tolist()


def _part(found: Found, first: int, end: int) -> Found:
    return Found(
        found.order[first:end],
        found.ranked[first:end],
        found.probabilities[first:end],
        found.began,
        found.model_s,
    )


def _unsure(found: Found, threshold: float) -> bool:
    return any(ranked[0] < threshold for ranked in found.ranked)


class _Queue:
    """Requests in the order of their coming; filled by the event loop, taken from by it or by a thread."""

    def __init__(self) -> None:
        self.images = 0
        self._waiting: deque[Asked] = deque()
        self._lock = threading.Lock()

    def add(self, asked: Asked) -> None:
        with self._lock:
            self._waiting.append(asked)
            self.images += len(asked.pixels)

    def take(self) -> tuple[list[Asked], list[Asked]]:
        """Return the requests of the next call, all for one student, and those that are too late for it."""
        batch: list[Asked] = []
        late: list[Asked] = []
        images = 0
        most = _MOST_IMAGES
        now = time.perf_counter()
        with self._lock:
            while self._waiting:
                asked = self._waiting[0]
                if asked.deadline is not None and now > asked.deadline:
                    late.append(asked)
                elif not batch:
                    most = _room(asked)
                    batch.append(asked)
                    images = len(asked.pixels)
                elif asked.student is batch[0].student and images + len(asked.pixels) <= most:
                    batch.append(asked)
                    images += len(asked.pixels)
                else:
                    break
                self._waiting.popleft()
                self.images -= len(asked.pixels)
        return batch, late


def _room(asked: Asked) -> int:
    return max(1, min(_MOST_IMAGES, int(_CALL_S / max(asked.student.seconds_per_image, 1e-9))))

"""Sees to it that no job is forgotten: sends the message again where one was lost or a worker died."""

import logging
from threading import Event, Thread
from typing import Protocol

from services.worker.metrics import WorkerMetrics
from shared.errors import JobStoreUnavailable
from shared.jobs.ports import JobStore

log = logging.getLogger(__name__)

LONGEST_BACKLOG = 50
"""With more messages than this in the queue workers are busy, not idle: another message would help nobody."""
_SETTLING_S = 2.0
"""From the first answer after an outage to the first look at leases: who holds one tries each half second."""


class Queue(Protocol):
    """Sends hints and knows how many wait."""

    def send(self, job_id: str) -> None:
        """Send the hint."""
        ...

    def backlog(self) -> int:
        """Return how many messages wait."""
        ...

    def waiting(self, most: int) -> frozenset[str]:
        """Return the jobs of up to `most` waiting messages."""
        ...


class Reconciler(Thread):
    """A thread of the worker's process. Any number may run: the store hands each due job to one of them."""

    def __init__(
        self, store: JobStore, queue: Queue, metrics: WorkerMetrics, stopping: Event, interval_s: float
    ) -> None:
        super().__init__(name="reconciler", daemon=True)
        self._store = store
        self._queue = queue
        self._metrics = metrics
        self._stopping = stopping
        self._interval_s = interval_s
        self._away = False

    def run(self) -> None:
        """Sweep until the worker stops; wait out a Redis that is away, and whatever else goes wrong."""
        wait_s = self._interval_s
        while not self._stopping.wait(wait_s):
            wait_s = self._interval_s
            try:
                if self._away:
                    # In an outage leases lapse whose holders train on, and will renew them.
                    self._queue.backlog()
                    wait_s += _SETTLING_S
                else:
                    self.sweep()
                self._away = False
            except JobStoreUnavailable as error:
                if not self._away:
                    log.warning("cannot look for forgotten jobs", extra={"reason": str(error)})
                self._away = True
            except Exception:
                # Without this thread a lost message is a lost job; the next look may go well.
                log.exception("the look for forgotten jobs went wrong")

    def sweep(self) -> int:
        """Send what is due and has no message; return how many. A send that fails comes due again."""
        if self._queue.backlog() > LONGEST_BACKLOG:
            return 0
        due = self._store.claim_due(LONGEST_BACKLOG)
        if not due:
            return 0
        # Where workers are busy a message waits for longer than the first wait: it is late, not lost.
        waiting = self._queue.waiting(LONGEST_BACKLOG)
        lost = [job_id for job_id in due if job_id not in waiting]
        for job_id in lost:
            log.info("sending the message again", extra={"job_id": job_id})
            self._queue.send(job_id)
            self._metrics.resent.inc()
        return len(lost)

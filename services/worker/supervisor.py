"""From a job's id to its end: takes the lease, runs the attempt, and says what became of it."""

import logging
import secrets
import time
from threading import Event

from services.worker.attempt import Attempt
from services.worker.metrics import WorkerMetrics
from services.worker.settings import WorkerSettings
from shared.artefacts.files import remove_directory
from shared.artefacts.jobs import JobFiles
from shared.contracts.jobs import FINAL_STATES, JobState
from shared.errors import JobNotFound, JobStoreUnavailable
from shared.jobs.ports import Dispatcher, Grant, JobStore
from shared.logs import job_context

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.5
"""Between two questions to a store that does not answer."""


class Supervisor:
    """Runs jobs by id; several threads may use one. `stopping` is set once the worker shall leave."""

    def __init__(
        self,
        store: JobStore,
        dispatcher: Dispatcher,
        settings: WorkerSettings,
        metrics: WorkerMetrics,
        stopping: Event,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._settings = settings
        self._metrics = metrics
        self._stopping = stopping

    def run(self, job_id: str) -> None:
        """Run the job where it is ours to run: a message may come twice, late, or for a job that is gone."""
        with job_context(job_id):
            if self._stopping.is_set():
                self._send(job_id)
                return
            try:
                grant = self._take(job_id)
            except JobNotFound:
                log.warning("a message names a job that does not exist")
                return
            except JobStoreUnavailable as error:
                # The reconciler sends the message again.
                log.warning("the job was not taken", extra={"reason": str(error)})
                return
            if grant is None:
                log.info("nothing to do for this message")
                return
            log.info("job taken", extra={"epoch": grant.epoch, "kind": grant.spec.kind})
            with self._metrics.running.track_inprogress():
                attempt = Attempt(self._store, grant, self._settings, self._metrics, self._stopping)
                state = attempt.run()
            if state in FINAL_STATES:
                self._metrics.jobs.labels(grant.spec.kind, state.value).inc()
                log.info("job ended", extra={"state": state.value})
                if grant.parent is not None:
                    self._wake_parent(grant.parent)
                if state is JobState.SUCCEEDED:
                    self._clear_checkpoints(job_id)
            elif state is JobState.QUEUED and attempt.is_put_off:
                log.info("job back in the queue, for later")
            elif state is JobState.QUEUED:
                log.info("job back in the queue")
                self._send(job_id)
            elif state is JobState.PAUSED:
                log.info("job paused")
            elif state is JobState.WAITING:
                log.info("job waits for its children", extra={"children": len(attempt.children)})
                for child in attempt.children:
                    if not self._send(child):
                        # Each of a thousand would wait for the broker; the reconciler sends them all.
                        break

    def _clear_checkpoints(self, job_id: str) -> None:
        """Remove what nobody goes on from any more: now that the record says so, no attempt follows."""
        checkpoints = JobFiles(self._settings.store_dir / "jobs", job_id).checkpoints
        try:
            remove_directory(checkpoints)
        except OSError as error:
            log.warning("checkpoints stay where they are", extra={"reason": str(error)})

    def _take(self, job_id: str) -> Grant | None:
        """Take the job; by the same name again where the store did not answer.

        It may have given the job and only its answer was lost: then nobody else has it for a whole lease.
        After that time there is nothing to lose.
        """
        taker, until = secrets.token_hex(16), time.monotonic() + self._settings.lease_s
        while True:
            try:
                return self._store.acquire(job_id, self._settings.lease_s, self._settings.max_attempts, taker)
            except JobStoreUnavailable:
                if time.monotonic() >= until or self._stopping.wait(_ASK_AGAIN_S):
                    raise

    def _wake_parent(self, parent: str) -> None:
        """Send the parent's message where this child was the last it waited for."""
        try:
            queued = self._store.get(parent).state is JobState.QUEUED
        except JobStoreUnavailable as error:
            # The parent is due, so the reconciler sends it.
            log.warning("the message will follow", extra={"parent": parent, "reason": str(error)})
            return
        if queued:
            self._send(parent)

    def _send(self, job_id: str) -> bool:
        """Send the job's message; tell whether the broker took it."""
        try:
            self._dispatcher.send(job_id)
        except JobStoreUnavailable as error:
            log.warning("the message will follow", extra={"reason": str(error)})
            return False
        return True

"""Jobs as their users meet them: submit, look, list, cancel, listen."""

import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence

from shared.contracts.jobs import JobEvent, JobPage, JobState, JobView
from shared.contracts.specs import JobSpec
from shared.errors import JobNotFound, JobStoreUnavailable
from shared.jobs.checks import check_submitted
from shared.jobs.ports import Catalogue, Dispatcher, JobStore

log = logging.getLogger(__name__)

_PATIENCE_S = 0.75
"""A record that took longer was written by a store in trouble. To wait for it once more, with the message,
would keep the caller beyond 2.5 seconds; the reconciler sends it."""


def new_job_id() -> str:
    """Return a fresh id: `j-` and 12 characters of base32, 60 random bits, safe in URLs and file names."""
    return "j-" + base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]


class JobService:
    """Refuses what cannot be, records what can, and wakes a worker.

    `confined_to` is the owner whose jobs are all that the caller sees: any other job is not found. None sees
    everything, as where keys are switched off.
    """

    def __init__(self, store: JobStore, dispatcher: Dispatcher, catalogue: Catalogue) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._catalogue = catalogue

    def submit(
        self,
        spec: JobSpec,
        idempotency_key: str | None = None,
        owner: str | None = None,
        catalogue: Catalogue | None = None,
        key_id: str | None = None,
    ) -> tuple[JobView, bool]:
        """Check, record and announce a job of this owner; return it and whether it is new.

        `catalogue` is what there is for this owner; None is all there is. The job may name nothing else.
        What it asks teachers counts for the key of `key_id`.

        Once this returns the job will reach a final state, even where no worker could be woken: the record is
        the truth, the message a hint, and the reconciler sends it again.
        """
        check_submitted(spec, catalogue or self._catalogue)
        digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        began = time.monotonic()
        job, created = self._store.submit(new_job_id(), spec, idempotency_key, digest, owner, key_id)
        if created and time.monotonic() - began < _PATIENCE_S:
            self._wake(job.id)
        return job, created

    def get(self, job_id: str, confined_to: str | None = None) -> JobView:
        """Return the job as it is."""
        job = self._store.get(job_id)
        if confined_to is not None and job.owner != confined_to:
            raise JobNotFound(job_id)
        return job

    def list(
        self,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        parent: str | None = None,
        confined_to: str | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first; with `parent` only those that this job made."""
        return self._store.list(state, kind, cursor, limit, parent, confined_to)

    def cancel(self, job_id: str, confined_to: str | None = None) -> JobView:
        """Cancel the job and its unfinished children, at once where no worker runs them, else in seconds."""
        self._see(job_id, confined_to)
        return self._store.request_cancel(job_id)

    def pause(self, job_id: str, confined_to: str | None = None) -> JobView:
        """Pause the job and its unfinished children: at once where no worker runs them, else in seconds.

        What runs makes a checkpoint and leaves its worker; no attempt is spent.
        """
        self._see(job_id, confined_to)
        return self._store.request_pause(job_id)

    def resume(self, job_id: str, confined_to: str | None = None) -> JobView:
        """End a pause, of the job and its unfinished children; they go on from their checkpoints."""
        self._see(job_id, confined_to)
        job = self._store.resume(job_id)
        if job.state is JobState.QUEUED:
            self._wake(job_id)
        return job

    def events(
        self, job_id: str, after: str | None = None, limit: int = 1000, confined_to: str | None = None
    ) -> Sequence[JobEvent]:
        """Return what happened to the job, from behind the event `after`."""
        self._see(job_id, confined_to)
        return self._store.events(job_id, after, limit)

    def _wake(self, job_id: str) -> None:
        try:
            self._dispatcher.send(job_id)
        except JobStoreUnavailable as error:
            log.warning(
                "job recorded, its message will follow", extra={"job_id": job_id, "reason": str(error)}
            )

    def _see(self, job_id: str, confined_to: str | None) -> None:
        """Raise `JobNotFound` where it is another's. Asking first is no race: a job never changes hands."""
        if confined_to is not None:
            self.get(job_id, confined_to)

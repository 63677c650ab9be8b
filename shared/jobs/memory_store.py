"""`MemoryJobStore`: the job store in one process's memory, for tests and for trying things out."""

import threading
import time
from collections.abc import Callable, Sequence

from shared.contracts.jobs import (
    FINAL_STATES,
    MOST_UNFINISHED,
    Failure,
    JobEvent,
    JobEventKind,
    JobPage,
    JobResult,
    JobState,
    JobView,
    Progress,
)
from shared.contracts.specs import JobSpec
from shared.errors import IdempotencyConflict, JobAlreadyFinal, JobNotPaused, TooManyJobs, WorkerDied
from shared.jobs.memory_records import Record, Records
from shared.jobs.ports import Grant, Signal

IDEMPOTENCY_KEPT_S = 24 * 3600.0


class MemoryJobStore:
    """`JobStore` without a server. `clock` gives seconds since 1970. Safe to share between threads."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        resend_first_s: float = 5.0,
        resend_longest_s: float = 300.0,
        most_unfinished: int = MOST_UNFINISHED,
    ) -> None:
        self._clock = clock
        self._resend_first_s = resend_first_s
        self._resend_longest_s = resend_longest_s
        self._most_unfinished = most_unfinished
        self._lock = threading.RLock()
        self._records = Records(clock, resend_first_s)
        self._keys: dict[tuple[str | None, str | None], tuple[str, str, float]] = {}
        """By owner and idempotency key: the digest of the request, its job, and until when it is known."""

    # --- for those who ask for jobs ------------------------------------------------------------------------

    def submit(
        self,
        job_id: str,
        spec: JobSpec,
        idempotency_key: str | None = None,
        request_digest: str = "",
        owner: str | None = None,
        key_id: str | None = None,
    ) -> tuple[JobView, bool]:
        """Create the record; see `JobStore.submit`."""
        with self._lock:
            now = self._clock()
            key = owner, idempotency_key
            if idempotency_key is not None:
                digest, its_id, until = self._keys.get(key, ("", "", 0.0))
                if now < until:
                    if digest != request_digest:
                        raise IdempotencyConflict(idempotency_key)
                    return self.get(its_id), its_id == job_id
            if self._records.would_be_too_many(job_id, owner, self._most_unfinished):
                raise TooManyJobs(self._most_unfinished)
            if idempotency_key is not None:
                self._keys[key] = (request_digest, job_id, now + IDEMPOTENCY_KEPT_S)
            return self._records.create(job_id, spec, owner=owner, key_id=key_id).view, True

    def get(self, job_id: str) -> JobView:
        """Return the job as it is."""
        with self._lock:
            return self._records.get(job_id).view

    def list(
        self,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        parent: str | None = None,
        owner: str | None = None,
    ) -> JobPage:
        """Return jobs, newest first; a cursor that is none of ours begins at the newest."""
        with self._lock:
            records = self._records.newest_first()
        below = int(cursor) if cursor is not None and cursor.isdecimal() else len(records) + 1
        found = [
            record
            for record in records
            if record.sequence < below
            and state in (None, record.state)
            and kind in (None, record.view.spec.kind)
            and parent in (None, record.view.parent)
            and owner in (None, record.view.owner)
        ]
        page = found[:limit]
        return JobPage(
            jobs=tuple(record.view for record in page),
            next_cursor=str(page[-1].sequence) if len(found) > limit else None,
        )

    def request_cancel(self, job_id: str) -> JobView:
        """Cancel, or ask the holder to; see `JobStore.request_cancel`."""
        with self._lock:
            record = self._records.get(job_id)
            if record.state in (JobState.SUCCEEDED, JobState.FAILED):
                raise JobAlreadyFinal(job_id, record.state)
            self._records.cancel(record)
            return record.view

    def request_pause(self, job_id: str) -> JobView:
        """Pause, or ask the holder to; see `JobStore.request_pause`."""
        with self._lock:
            record = self._records.get(job_id)
            if record.state in FINAL_STATES:
                raise JobAlreadyFinal(job_id, record.state)
            self._records.pause(record)
            return record.view

    def resume(self, job_id: str) -> JobView:
        """End a pause; see `JobStore.resume`."""
        with self._lock:
            record = self._records.get(job_id)
            if not self._records.resume(record):
                raise JobNotPaused(job_id, record.state)
            return record.view

    def events(self, job_id: str, after: str | None = None, limit: int = 1000) -> Sequence[JobEvent]:
        """Return events in order, from behind `after`."""
        with self._lock:
            events = self._records.get(job_id).events
            known = [event.id for event in events]
            begin = known.index(after) + 1 if after in known else 0
            return events[begin : begin + limit]

    # --- for those who run them ----------------------------------------------------------------------------

    def acquire(
        self, job_id: str, lease_s: float, max_attempts: int, taker: str | None = None
    ) -> Grant | None:
        """Take the lease; see `JobStore.acquire`."""
        with self._lock:
            record = self._records.get(job_id)
            if self._records.is_held(record) and taker is not None and record.taker == taker:
                self._records.keep(record, lease_s)
                return self._grant(record)
            if self._records.is_held(record) or record.state not in (JobState.QUEUED, JobState.RUNNING):
                return None
            if record.state is JobState.RUNNING and self._records.settle(record):
                return None
            if record.view.attempts >= max_attempts:
                died = WorkerDied(record.view.attempts, record.reason)
                failure = Failure(code=died.code, detail=str(died), remedy=died.remedy)
                self._records.finish(record, JobState.FAILED, failure=failure)
                return None
            self._records.take(record, lease_s, taker)
            return self._grant(record)

    def renew(self, job_id: str, epoch: int, lease_s: float) -> Signal:
        """Keep the lease for another `lease_s` from now."""
        with self._lock:
            record = self._records.held(job_id, epoch)
            self._records.keep(record, lease_s)
            return _signal(record)

    def look(self, job_id: str, epoch: int) -> Signal:
        """Return what the holder should know, without writing."""
        with self._lock:
            return _signal(self._records.held(job_id, epoch))

    def progress(self, job_id: str, epoch: int, progress: Progress) -> None:
        """Keep the newest progress and tell it as an event."""
        with self._lock:
            record = self._records.held(job_id, epoch)
            self._records.change(record, progress=progress)
            self._records.tell(record, JobEventKind.PROGRESS, progress.model_dump(mode="json"))

    def note(self, job_id: str, epoch: int, text: str) -> None:
        """Tell something in words as an event."""
        with self._lock:
            self._records.tell(self._records.held(job_id, epoch), JobEventKind.NOTE, {"text": text})

    def succeed(self, job_id: str, epoch: int, result: JobResult) -> JobState:
        """End the job as succeeded, or as cancelled where that was asked for."""
        return self._end(job_id, epoch, JobState.SUCCEEDED, result=result)

    def fail(self, job_id: str, epoch: int, failure: Failure) -> JobState:
        """End the job as failed, or as cancelled where that was asked for."""
        return self._end(job_id, epoch, JobState.FAILED, failure=failure)

    def cancelled(self, job_id: str, epoch: int) -> JobState:
        """End the job as cancelled."""
        return self._end(job_id, epoch, JobState.CANCELLED)

    def release(self, job_id: str, epoch: int, *, died: str | None = None) -> JobState:
        """Put the job back into the queue, or aside; see `JobStore.release`."""
        with self._lock:
            record = self._records.get(job_id)
            if record.state in (JobState.QUEUED, JobState.PAUSED) and record.view.epoch == epoch:
                return record.state
            self._records.held(job_id, epoch)
            if record.view.cancel_requested:
                self._records.finish(record, JobState.CANCELLED)
                return record.state
            if died is None:
                self._records.change(record, attempts=record.view.attempts - 1)
            else:
                record.reason = died
            self._records.give_back(record)
            return record.state

    def wait(self, job_id: str, epoch: int, children: Sequence[tuple[str, JobSpec]]) -> JobState:
        """Create children and wait for them; see `JobStore.wait`."""
        with self._lock:
            record = self._records.get(job_id)
            if record.view.epoch == epoch and record.state is not JobState.RUNNING:
                return record.state
            self._records.held(job_id, epoch)
            if record.view.cancel_requested:
                self._records.finish(record, JobState.CANCELLED)
                return record.state
            for child_id, spec in children:
                self._records.create(child_id, spec, job_id, record.view.owner, record.key_id)
            self._records.change(record, attempts=record.view.attempts - 1)
            self._records.wait(record, [child_id for child_id, _ in children])
            return record.state

    def claim_due(self, limit: int = 50) -> Sequence[str]:
        """Return jobs that need a message; each goes to one caller only."""
        with self._lock:
            now = self._clock()
            due = [
                (record.due_at, record)
                for record in self._records.newest_first()
                if record.due_at is not None
            ]
            first = sorted((pair for pair in due if pair[0] <= now), key=lambda pair: pair[0])[:limit]
            claimed: list[str] = []
            for _, record in first:
                lapsed = record.state is JobState.RUNNING and not self._records.is_held(record)
                if lapsed and self._records.settle(record):
                    continue
                wait = self._resend_first_s * 2**record.resends
                record.due_at = now + min(wait, self._resend_longest_s)
                record.resends += 1
                claimed.append(record.view.id)
            return claimed

    def _grant(self, record: Record) -> Grant:
        view, children = record.view, self._records.ends_of_children(record)
        return Grant(
            view.id, view.epoch, view.attempts, view.spec, view.parent, children, view.owner, record.key_id
        )

    def _end(
        self,
        job_id: str,
        epoch: int,
        state: JobState,
        *,
        result: JobResult | None = None,
        failure: Failure | None = None,
    ) -> JobState:
        with self._lock:
            record = self._records.get(job_id)
            if record.state in FINAL_STATES and record.view.epoch == epoch:
                return record.state
            self._records.finish(self._records.held(job_id, epoch), state, result=result, failure=failure)
            return record.state


def _signal(record: Record) -> Signal:
    return Signal(record.view.cancel_requested, record.view.pause_requested)

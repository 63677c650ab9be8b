"""`MemoryJobStore`: the job store in one process's memory, for tests and for trying things out."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import JsonValue

from shared.contracts.jobs import (
    FINAL_STATES,
    ChildJob,
    Failure,
    JobEvent,
    JobEventKind,
    JobPage,
    JobResult,
    JobState,
    JobView,
    Progress,
    Stage,
)
from shared.contracts.specs import JobSpec
from shared.errors import IdempotencyConflict, JobAlreadyFinal, JobNotFound, LeaseLost, WorkerDied
from shared.jobs.ports import Grant, Signal

IDEMPOTENCY_KEPT_S = 24 * 3600.0


@dataclass
class _Record:
    view: JobView
    sequence: int
    due_at: float
    lease_until: float = 0.0
    resends: int = 0
    reason: str = ""
    waiting_since: float = 0.0
    ended_before: int = 0
    """Children that had ended when the job began to wait."""
    events: list[JobEvent] = field(default_factory=list)


class MemoryJobStore:
    """`JobStore` without a server. `clock` gives seconds since 1970. Safe to share between threads."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        resend_first_s: float = 5.0,
        resend_longest_s: float = 300.0,
    ) -> None:
        self._clock = clock
        self._resend_first_s = resend_first_s
        self._resend_longest_s = resend_longest_s
        self._lock = threading.RLock()
        self._records: dict[str, _Record] = {}
        self._keys: dict[tuple[str | None, str], tuple[str, str, float]] = {}
        """By owner and idempotency key: the digest of the request, its job, and until when it is known."""

    # --- for those who ask for jobs ------------------------------------------------------------------------

    def submit(
        self,
        job_id: str,
        spec: JobSpec,
        idempotency_key: str | None = None,
        request_digest: str = "",
        owner: str | None = None,
    ) -> tuple[JobView, bool]:
        """Create the record; see `JobStore.submit`."""
        with self._lock:
            now = self._clock()
            if idempotency_key is not None:
                key = owner, idempotency_key
                digest, its_id, until = self._keys.get(key, ("", "", 0.0))
                if now < until:
                    if digest != request_digest:
                        raise IdempotencyConflict(idempotency_key)
                    return self._records[its_id].view, its_id == job_id
                self._keys[key] = (request_digest, job_id, now + IDEMPOTENCY_KEPT_S)
            return self._create(job_id, spec, owner=owner).view, True

    def get(self, job_id: str) -> JobView:
        """Return the job as it is."""
        with self._lock:
            return self._record(job_id).view

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
            below = int(cursor) if cursor is not None and cursor.isdecimal() else len(self._records) + 1
            found = [
                record
                for record in reversed(self._records.values())
                if record.sequence < below
                and state in (None, record.view.state)
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
            record = self._record(job_id)
            state = record.view.state
            if state in (JobState.SUCCEEDED, JobState.FAILED):
                raise JobAlreadyFinal(job_id, state)
            self._cancel(record)
            return record.view

    def events(self, job_id: str, after: str | None = None, limit: int = 1000) -> Sequence[JobEvent]:
        """Return events in order, from behind `after`."""
        with self._lock:
            events = self._record(job_id).events
            known = [event.id for event in events]
            begin = known.index(after) + 1 if after in known else 0
            return events[begin : begin + limit]

    # --- for those who run them ----------------------------------------------------------------------------

    def acquire(self, job_id: str, lease_s: float, max_attempts: int) -> Grant | None:
        """Take the lease; see `JobStore.acquire`."""
        with self._lock:
            record = self._record(job_id)
            view = record.view
            if view.state in FINAL_STATES or view.state is JobState.WAITING:
                return None
            if view.state is JobState.RUNNING:
                if record.lease_until > self._clock():
                    return None
                record.reason = "its worker was not heard of before the lease ran out"
            if view.cancel_requested:
                self._finish(record, JobState.CANCELLED)
                return None
            if view.attempts >= max_attempts:
                died = WorkerDied(view.attempts, record.reason)
                failure = Failure(code=died.code, detail=str(died), remedy=died.remedy)
                self._finish(record, JobState.FAILED, failure=failure)
                return None
            self._change(
                record,
                epoch=view.epoch + 1,
                attempts=view.attempts + 1,
                started_at=view.started_at or self._time(),
            )
            record.lease_until = record.due_at = self._clock() + lease_s
            record.resends = 0
            self._move(record, JobState.RUNNING)
            children = tuple(self._as_child(child) for child in self._children(record))
            view = record.view
            return Grant(job_id, view.epoch, view.attempts, view.spec, view.parent, children, view.owner)

    def renew(self, job_id: str, epoch: int, lease_s: float) -> Signal:
        """Keep the lease for another `lease_s` from now."""
        with self._lock:
            record = self._held(job_id, epoch)
            record.lease_until = record.due_at = self._clock() + lease_s
            return Signal(record.view.cancel_requested)

    def look(self, job_id: str, epoch: int) -> Signal:
        """Return what the holder should know, without writing."""
        with self._lock:
            return Signal(self._held(job_id, epoch).view.cancel_requested)

    def progress(self, job_id: str, epoch: int, progress: Progress) -> None:
        """Keep the newest progress and tell it as an event."""
        with self._lock:
            record = self._held(job_id, epoch)
            self._change(record, progress=progress)
            self._tell(record, JobEventKind.PROGRESS, progress.model_dump(mode="json"))

    def note(self, job_id: str, epoch: int, text: str) -> None:
        """Tell something in words as an event."""
        with self._lock:
            self._tell(self._held(job_id, epoch), JobEventKind.NOTE, {"text": text})

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
        """Put the job back into the queue; see `JobStore.release`."""
        with self._lock:
            record = self._record(job_id)
            if record.view.state is JobState.QUEUED and record.view.epoch == epoch:
                return JobState.QUEUED
            self._held(job_id, epoch)
            if record.view.cancel_requested:
                self._finish(record, JobState.CANCELLED)
                return JobState.CANCELLED
            if died is None:
                self._change(record, attempts=record.view.attempts - 1)
            else:
                record.reason = died
            record.lease_until = 0.0
            record.resends = 0
            record.due_at = self._clock() + self._resend_first_s
            self._move(record, JobState.QUEUED)
            return JobState.QUEUED

    def wait(self, job_id: str, epoch: int, children: Sequence[tuple[str, JobSpec]]) -> JobState:
        """Create children and wait for them; see `JobStore.wait`."""
        with self._lock:
            record = self._record(job_id)
            if record.view.epoch == epoch and record.view.state is not JobState.RUNNING:
                return record.view.state
            self._held(job_id, epoch)
            if record.view.cancel_requested:
                self._finish(record, JobState.CANCELLED)
                return JobState.CANCELLED
            for child_id, spec in children:
                self._create(child_id, spec, job_id, record.view.owner)
            made = dict.fromkeys((*record.view.children, *(child_id for child_id, _ in children)))
            self._change(record, children=tuple(made), attempts=record.view.attempts - 1)
            record.lease_until = 0.0
            unfinished = self._unfinished(record)
            if not unfinished:
                self._wake(record)
                return JobState.QUEUED
            record.due_at = math.inf
            record.waiting_since = self._clock()
            record.ended_before = len(made) - len(unfinished)
            self._move(record, JobState.WAITING, children=[*made])
            self._count_children(record)
            return JobState.WAITING

    def claim_due(self, limit: int = 50) -> Sequence[str]:
        """Return jobs that need a message; each goes to one caller only."""
        with self._lock:
            now = self._clock()
            due = [
                record
                for record in self._records.values()
                if record.due_at <= now and record.view.state not in FINAL_STATES
            ]
            due = sorted(due, key=lambda record: record.due_at)[:limit]
            for record in due:
                wait = self._resend_first_s * 2**record.resends
                record.due_at = now + min(wait, self._resend_longest_s)
                record.resends += 1
            return [record.view.id for record in due]

    # --- parents and children ------------------------------------------------------------------------------

    def _children(self, record: _Record) -> Sequence[_Record]:
        return [self._records[child] for child in record.view.children]

    def _unfinished(self, record: _Record) -> Sequence[_Record]:
        return [child for child in self._children(record) if child.view.state not in FINAL_STATES]

    def _as_child(self, record: _Record) -> ChildJob:
        view = record.view
        return ChildJob(
            id=view.id, kind=view.spec.kind, state=view.state, result=view.result, failure=view.failure
        )

    def _cancel_children(self, record: _Record) -> None:
        for child in self._unfinished(record):
            self._cancel(child, tell_parent=False)

    def _child_ended(self, record: _Record) -> None:
        """Tell the job's parent, where that one waits, and wake it where this was the last."""
        parent = self._records.get(record.view.parent or "")
        if parent is None or parent.view.state is not JobState.WAITING:
            return
        if record.view.state is not JobState.SUCCEEDED:
            self._cancel_children(parent)
        self._count_children(parent)
        if not self._unfinished(parent):
            self._wake(parent)

    def _count_children(self, record: _Record) -> None:
        total = len(record.view.children)
        done = total - len(self._unfinished(record))
        fresh = done - record.ended_before
        waited_s = self._clock() - record.waiting_since
        progress = Progress(
            stage=Stage.TRAIN,
            done=done,
            total=total,
            unit="jobs",
            eta_s=round(waited_s / fresh * (total - done), 3) if fresh else None,
        )
        self._change(record, progress=progress)
        self._tell(record, JobEventKind.PROGRESS, progress.model_dump(mode="json"))

    def _wake(self, record: _Record) -> None:
        record.due_at = self._clock()
        record.resends = 0
        self._move(record, JobState.QUEUED)

    # --- the parts -----------------------------------------------------------------------------------------

    def _create(
        self, job_id: str, spec: JobSpec, parent: str | None = None, owner: str | None = None
    ) -> _Record:
        if job_id not in self._records:
            view = JobView(
                id=job_id,
                state=JobState.QUEUED,
                spec=spec,
                created_at=self._time(),
                parent=parent,
                owner=owner,
            )
            due_at = self._clock() + self._resend_first_s
            self._records[job_id] = _Record(view, len(self._records) + 1, due_at)
            self._tell_state(self._records[job_id])
        return self._records[job_id]

    def _cancel(self, record: _Record, *, tell_parent: bool = True) -> None:
        state = record.view.state
        if record.view.cancel_requested or state in FINAL_STATES:
            return
        self._change(record, cancel_requested=True)
        if state is JobState.RUNNING and record.lease_until > self._clock():
            self._tell_state(record, cancel_requested=True)
            return
        self._finish(record, JobState.CANCELLED, tell_parent=tell_parent)
        self._cancel_children(record)

    def _record(self, job_id: str) -> _Record:
        if job_id not in self._records:
            raise JobNotFound(job_id)
        return self._records[job_id]

    def _held(self, job_id: str, epoch: int) -> _Record:
        record = self._record(job_id)
        if record.view.state is not JobState.RUNNING or record.view.epoch != epoch:
            raise LeaseLost(job_id, epoch)
        return record

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
            record = self._record(job_id)
            if record.view.state in FINAL_STATES and record.view.epoch == epoch:
                return record.view.state
            self._finish(self._held(job_id, epoch), state, result=result, failure=failure)
            return record.view.state

    def _finish(
        self,
        record: _Record,
        state: JobState,
        *,
        result: JobResult | None = None,
        failure: Failure | None = None,
        tell_parent: bool = True,
    ) -> None:
        if record.view.cancel_requested:
            state, result, failure = JobState.CANCELLED, None, None
        self._change(record, finished_at=self._time(), result=result, failure=failure)
        outcome = {"result": result, "failure": failure}
        self._move(
            record, state, **{name: value.model_dump(mode="json") for name, value in outcome.items() if value}
        )
        if tell_parent:
            self._child_ended(record)

    def _move(self, record: _Record, state: JobState, **more: JsonValue) -> None:
        self._change(record, state=state)
        self._tell_state(record, **more)

    def _change(self, record: _Record, **values: object) -> None:
        record.view = record.view.model_copy(update=values)

    def _tell_state(self, record: _Record, **more: JsonValue) -> None:
        view = record.view
        data = {"state": view.state.value, "epoch": view.epoch, "attempts": view.attempts, **more}
        self._tell(record, JobEventKind.STATE, data)

    def _tell(self, record: _Record, kind: JobEventKind, data: dict[str, JsonValue]) -> None:
        identifier = f"{round(self._clock() * 1000)}-{len(record.events)}"
        record.events.append(JobEvent(id=identifier, kind=kind, at=self._time(), data=data))

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

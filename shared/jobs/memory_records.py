"""The records of `MemoryJobStore`: their moves, and what a move does to their families. Without a lock."""

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
    JobResult,
    JobState,
    JobView,
    Progress,
    Stage,
)
from shared.contracts.specs import JobSpec
from shared.errors import JobNotFound, LeaseLost

MOST_ONCE_ENDED = 500
"""Events that are kept of a job that has ended: the newest."""


@dataclass
class Record:
    """A job, and what nobody is shown of it. Times are seconds since 1970; `due_at` None is never."""

    view: JobView
    sequence: int
    due_at: float | None
    lease_until: float = 0.0
    taker: str | None = None
    """Who took the lease last."""
    resends: int = 0
    reason: str = ""
    waiting_since: float = 0.0
    ended_before: int = 0
    """Children that had ended when the job began to wait."""
    events: list[JobEvent] = field(default_factory=list)
    key_id: str | None = None

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self.view.state


class Records:
    """All records, in the order of their creation."""

    def __init__(self, clock: Callable[[], float], resend_first_s: float) -> None:
        self.now = clock
        self._resend_first_s = resend_first_s
        self._by_id: dict[str, Record] = {}

    def newest_first(self) -> Sequence[Record]:
        """Return all."""
        return list(self._by_id.values())[::-1]

    def get(self, job_id: str) -> Record:
        """Return one; raises `JobNotFound`."""
        if job_id not in self._by_id:
            raise JobNotFound(job_id)
        return self._by_id[job_id]

    def held(self, job_id: str, epoch: int) -> Record:
        """Return one that runs in this epoch, whether or not its lease has lapsed; raises `LeaseLost`."""
        record = self.get(job_id)
        if record.state is not JobState.RUNNING or record.view.epoch != epoch:
            raise LeaseLost(job_id, epoch)
        return record

    def would_be_too_many(self, job_id: str, owner: str | None, most: int) -> bool:
        """Tell whether this job is new and its owner has so many that have not ended."""
        if owner is None or job_id in self._by_id:
            return False
        theirs = (record for record in self._by_id.values() if record.view.owner == owner)
        return sum(record.state not in FINAL_STATES for record in theirs) >= most

    def create(
        self,
        job_id: str,
        spec: JobSpec,
        parent: str | None = None,
        owner: str | None = None,
        key_id: str | None = None,
    ) -> Record:
        """Make one that is queued, or return the one that is there."""
        if job_id not in self._by_id:
            view = JobView(
                id=job_id,
                state=JobState.QUEUED,
                spec=spec,
                created_at=self.time(),
                parent=parent,
                owner=owner,
            )
            due_at = self.now() + self._resend_first_s
            self._by_id[job_id] = Record(view, len(self._by_id) + 1, due_at, key_id=key_id)
            self._tell_state(self._by_id[job_id])
        return self._by_id[job_id]

    # --- moves ---------------------------------------------------------------------------------------------

    def is_held(self, record: Record) -> bool:
        """Tell whether a worker holds the lease and was heard of lately."""
        return record.state is JobState.RUNNING and record.lease_until > self.now()

    def take(self, record: Record, lease_s: float, taker: str | None) -> None:
        """Give the lease to the next holder."""
        view = record.view
        record.taker = taker
        self.change(
            record,
            epoch=view.epoch + 1,
            attempts=view.attempts + 1,
            started_at=view.started_at or self.time(),
        )
        self.keep(record, lease_s)
        record.resends = 0
        self._move(record, JobState.RUNNING)

    def keep(self, record: Record, lease_s: float) -> None:
        """Let the lease last for `lease_s` from now."""
        record.lease_until = record.due_at = self.now() + lease_s

    def give_back(self, record: Record) -> None:
        """Queue it again, or put it aside where it was to pause."""
        record.lease_until = 0.0
        record.resends = 0
        if record.view.pause_requested:
            self._put_aside(record)
            return
        record.due_at = self.now() + self._resend_first_s
        self._move(record, JobState.QUEUED)

    def wait(self, record: Record, children: Sequence[str]) -> None:
        """Let it wait for those of its children, these among them, that have not ended."""
        made = tuple(dict.fromkeys((*record.view.children, *children)))
        self.change(record, children=made)
        record.lease_until = 0.0
        if self._unfinished(record):
            record.due_at = None
            self._begin_to_wait(record, children=[*made])
            self._count_children(record)
            if record.view.pause_requested:
                self._put_aside(record)
        elif record.view.pause_requested:
            self._put_aside(record)
        else:
            self._wake(record)

    def finish(
        self,
        record: Record,
        state: JobState,
        *,
        result: JobResult | None = None,
        failure: Failure | None = None,
        tell_parent: bool = True,
    ) -> None:
        """End it; after a cancel every end is `cancelled`."""
        if record.view.cancel_requested:
            state, result, failure = JobState.CANCELLED, None, None
        record.due_at = None
        self.change(record, finished_at=self.time(), result=result, failure=failure, pause_requested=False)
        outcome = {"result": result, "failure": failure}
        self._move(
            record, state, **{name: value.model_dump(mode="json") for name, value in outcome.items() if value}
        )
        del record.events[:-MOST_ONCE_ENDED]
        if tell_parent:
            self._child_ended(record)

    def cancel(self, record: Record, *, tell_parent: bool = True) -> None:
        """Cancel it at once where nobody holds it, and its children; ask the holder otherwise."""
        if record.view.cancel_requested or record.state in FINAL_STATES:
            return
        self.change(record, cancel_requested=True, pause_requested=False)
        if self.is_held(record):
            self._tell_state(record, cancel_requested=True)
            return
        self.finish(record, JobState.CANCELLED, tell_parent=tell_parent)
        self._cancel_children(record)

    def pause(self, record: Record) -> None:
        """Put it aside where nobody holds it, and its children; ask the holder otherwise."""
        if record.state in {*FINAL_STATES, JobState.PAUSED} or record.view.cancel_requested:
            return
        if not self.is_held(record):
            if record.state is JobState.RUNNING:
                self._note_silence(record)
            self._put_aside(record)
        elif not record.view.pause_requested:
            self.change(record, pause_requested=True)
            self._tell_state(record, pause_requested=True)

    def resume(self, record: Record) -> bool:
        """End its pause, or withdraw the request for one; tell whether there was any."""
        if record.state is JobState.RUNNING and record.view.pause_requested:
            self.change(record, pause_requested=False)
            self._tell_state(record, pause_requested=False)
            return True
        if record.state is not JobState.PAUSED:
            return False
        if self._unfinished(record):
            self._begin_to_wait(record)
            for child in self._unfinished(record):
                self.resume(child)
            self._count_children(record)
        else:
            self._wake(record)
        return True

    def settle(self, record: Record) -> bool:
        """End or put aside a job whose lease has lapsed, where that was asked for; tell whether it was."""
        self._note_silence(record)
        if record.view.cancel_requested:
            self.finish(record, JobState.CANCELLED)
        elif record.view.pause_requested:
            self._put_aside(record)
        return record.state is not JobState.RUNNING

    def _note_silence(self, record: Record) -> None:
        record.reason = "its worker was not heard of before the lease ran out"

    def _put_aside(self, record: Record) -> None:
        record.due_at = None
        record.lease_until = 0.0
        self.change(record, pause_requested=False)
        self._move(record, JobState.PAUSED)
        for child in self._unfinished(record):
            self.pause(child)

    def _wake(self, record: Record) -> None:
        record.due_at = self.now()
        record.resends = 0
        self._move(record, JobState.QUEUED)

    # --- parents and children ------------------------------------------------------------------------------

    def ends_of_children(self, record: Record) -> tuple[ChildJob, ...]:
        """Return how its children ended."""
        views = [child.view for child in self._children(record)]
        return tuple(
            ChildJob(
                id=view.id, kind=view.spec.kind, state=view.state, result=view.result, failure=view.failure
            )
            for view in views
        )

    def _children(self, record: Record) -> Sequence[Record]:
        return [self._by_id[child] for child in record.view.children]

    def _unfinished(self, record: Record) -> Sequence[Record]:
        return [child for child in self._children(record) if child.state not in FINAL_STATES]

    def _cancel_children(self, record: Record) -> None:
        for child in self._unfinished(record):
            self.cancel(child, tell_parent=False)

    def _child_ended(self, record: Record) -> None:
        """Tell the job's parent, where that one waits, and wake it where this was the last."""
        parent = self._by_id.get(record.view.parent or "")
        if parent is None or parent.state not in (JobState.WAITING, JobState.PAUSED):
            return
        if record.state is not JobState.SUCCEEDED:
            self._cancel_children(parent)
        self._count_children(parent)
        if parent.state is JobState.WAITING and not self._unfinished(parent):
            self._wake(parent)

    def _begin_to_wait(self, record: Record, **more: JsonValue) -> None:
        record.waiting_since = self.now()
        record.ended_before = len(record.view.children) - len(self._unfinished(record))
        self._move(record, JobState.WAITING, **more)

    def _count_children(self, record: Record) -> None:
        total = len(record.view.children)
        done = total - len(self._unfinished(record))
        fresh = done - record.ended_before
        waited_s = self.now() - record.waiting_since
        progress = Progress(
            stage=Stage.TRAIN,
            done=done,
            total=total,
            unit="jobs",
            eta_s=round(waited_s / fresh * (total - done), 3) if fresh else None,
        )
        self.change(record, progress=progress)
        self.tell(record, JobEventKind.PROGRESS, progress.model_dump(mode="json"))

    # --- the parts -----------------------------------------------------------------------------------------

    def change(self, record: Record, **values: object) -> None:
        """Change what is shown of it."""
        record.view = record.view.model_copy(update=values)

    def tell(self, record: Record, kind: JobEventKind, data: dict[str, JsonValue]) -> None:
        """Add an event."""
        identifier = f"{round(self.now() * 1000)}-{len(record.events)}"
        record.events.append(JobEvent(id=identifier, kind=kind, at=self.time(), data=data))

    def time(self) -> datetime:
        """Return the time now, in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def _move(self, record: Record, state: JobState, **more: JsonValue) -> None:
        self.change(record, state=state)
        self._tell_state(record, **more)

    def _tell_state(self, record: Record, **more: JsonValue) -> None:
        view = record.view
        data = {"state": view.state.value, "epoch": view.epoch, "attempts": view.attempts, **more}
        self.tell(record, JobEventKind.STATE, data)

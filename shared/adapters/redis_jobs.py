"""The job store in Redis: records, leases, fencing, lists, events; each step is one call of one Lua script.

Single Redis only: asynchronous replication could forget an epoch that was granted, so a failover to a replica
may let two workers run one job. Their artefacts stay apart all the same, being named by digest.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from shared.adapters.redis_client import answering, connect
from shared.adapters.redis_jobs_records import (
    PREFIX,
    SPEC,
    named,
    position,
    sequence_of,
    to_child,
    to_event,
    to_view,
)
from shared.artefacts.names import is_version
from shared.contracts.jobs import (
    MOST_UNFINISHED,
    Failure,
    JobEvent,
    JobPage,
    JobResult,
    JobState,
    JobView,
    Progress,
)
from shared.contracts.specs import JobSpec
from shared.errors import (
    IdempotencyConflict,
    JobAlreadyFinal,
    JobNotFound,
    JobNotPaused,
    LeaseLost,
    TooManyJobs,
    WorkerDied,
)
from shared.jobs.ports import Grant, Signal

if TYPE_CHECKING:
    import redis
    import redis.commands.core

IDEMPOTENCY_KEPT_S = 24 * 3600.0
_SCRIPT = ("redis_jobs_record.lua", "redis_jobs.lua")

Answer = list[Any]
"""Of the script: a word, and what belongs to it."""


class RedisJobStore:
    """`JobStore` on a Redis server, by the server's own clock. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        *,
        resend_first_s: float = 5.0,
        resend_longest_s: float = 300.0,
        most_unfinished: int = MOST_UNFINISHED,
    ) -> None:
        """Connect on first use.

        Args:
            url: `redis://host:port/database`.
            resend_first_s: a queued job without a worker is handed to the reconciler after this, in seconds.
            resend_longest_s: the wait doubles each time, up to this.
            most_unfinished: so many jobs of one owner may be there that have not ended.
        """
        self._url = url
        self._resend_first_ms = _milliseconds(resend_first_s)
        self._resend_longest_ms = _milliseconds(resend_longest_s)
        self._most_unfinished = most_unfinished

    @cached_property
    def _redis(self) -> "redis.Redis":
        return connect(self._url)

    @cached_property
    def _script(self) -> "redis.commands.core.Script":
        parts = (files("shared.adapters").joinpath(name).read_text() for name in _SCRIPT)
        return self._redis.register_script("\n".join(parts))

    def close(self) -> None:
        """Close all connections."""
        if "_redis" in self.__dict__:
            self._redis.close()

    def ping(self) -> None:
        """Return where Redis answers; raises `JobStoreUnavailable` otherwise."""
        with answering():
            self._redis.ping()

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
        answer = self._call(
            "submit", job_id, spec.kind, SPEC.dump_json(spec).decode(), _hashed(idempotency_key, owner),
            request_digest or "-", _milliseconds(IDEMPOTENCY_KEPT_S), self._resend_first_ms, owner or "",
            key_id or "", self._most_unfinished,
        )  # fmt: skip
        if answer[0] == "conflict":
            raise IdempotencyConflict(str(idempotency_key))
        if answer[0] == "full":
            raise TooManyJobs(self._most_unfinished)
        _, created, its_id, record = answer
        return to_view(its_id, record), created == 1

    def get(self, job_id: str) -> JobView:
        """Return the job as it is."""
        answer = self._of(job_id, "get")
        return to_view(job_id, answer[1])

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
        if parent is not None and not is_version(parent):
            return JobPage(jobs=())
        below = f"({cursor}" if cursor is not None and cursor.isdecimal() else "+inf"
        answer = self._call("list", state or "*", kind or "*", below, limit + 1, parent or "", owner or "")
        found = list(zip(answer[1::2], answer[2::2], strict=True))
        page = found[:limit]
        more = len(found) > limit
        return JobPage(
            jobs=tuple(to_view(job_id, record) for job_id, record in page),
            next_cursor=sequence_of(page[-1][1]) if more else None,
        )

    def request_cancel(self, job_id: str) -> JobView:
        """Cancel, or ask the holder to; see `JobStore.request_cancel`."""
        answer = self._of(job_id, "cancel")
        if answer[0] == "final":
            raise JobAlreadyFinal(job_id, answer[1])
        return to_view(job_id, answer[1])

    def request_pause(self, job_id: str) -> JobView:
        """Pause, or ask the holder to; see `JobStore.request_pause`."""
        answer = self._of(job_id, "pause")
        if answer[0] == "final":
            raise JobAlreadyFinal(job_id, answer[1])
        return to_view(job_id, answer[1])

    def resume(self, job_id: str) -> JobView:
        """End a pause; see `JobStore.resume`."""
        answer = self._of(job_id, "resume")
        if answer[0] == "unpaused":
            raise JobNotPaused(job_id, answer[1])
        return to_view(job_id, answer[1])

    def events(self, job_id: str, after: str | None = None, limit: int = 1000) -> Sequence[JobEvent]:
        """Return events in order, from behind `after`."""
        found = self._of(job_id, "events", f"({position(after)}", limit)[1]
        return [to_event(event_id, named(fields)) for event_id, fields in found]

    # --- for those who run them ----------------------------------------------------------------------------

    def acquire(
        self, job_id: str, lease_s: float, max_attempts: int, taker: str | None = None
    ) -> Grant | None:
        """Take the lease; see `JobStore.acquire`."""
        # Also without a taker this call is one: the client sends it twice where its connection dies.
        arguments = (_milliseconds(lease_s), max_attempts, taker or secrets.token_hex(16))
        answer = self._of(job_id, "acquire", *arguments, "")
        if answer[0] == "spent":
            # The words of the failure are made here; the script looks again before it uses them.
            died = WorkerDied(answer[1], answer[2])
            failure = Failure(code=died.code, detail=str(died), remedy=died.remedy)
            answer = self._of(job_id, "acquire", *arguments, failure.model_dump_json())
        if answer[0] != "granted":
            return None
        _, epoch, attempts, spec, parent, ends, owner, key_id = answer
        children = tuple(to_child(child, record) for child, record in zip(ends[::2], ends[1::2], strict=True))
        return Grant(
            job_id,
            epoch,
            attempts,
            SPEC.validate_json(spec),
            parent or None,
            children,
            owner or None,
            key_id or None,
        )

    def renew(self, job_id: str, epoch: int, lease_s: float) -> Signal:
        """Keep the lease for another `lease_s` from now."""
        return _signal(self._held(job_id, epoch, "renew", _milliseconds(lease_s)))

    def look(self, job_id: str, epoch: int) -> Signal:
        """Return what the holder should know, without writing."""
        return _signal(self._held(job_id, epoch, "look"))

    def progress(self, job_id: str, epoch: int, progress: Progress) -> None:
        """Keep the newest progress and tell it as an event."""
        self._held(job_id, epoch, "progress", progress.model_dump_json())

    def note(self, job_id: str, epoch: int, text: str) -> None:
        """Tell something in words as an event."""
        self._held(job_id, epoch, "note", json.dumps({"text": text}))

    def succeed(self, job_id: str, epoch: int, result: JobResult) -> JobState:
        """End the job as succeeded, or as cancelled where that was asked for."""
        return self._finish(job_id, epoch, JobState.SUCCEEDED, "result", result.model_dump_json())

    def fail(self, job_id: str, epoch: int, failure: Failure) -> JobState:
        """End the job as failed, or as cancelled where that was asked for."""
        return self._finish(job_id, epoch, JobState.FAILED, "failure", failure.model_dump_json())

    def cancelled(self, job_id: str, epoch: int) -> JobState:
        """End the job as cancelled."""
        return self._finish(job_id, epoch, JobState.CANCELLED, "", "")

    def release(self, job_id: str, epoch: int, *, died: str | None = None) -> JobState:
        """Put the job back into the queue; see `JobStore.release`."""
        answer = self._held(
            job_id, epoch, "release", "0" if died is None else "1", died or "", self._resend_first_ms
        )
        return JobState(answer[1])

    def wait(self, job_id: str, epoch: int, children: Sequence[tuple[str, JobSpec]]) -> JobState:
        """Create children and wait for them; see `JobStore.wait`."""
        wanted = [(child, spec.kind, SPEC.dump_json(spec).decode()) for child, spec in children]
        return JobState(self._held(job_id, epoch, "wait", json.dumps(wanted), self._resend_first_ms)[1])

    def claim_due(self, limit: int = 50) -> Sequence[str]:
        """Return jobs that need a message; each goes to one caller only."""
        answer = self._call("claim", limit, self._resend_first_ms, self._resend_longest_ms)
        return answer[1:]

    # --- the one way to the script -------------------------------------------------------------------------

    def _finish(self, job_id: str, epoch: int, state: JobState, field: str, value: str) -> JobState:
        return JobState(self._held(job_id, epoch, "finish", state, field, value)[1])

    def _held(self, job_id: str, epoch: int, operation: str, *arguments: str | int) -> Answer:
        answer = self._of(job_id, operation, epoch, *arguments)
        if answer[0] == "lost":
            raise LeaseLost(job_id, epoch)
        return answer

    def _of(self, job_id: str, operation: str, *arguments: str | int) -> Answer:
        # The record's other keys begin as it does: `<id>:events` would be one of them.
        if not is_version(job_id):
            raise JobNotFound(job_id)
        answer = self._call(operation, job_id, *arguments)
        if answer[0] == "missing":
            raise JobNotFound(job_id)
        return answer

    def _call(self, operation: str, *arguments: str | int) -> Answer:
        with answering():
            answer: Answer = self._script(keys=[PREFIX], args=[operation, *arguments])
        return answer


def _signal(answer: Answer) -> Signal:
    return Signal(cancel_requested=answer[1] == 1, pause_requested=answer[2] == 1)


def _hashed(idempotency_key: str | None, owner: str | None) -> str:
    """Return what a request is known again by: two owners with the same key do not meet."""
    if idempotency_key is None:
        return ""
    # No owner's name has a line end.
    text = idempotency_key if owner is None else f"{owner}\n{idempotency_key}"
    return hashlib.sha256(text.encode()).hexdigest()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)

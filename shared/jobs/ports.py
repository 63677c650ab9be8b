"""What the core of jobs needs from outside: a store of records, a way to wake workers, what there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.contracts.datasets import DatasetView
from shared.contracts.jobs import ChildJob, Failure, JobEvent, JobPage, JobResult, JobState, JobView, Progress
from shared.contracts.kept import KeptCollection
from shared.contracts.specs import JobSpec
from shared.contracts.students import StudentCard
from shared.contracts.teachers import TeacherDescription


@dataclass(frozen=True)
class Grant:
    """A lease on a job. `epoch` is the fencing token, larger with each grant; `attempts` counts this one."""

    job_id: str
    epoch: int
    attempts: int
    spec: JobSpec
    parent: str | None = None
    children: tuple[ChildJob, ...] = ()
    """The ends of the jobs that this one made in earlier attempts, in the order of its plan."""
    owner: str | None = None
    key_id: str | None = None
    """The key that it was submitted with, or the job that made it: what it asks teachers counts there."""


@dataclass(frozen=True)
class Signal:
    """What the holder of a lease should know."""

    cancel_requested: bool
    pause_requested: bool = False


class JobStore(Protocol):
    """The record of every job. Each method is atomic; times are the store's own.

    Methods that take an `epoch` belong to the holder of the lease and raise `LeaseLost` once the job was
    granted to another or is not running any more. Methods that take a `job_id` raise `JobNotFound`; all raise
    `JobStoreUnavailable` where the store does not answer within about 2.5 seconds.
    """

    def submit(
        self,
        job_id: str,
        spec: JobSpec,
        idempotency_key: str | None = None,
        request_digest: str = "",
        owner: str | None = None,
        key_id: str | None = None,
    ) -> tuple[JobView, bool]:
        """Create the record, queued; return it and whether it is new.

        A key that came from the same owner with the same digest within 24 hours answers with the job made
        then. Raises `IdempotencyConflict` where it came with another.

        Raises `TooManyJobs` where this owner has `MOST_UNFINISHED` jobs that have not ended, children among
        them; without an owner, as where keys are off, nobody counts.
        """
        ...

    def get(self, job_id: str) -> JobView:
        """Return the job as it is."""
        ...

    def list(
        self,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        parent: str | None = None,
        owner: str | None = None,
    ) -> JobPage:
        """Return jobs, newest first; `cursor` is the `next_cursor` of the page before.

        With `parent` only jobs that this one made, with `owner` only jobs of theirs; none where there is no
        such job, or nobody has any.
        """
        ...

    def acquire(
        self, job_id: str, lease_s: float, max_attempts: int, taker: str | None = None
    ) -> Grant | None:
        """Take the lease where the job is queued or its lease has lapsed; None where there is nothing to do.

        Nothing to do is also a job that was to be cancelled or paused (it is now) or whose attempts are spent
        (it has failed now, with code `worker-died`).

        `taker` is a name that nobody else has, such as a random one. Who does not know whether the store was
        reached asks again by the same name: while that lease lasts, the answer is the grant as it was, for
        another `lease_s` from now, and no attempt is spent.
        """
        ...

    def renew(self, job_id: str, epoch: int, lease_s: float) -> Signal:
        """Keep the lease for another `lease_s` from now. A lapsed lease that nobody took can be kept, too."""
        ...

    def look(self, job_id: str, epoch: int) -> Signal:
        """Return what the holder should know, without writing."""
        ...

    def progress(self, job_id: str, epoch: int, progress: Progress) -> None:
        """Keep the newest progress and tell it as an event."""
        ...

    def note(self, job_id: str, epoch: int, text: str) -> None:
        """Tell something in words as an event."""
        ...

    def succeed(self, job_id: str, epoch: int, result: JobResult) -> JobState:
        """End the job; return the state it ended in. Ending it twice the same way is no error.

        After a cancel was acknowledged every end is `cancelled`; this holds for `fail` and `release` too.
        """
        ...

    def fail(self, job_id: str, epoch: int, failure: Failure) -> JobState:
        """End the job as failed."""
        ...

    def cancelled(self, job_id: str, epoch: int) -> JobState:
        """End the job as cancelled."""
        ...

    def release(self, job_id: str, epoch: int, *, died: str | None = None) -> JobState:
        """Put the job back into the queue; aside, as paused, where that was asked for.

        `died` says of what the attempt died; without it none is spent.
        """
        ...

    def wait(self, job_id: str, epoch: int, children: Sequence[tuple[str, JobSpec]]) -> JobState:
        """Create the jobs as children of this one and give the lease up until all of them have ended.

        They belong to this one's owner.
        Children that exist are left as they are, so that doing it twice makes nothing new; the lease costs no
        attempt. With the end of the last unfinished child the job is queued again, and due at once. A child
        that fails or is cancelled has its unfinished siblings cancelled. While the job waits, its progress
        counts the children that have ended.

        Returns:
            `waiting`; `queued` where no child is unfinished; `paused` where that was asked for, and its
            children with it; `cancelled` where that was asked for, and then no child was made.
        """
        ...

    def request_cancel(self, job_id: str) -> JobView:
        """Cancel at once what nobody holds; ask the holder otherwise. Asking again changes nothing.

        With a job that waits its unfinished children are cancelled.

        Raises `JobAlreadyFinal` for a job that succeeded or failed.
        """
        ...

    def request_pause(self, job_id: str) -> JobView:
        """Pause at once what nobody holds; ask the holder otherwise. Asking again changes nothing.

        With a job that waits its unfinished children are paused. A job that is to be cancelled will be.

        Raises `JobAlreadyFinal` for a job that has ended.
        """
        ...

    def resume(self, job_id: str) -> JobView:
        """Queue a paused job again, due at once, or let it wait again and resume its unfinished children.

        Where its holder was asked to pause and has not, that is withdrawn.

        Raises `JobNotPaused` for any other job.
        """
        ...

    def claim_due(self, limit: int = 50) -> Sequence[str]:
        """Return jobs that need a message: queued for long, or with a lapsed lease.

        A job with a lapsed lease that was to be cancelled or paused needs none: it is now. Each of the others
        is handed to one caller only and comes back after a wait that doubles each time.
        """
        ...

    def events(self, job_id: str, after: str | None = None, limit: int = 1000) -> Sequence[JobEvent]:
        """Return events in order, from behind the one with the id `after`.

        Of a job that runs about 10,000 are kept, of one that has ended the newest 500, its end the last.
        """
        ...


class Dispatcher(Protocol):
    """Wakes a worker. A message is a hint: losing one costs time, never a job."""

    def send(self, job_id: str) -> None:
        """Send the hint; raises `JobStoreUnavailable` where the broker does not take it."""
        ...


class Catalogue(Protocol):
    """What datasets, teachers, students and kept images there are for whoever asks.

    What belongs to somebody else is not found, with the same error as what does not exist.
    """

    def dataset(self, name: str) -> DatasetView:
        """Return the dataset; raises `DatasetNotFound`."""
        ...

    def teacher(self, name: str) -> TeacherDescription:
        """Return the teacher as it is now; raises `TeacherNotFound`."""
        ...

    def student(self, version: str | None) -> StudentCard:
        """Return the card of a student; of the live one for None.

        Raises `StudentNotFound`, or `NoLiveStudent`.
        """
        ...

    def kept(self, collection: str) -> KeptCollection:
        """Return what is kept under a name; raises `KeptNotFound`."""
        ...

    def need_teacher_name(self, name: str) -> None:
        """Raise `TeacherExists` where a teacher of this name is somebody else's."""
        ...

"""What the supervisor and the training process say to each other: JSON, one message a line.

The supervisor puts one `ChildOrder` on the child's standard input. The child writes `ChildMessage`s to its
standard output; its standard error is for logs and passes through. The last message is the result, the
failure or a child job to make, and the exit status says which:

| status | meaning |
| --- | --- |
| 0 | the result was sent; everything it names is on disk |
| 65 | the failure was sent; another attempt would end the same way |
| 75 | stopped on SIGTERM after a checkpoint; another attempt goes on from there |
| 76 | the child jobs to make were sent; once all have ended another attempt goes on with their ends |
| 77 | what it needs is away, a note said what; another attempt may fare better, and this one does not count |
| anything else, or a signal | the process died; the job is tried again, up to its attempts |
"""

from typing import Final

from pydantic import Field, model_validator

from shared.contracts.base import Contract, Name
from shared.contracts.jobs import ChildJob, Failure, JobResult, Progress
from shared.contracts.specs import JobSpec

EXIT_SUCCEEDED: Final = 0
EXIT_FAILED: Final = 65
EXIT_STOPPED: Final = 75
EXIT_WAITING: Final = 76
EXIT_LATER: Final = 77

LONGEST_LINE_BYTES: Final = 1 << 20
"""A line longer than this is dropped with a warning: the protocol has none."""


class ChildOrder(Contract):
    """What to run. `attempts` counts this one.

    `epoch` is the fencing token: before anything goes live the record is asked whether the job still runs in
    it.
    """

    job_id: str
    epoch: int = Field(ge=1)
    attempts: int = Field(ge=1)
    spec: JobSpec
    children: tuple[ChildJob, ...] = ()
    """The ends of the child jobs that earlier attempts made, in the order they were sent."""
    owner: Name | None = None
    """Whose the job is, and so whose everything is that it makes."""
    key_id: str | None = None
    """The key on whose budget goes what it asks teachers; None where it was submitted without one."""


class ChildMessage(Contract):
    """Exactly one of the five. Progress counts from 0 to its total in each stage.

    The metric of rows asked counts the progress of stage `transfer_set` in the unit `rows`.
    """

    progress: Progress | None = None
    note: str | None = None
    result: JobResult | None = None
    failure: Failure | None = None
    child: JobSpec | None = None
    """A child job to make, behind those of the order; a message each, so that no plan is too long for one."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "ChildMessage":
        given = [self.progress, self.note, self.result, self.failure, self.child]
        if sum(value is not None for value in given) != 1:
            raise ValueError("a message carries exactly one of progress, note, result, failure and child")
        return self


def to_line(message: ChildOrder | ChildMessage) -> bytes:
    """Return the message as one line, with its line end."""
    return message.model_dump_json(exclude_none=True).encode() + b"\n"

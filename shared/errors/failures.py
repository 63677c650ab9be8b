"""A stage of a job failed."""

from pathlib import PurePath
from typing import Final

from shared.errors.root import DistillationError

_MOST_ROWS: Final = 12
"""Rows that a message names; the error has all."""


class JobFailed(DistillationError):
    """A stage found that the job cannot end well; the reason is kept in the job record."""


class Diverged(JobFailed):
    """The training loss is not finite any more."""

    remedy = "Lower the learning rate."

    def __init__(self, epoch: int, loss: float, step: int | None = None, *, of: str = "") -> None:
        where = f"epoch {epoch}" if step is None else f"step {step} of epoch {epoch}"
        whose = f" of {of}" if of else ""
        super().__init__(f"the loss{whose} is {loss} in {where}")
        self.epoch = epoch
        self.step = step


class OutOfMemory(JobFailed):
    """Training asked for more memory than the device or the machine has; trying again would ask the same."""

    remedy = "Use a smaller batch, fewer nets together (seeds, members, trials) or smaller nets."

    def __init__(self, reason: str) -> None:
        super().__init__(f"there is not enough memory for this job: {reason}")
        self.reason = reason


class ChildFailed(JobFailed):
    """A child job did not succeed, so its parent cannot. `reason` says how it ended."""

    def __init__(self, job_id: str, kind: str, reason: str, remedy: str) -> None:
        super().__init__(f"child job {job_id!r} of kind {kind!r} {reason}", remedy=remedy)
        self.job_id = job_id


class DeviceMissing(JobFailed):
    """A device is asked for by setting that this machine does not have."""

    remedy = "Set the service's DEVICE setting to 'auto' or 'cpu', or run it where there is a GPU."

    def __init__(self, device: str) -> None:
        super().__init__(f"device {device!r} is asked for, and this machine has none")
        self.device = device


class BiasRepairFailed(JobFailed):
    """No class biases bring the student's mean softmax mass to the shares asked for."""

    remedy = "Look at the prior: every class needs a share, and images of every class should be at hand."

    def __init__(self, reason: str) -> None:
        super().__init__(f"class biases cannot be repaired: {reason}")


class ExtraMissing(JobFailed):
    """An optional library that something asked for needs cannot be imported where the job runs."""

    def __init__(self, library: str, reason: str) -> None:
        extra = {"timm": "timm", "s3fs": "s3", "fsspec": "s3"}.get(library, "transformers")
        also = "; timm also needs the torchvision build that belongs to the installed torch"
        super().__init__(
            f"{library} cannot be imported here: {reason}",
            remedy=f"Install Imago with the extra {extra!r}, such as `pip install imago[worker,{extra}]`"
            f"{also if extra != 's3' else ''}.",
        )
        self.library = library


class ParityFailed(JobFailed):
    """The exported student does not answer as the trained one does."""

    remedy = "Report this with the job's id; the checkpoint is kept."

    def __init__(self, largest_difference: float, tolerance: float) -> None:
        super().__init__(
            f"ONNX and PyTorch logits differ by {largest_difference:.2e}, more than {tolerance:.0e} allows"
        )
        self.largest_difference = largest_difference


class TeacherAnswerInvalid(JobFailed):
    """The teacher answered something that cannot be soft targets.

    `batch` says of which request, counted from 0, where several were sent.
    """

    remedy = "Look at the teacher service's logs."
    batch: int | None = None


class TeacherUnfit(JobFailed):
    """A teacher failed checks without which nothing good can come of it; `failed` are they, in words."""

    def __init__(self, name: str, failed: tuple[str, ...], advice: tuple[str, ...]) -> None:
        super().__init__(
            f"teacher {name!r} failed {len(failed)} of its checks: {'; '.join(failed)}",
            remedy=" ".join(filter(None, advice)),
        )
        self.name = name
        self.failed = failed


class CachedAnswersDiffer(JobFailed):
    """Answers in the store are not what the teacher says now, though its digest is the same.

    `rows` are the numbers of the rows in the transfer set; `largest_difference` is that of two logits.
    """

    remedy = (
        "Find out which is wrong: a teacher that answers by another device, runtime or library, or a stored "
        "set. Delete the transfer sets of this teacher, or give it a new name, and submit the job again."
    )

    def __init__(
        self, asked: int, rows: tuple[int, ...], largest_difference: float, tolerance: float
    ) -> None:
        shown = ", ".join(map(str, rows[:_MOST_ROWS])) + (", …" if len(rows) > _MOST_ROWS else "")
        super().__init__(
            f"{len(rows)} of {asked} cached rows that were asked again are not what the teacher says now: "
            f"they differ by up to {largest_difference:.3g}, where {tolerance:.3g} would be rounding (rows "
            f"{shown})"
        )
        self.asked = asked
        self.rows = rows
        self.largest_difference = largest_difference


class Corrupt(JobFailed):
    """A stored artefact does not have the digest that its manifest states."""

    remedy = "Delete the artefact and run the job again."

    def __init__(self, path: str) -> None:
        # Clients see the message: it names the artefact, not where this machine keeps it.
        artefact = "/".join(PurePath(path).parts[-3:])
        super().__init__(f"{artefact} does not have the digest that its manifest states")
        self.path = path


class WorkerDied(JobFailed):
    """The training process died more often than a job may be attempted."""

    remedy = "Look at the worker's logs; a job that needs more memory than there is dies like this."

    def __init__(self, attempts: int, reason: str) -> None:
        super().__init__(f"the job was given up after {attempts} attempts: {reason}")
        self.attempts = attempts


class OomKilled(WorkerDied):
    """The kernel killed the training process for lack of memory as often as a job may be attempted."""

    remedy = (
        "Use a smaller batch, fewer nets together (seeds, members, trials) or smaller nets; or give the "
        "worker more memory, or fewer jobs at a time (WORKER_CONCURRENCY)."
    )

"""The state of things forbids it; another order of steps would do."""

from shared.errors.root import DistillationError


class Conflict(DistillationError):
    """The request is fine, the state of things forbids it."""


class IdempotencyConflict(Conflict):
    """An idempotency key came back with another body."""

    remedy = "Use a new Idempotency-Key for a new request."

    def __init__(self, key: str) -> None:
        super().__init__(f"Idempotency-Key {key!r} was used before with another body")
        self.key = key


class JobAlreadyFinal(Conflict):
    """A finished job cannot change any more."""

    remedy = "Submit a new job."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id!r} is already {state}")
        self.job_id = job_id
        self.state = state


class JobNotPaused(Conflict):
    """Only a job that is paused, or was asked to pause, can be resumed."""

    remedy = "Look at its state with GET /v1/jobs/{id}; pause it with POST /v1/jobs/{id}/pause."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id!r} is {state}, not paused")
        self.job_id = job_id
        self.state = state


class DatasetExists(Conflict):
    """The name belongs to a dataset with other content, or of another owner; which, is not told."""

    remedy = "Choose another name."

    def __init__(self, name: str) -> None:
        super().__init__(f"there already is a dataset {name!r} with other content or of another owner")
        self.name = name


class TeacherExists(Conflict):
    """The name belongs to a teacher of another owner."""

    remedy = "Choose another name."

    def __init__(self, name: str) -> None:
        super().__init__(f"there already is a teacher {name!r} of another owner")
        self.name = name


class TransferSetInUse(Conflict):
    """A transfer set is to be deleted while jobs that may read it, or are filling it, have not ended."""

    remedy = "Wait for their end, or cancel them with POST /v1/jobs/{id}/cancel; then delete the set again."

    def __init__(self, digest: str, job_ids: tuple[str, ...], most: int = 12) -> None:
        # None are named where they are another owner's.
        named = ", ".join(job_ids[:most]) + (", …" if len(job_ids) > most else "") or "another owner's"
        super().__init__(
            f"transfer set {digest[:12]} cannot be deleted: jobs that may use it have not ended: {named}"
        )
        self.digest = digest
        self.job_ids = job_ids


class StudentInUse(Conflict):
    """A student is to be deleted that answers predictions, or that the traffic policy or a job names."""

    remedy = "Promote another student, take it out of the policy with PUT /v1/traffic, or wait for the jobs."

    def __init__(self, version: str, use: str) -> None:
        super().__init__(f"student {version!r} cannot be deleted: {use}")
        self.version = version
        self.use = use


class TrafficRefused(Conflict):
    """A part of a traffic policy cannot hold with the students that there are."""

    def __init__(self, part: str, reason: str, remedy: str) -> None:
        super().__init__(f"the policy's {part} cannot hold: {reason}", remedy=remedy)
        self.part = part
        self.reason = reason


class RevisionMismatch(Conflict):
    """The traffic policy was changed since the one that is to be replaced was read."""

    remedy = "Read it again with GET /v1/traffic, and send If-Match with its ETag."

    def __init__(self, revision: int, given: str) -> None:
        super().__init__(f"the traffic policy is at revision {revision}, and If-Match is {given[:40]!r}")
        self.revision = revision


class CannotRedistil(Conflict):
    """A student whose order cannot be repeated on kept images."""

    remedy = "Name a student that a job of kind 'distillation' or 'sweep' made."

    def __init__(self, version: str, reason: str, *, remedy: str | None = None) -> None:
        super().__init__(f"student {version!r} cannot be distilled again: {reason}", remedy=remedy)
        self.version = version


class NothingNewKept(Conflict):
    """A collection without any image that a student could learn from and has not learned from yet."""

    remedy = "Let gateways keep more: GET /v1/kept/{collection} tells how many there are."

    def __init__(self, collection: str, reason: str) -> None:
        super().__init__(f"{collection!r} has no image to learn from: {reason}")
        self.collection = collection


class NothingToRollBack(Conflict):
    """No earlier student was ever live."""

    remedy = "Promote a student by its version instead."

    def __init__(self) -> None:
        super().__init__("no student was live before the present one")


class NoLiveStudent(Conflict):
    """Predictions are asked for and no student has been promoted."""

    remedy = "Promote one: POST /v1/students/{version}/promote."

    def __init__(self) -> None:
        super().__init__("no student has been promoted yet")


class StudentUnusable(Conflict):
    """A student's bundle does not load, or does not answer as its card says."""

    remedy = "Promote another version, or run the distillation again."

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"student {version!r} cannot be used: {reason}")
        self.version = version
        self.reason = reason


class NoMeasuredGain(Conflict):
    """Specialists are to go live, and by their report they are no better than their generalist alone."""

    remedy = "Promote a student of the generalist, or train other specialists; the report shows the gain."

    def __init__(self, version: str, gain: float, verdict: str) -> None:
        super().__init__(
            f"student {version!r} would ask its specialists for nothing: their measured gain over the "
            f"generalist is {100 * gain:+.2f} points of accuracy, {verdict}"
        )
        self.version = version
        self.gain = gain


class LeaseLost(Conflict):
    """The holder of a job's lease has been replaced; it may write nothing more."""

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(f"the lease on job {job_id!r} at epoch {epoch} is no longer ours")
        self.job_id = job_id
        self.epoch = epoch


class TeacherChanged(Conflict):
    """The digest is not the one the job was pinned to, or what answers for a teacher is not what it was."""

    remedy = "Submit the job again: it will be pinned to the teacher as it is now."

    def __init__(
        self, name: str, expected: str, found: str, *, reason: str = "", remedy: str | None = None
    ) -> None:
        why = reason or f"expected digest {expected[:12]}, found {found[:12]}"
        super().__init__(f"teacher {name!r} changed: {why}", remedy=remedy)
        self.name = name

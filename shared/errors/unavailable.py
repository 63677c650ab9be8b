"""A part of the system is not able right now; trying again may help."""

from pathlib import PurePath

from shared.errors.root import DistillationError


class Unavailable(DistillationError):
    """A part of the system cannot answer now; trying later may help. `retry_after_s` is in seconds."""

    retry_after_s: float = 1.0
    remedy = "Try again after the time in Retry-After."


class QueueFull(Unavailable):
    """More waits than the bounded queue takes."""

    def __init__(self, what: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"the queue of {what} is full: its limit is {limit}")
        self.retry_after_s = retry_after_s


class JobStoreUnavailable(Unavailable):
    """Redis does not answer."""

    _TOLD = "the job store does not answer"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self._TOLD}: {reason}")
        self.reason = reason

    @property
    def told(self) -> str:
        """Without the reason, which names hosts, users and commands of Redis."""
        return self._TOLD


class TeacherUnavailable(Unavailable):
    """The teacher service does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the teacher does not answer: {reason}")


class StoreFull(Unavailable):
    """Nothing more fits where something is to be stored; what is there stays as it is."""

    remedy = (
        "Make room, such as by deleting transfer sets, and submit again: stored answers of teachers are used "
        "again, a training begins anew."
    )
    retry_after_s = 60.0

    def __init__(self, path: str, *, remedy: str | None = None) -> None:
        # As of `Corrupt`: the artefact is named, not where this machine keeps it.
        named = "/".join(PurePath(path).parts[-2:])
        super().__init__(f"there is no room left to store {named}", remedy=remedy)
        self.path = path


class TransferSetsUnavailable(Unavailable):
    """The place where transfer sets are kept does not answer, or has `refused`."""

    remedy = "Look at IMAGO_TRANSFER_SETS_URL and at the credentials in the environment of the service."
    retry_after_s = 10.0

    def __init__(self, url: str, reason: str, *, refused: bool = False) -> None:
        super().__init__(f"the transfer sets at {url} cannot be reached: {reason}")
        self.url = url
        self.reason = reason
        self.refused = refused

    @property
    def told(self) -> str:
        """Without the address and the words of the library that asks there."""
        return "the transfer sets cannot be reached"


class StudentNotLoaded(Unavailable):
    """A student is promoted, but this process could not load it and has no earlier one."""

    remedy = "Roll back or promote another version; GET /health/ready says what is wrong with this one."
    retry_after_s = 5.0

    def __init__(self, reason: str) -> None:
        super().__init__(f"the live student is not loaded: {reason}")
        self.reason = reason


class DeadlineExceeded(Unavailable):
    """There was no answer within the time that the client said it would wait."""

    remedy = "Allow more time, or send fewer images in one request."

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"there was no answer within the {1000 * deadline_s:.0f} ms that were given")
        self.deadline_s = deadline_s


class ShuttingDown(Unavailable):
    """The service is draining and takes no new work."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")

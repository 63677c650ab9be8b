"""Who asks is not known, may not, or asks too much."""

from collections.abc import Sequence

from shared.errors.missing import NotFound
from shared.errors.root import DistillationError
from shared.errors.unavailable import Unavailable


class Unauthenticated(DistillationError):
    """No key, or none that is valid; which of both is not told apart."""

    remedy = "Send `Authorization: Bearer KEY` with a key from `imago keys create`, not expired or revoked."

    def __init__(self) -> None:
        super().__init__("the request has no valid key")


class ScopeMissing(DistillationError):
    """The key is valid, and does not allow this."""

    def __init__(self, needed: str, has: Sequence[str]) -> None:
        super().__init__(
            f"this needs the scope {needed!r}; the key has {', '.join(has)}",
            remedy=f"Ask an administrator for a key with the scope {needed!r}.",
        )
        self.needed = needed


class RateExceeded(Unavailable):
    """The key asks faster than it may."""

    def __init__(self, per_second: float, retry_after_s: float) -> None:
        super().__init__(f"the key may ask {per_second:g} times a second")
        self.retry_after_s = retry_after_s


class QuotaExceeded(Unavailable):
    """The key has asked as often as it may on one day."""

    remedy = "Try again after midnight UTC, or ask an administrator for a larger quota."

    def __init__(self, per_day: int, retry_after_s: float) -> None:
        super().__init__(f"the key may ask {per_day} times a day")
        self.retry_after_s = retry_after_s


class TooManyJobs(Unavailable):
    """Its owner has as many jobs as one may have that have not ended."""

    remedy = "Wait for some to end, or cancel some: GET /v1/jobs lists them. Then submit again."
    retry_after_s = 60.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"there are {limit} jobs of yours that have not ended, as many as there may be")
        self.limit = limit


class TeacherBudgetSpent(DistillationError):
    """The key has asked teachers as much as it may in its whole life."""

    remedy = "Ask an administrator for a key with a larger budget (`teacher_rows`)."

    def __init__(self, budget: int, left: int, asked: int) -> None:
        super().__init__(f"the key may ask teachers {budget} images, has {left} left and asked {asked}")
        self.budget = budget
        self.left = left
        self.asked = asked


class BudgetNotCounted(DistillationError):
    """The key has a budget for what teachers say, and here nobody counts it."""

    remedy = (
        "Ask the teacher service, which counts; or ask an administrator for a key without `teacher_rows`. "
        "Without `cascade=` the student answers, and the traffic policy decides."
    )

    def __init__(self, budget: int) -> None:
        super().__init__(
            f"`cascade=` would show what a teacher says; the key may ask teachers {budget} images in its "
            "whole life, which are counted at the teacher service alone"
        )
        self.budget = budget


class KeyNotFound(NotFound):
    """There is no key with this id."""

    remedy = "GET /v1/keys lists the keys."

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r}")
        self.key_id = key_id
